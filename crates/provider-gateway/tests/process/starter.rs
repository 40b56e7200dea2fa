//! The process that forks supervisors: who goes on without whom.

use crate::kit::*;
use nix::sys::signal::{Signal, kill};
use provider_gateway::executor::Executor;
use serde_json::json;

#[tokio::test]
async fn what_a_starter_has_begun_outlives_it_and_the_next_attempt_gets_another() {
    let rig = Rig::new();
    let first = rig.job(json!("echo before; while [ ! -e go ]; do sleep 0.01; done; echo after; exit 9"));
    rig.start(&first).await;
    let killed = starter(&first.dir);
    kill(killed, Signal::SIGKILL).expect("killed");
    until("it is gone", || !is_starter(killed)).await;

    let second = rig.job(json!("echo second; while [ ! -e go ]; do sleep 0.01; done"));
    rig.start(&second).await;
    assert_ne!(starter(&second.dir), killed);
    for (job, code, said) in [(&first, 9, "before\nafter\n"), (&second, 0, "second\n")] {
        std::fs::write(job.dir.join("work/go"), "").expect("told to go on");
        assert_eq!(within(rig.executor.collect(job)).await.expect("collected").code, Some(code));
        assert_eq!(stdout(job), said);
        rig.executor.exit_is_kept(job);
        within(rig.executor.remove(job)).await.expect("removed");
    }
}

#[tokio::test]
async fn a_starter_goes_with_its_agent_and_what_it_has_begun_goes_on() {
    let mut rig = Rig::new();
    let job = rig.job(json!("while [ ! -e go ]; do sleep 0.01; done; exit 7"));
    rig.start(&job).await;
    let starter = starter(&job.dir);
    rig.executor = rig.another_agent();
    until("it is gone", || !is_starter(starter)).await;
    let job = reopened(job);
    assert!(!has_ended(&job.dir), "its supervisor is not the starter");
    std::fs::write(job.dir.join("work/go"), "").expect("told to go on");
    assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(7));
}

#[tokio::test]
async fn what_a_starter_was_told_and_never_did_is_done_once_by_the_next() {
    let rig = Rig::new();
    let first = rig.job(json!("while [ ! -e go ]; do sleep 0.01; done"));
    rig.start(&first).await;
    let stuck = starter(&first.dir);
    kill(stuck, Signal::SIGSTOP).expect("stopped");
    let second = rig.job(json!("echo once"));
    rig.executor.prepare(&second).await.expect("prepared");
    // The start is polled first: by the time of the kill it is on its way to who will not read it.
    let (started, ()) = within(async {
        tokio::join!(rig.executor.start(&second), async { kill(stuck, Signal::SIGKILL).expect("killed") })
    })
    .await;
    started.expect("begun all the same");
    assert_eq!(within(rig.executor.collect(&second)).await.expect("collected").code, Some(0));
    assert_eq!(stdout(&second), "once\n");
}

#[tokio::test]
async fn the_longest_spec_arrives_whole() {
    let rig = Rig::new();
    let long = "x".repeat(31_000);
    let job = rig.job_of(json!({ "command": "printf %s \"$A\" | wc -c; printf %s \"$B\" | wc -c",
        "env": { "A": long, "B": &long[1..] } }));
    assert_eq!(rig.run(&job).await.code, Some(0));
    assert_eq!(stdout(&job), "31000\n30999\n");
}

#[tokio::test]
async fn many_attempts_at_once_have_a_supervisor_each() {
    let rig = Rig::new();
    let jobs: Vec<_> = (0..40).map(|number| rig.job(json!(format!("echo {number}; exit {number}")))).collect();
    let runs = jobs.iter().map(|job| async {
        let code = rig.run(job).await.code;
        rig.executor.exit_is_kept(job);
        rig.executor.remove(job).await.expect("removed");
        code
    });
    let codes = within(futures::future::join_all(runs)).await;
    assert_eq!(codes, (0..40).map(Some).collect::<Vec<_>>());
    for (number, job) in jobs.iter().enumerate() {
        assert_eq!(stdout(job), format!("{number}\n"));
    }
}
