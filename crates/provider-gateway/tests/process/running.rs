//! Getting ready and starting.

use crate::kit::*;
use domain::node::Condition;
use provider_gateway::executor::Executor;
use serde_json::json;

#[tokio::test]
async fn a_process_runs_in_the_tree_of_its_commit() {
    let rig = Rig::new();
    let job = rig.job_of(json!({
        "executor": "process",
        "source": { "code_repo_url": "https://git.example/lab/x.git", "code_commit_id": "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432" },
        "command": "cat origin; [ \"$PWD\" = \"$HOME\" ] && echo ' home'; echo changed > origin",
    }));
    let prepared = rig.executor.prepare(&job).await.expect("prepared");
    assert_eq!(prepared.provenance["code"]["commit"], "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432");
    assert_eq!(rig.executor.prepare(&job).await.expect("repeated"), prepared);
    let facts = rig.run(&job).await;
    assert_eq!((facts.code, stdout(&job).as_str()), (Some(0), "https://git.example/lab/x.git home\n"));
    assert_eq!(notes(&job), "fetched\nthe submodule vendor/x is not there\n");
}

#[tokio::test]
async fn a_missing_supervisor_is_the_nodes_fault_and_says_what_to_do() {
    let rig = Rig::with(|settings| settings.shim = Some("/opt/none/unidesk-shim".into()));
    let refusal = rig.executor.prepare(&rig.job(json!(["true"]))).await.expect_err("there is none");
    assert!(
        refusal.message.contains("/opt/none/unidesk-shim") && refusal.message.contains("Install"),
        "{}",
        refusal.message
    );
}

#[tokio::test]
async fn a_full_disk_is_a_condition_of_the_node() {
    assert_eq!(Rig::with(|settings| settings.disk.full_percent = 0).executor.health().await, Some(Condition::DiskFull));
    assert_eq!(Rig::with(|settings| settings.disk.full_percent = 101).executor.health().await, None);
}

#[tokio::test]
async fn many_at_once_end_as_they_should() {
    let rig = Rig::new();
    let jobs: Vec<_> = (0..40).map(|n| rig.job(json!(format!("echo {n}; exit {n}")))).collect();
    let all = futures::future::join_all(jobs.iter().map(|job| rig.run(job)));
    for (n, facts) in all.await.into_iter().enumerate() {
        assert_eq!(facts.code, Some(n as i32));
        assert_eq!(stdout(&jobs[n]), format!("{n}\n"));
    }
}

#[tokio::test]
async fn in_directories_that_were_left_as_made_an_attempt_is_ready_at_once_and_in_none_others() {
    let rig = Rig::new();
    let first = rig.job(json!("echo first"));
    assert!(rig.executor.prepare_at_once(&first).is_none(), "there are none yet");
    assert_eq!(rig.run(&first).await.code, Some(0));
    rig.executor.exit_is_kept(&first);
    within(rig.executor.remove(&first)).await.expect("removed");

    let second = rig.job(json!("pwd; ls -A . $TMPDIR; [ -w . ] && echo mine; touch left"));
    let second = provider_gateway::executor::Job { dir: first.dir.clone(), ..second };
    rig.executor.prepare_at_once(&second).expect("they are there").expect("and good");
    rig.executor.start(&second).await.expect("started");
    assert_eq!(within(rig.executor.collect(&second)).await.expect("collected").code, Some(0));
    let work = second.dir.join("work");
    assert_eq!(stdout(&second), format!("{0}\n.:\n\n{1}:\nmine\n", work.display(), second.dir.join("tmp").display()));
    rig.executor.exit_is_kept(&second);
    within(rig.executor.remove(&second)).await.expect("removed");

    let third = provider_gateway::executor::Job { dir: first.dir.clone(), ..rig.job(json!("true")) };
    assert!(rig.executor.prepare_at_once(&third).is_none(), "what the second one left is gone, and so are they");
}
