//! How a process ends, and that nothing of it stays.

use crate::kit::*;
use domain::outcome::FailureKind;
use provider_gateway::executor::{Executor, Signal};
use serde_json::json;
use std::fs;

#[tokio::test]
async fn the_exit_code_is_the_programs_own() {
    let rig = Rig::new();
    let (facts, _) = rig.run_command(json!(["true"])).await;
    assert_eq!((facts.code, facts.signal, facts.failure()), (Some(0), None, None));
    assert!(facts.started_at.is_some() && facts.ended_at >= facts.started_at);
    let (facts, _) = rig.run_command(json!("exit 7")).await;
    assert_eq!((facts.code, facts.signal), (Some(7), None));
    let (facts, _) = rig.run_command(json!("kill -SEGV $$")).await;
    assert_eq!((facts.code, facts.signal, facts.oom), (Some(139), Some(11), false));
}

#[tokio::test]
async fn the_cost_of_a_run_is_told() {
    let rig = Rig::new();
    let (facts, _) = rig.run_command(json!("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")).await;
    let cpu_ms = facts.cpu_ms.expect("measured");
    assert!(cpu_ms > 20 && cpu_ms <= facts.duration_ms + 20, "{facts:?}");
    assert!(facts.peak_memory_bytes.expect("measured") > 100_000, "{facts:?}");
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_with_127_and_says_where_it_was_looked_for() {
    let rig = Rig::new();
    let job = rig.job_of(json!({ "command": ["python3x"], "env": { "PATH": "/opt/none:/usr/bin" } }));
    let facts = rig.run(&job).await;
    assert_eq!((facts.code, facts.failure()), (Some(127), Some(FailureKind::ExitNonzero)));
    assert_eq!(notes(&job), "python3x: not found on this node (PATH /opt/none:/usr/bin)\n");
}

#[tokio::test]
async fn a_file_that_is_no_program_ends_with_126() {
    let rig = Rig::new();
    let job = rig.job(json!(["/etc/passwd"]));
    assert_eq!(rig.run(&job).await.code, Some(126));
    assert!(notes(&job).contains("may not be executed"), "{}", notes(&job));
    let job = rig.job_of(json!({ "command": ["true"], "workdir": "/workspace/src" }));
    let facts = rig.run(&job).await;
    assert_eq!(facts.code, Some(126));
    assert!(notes(&job).contains("/workspace/src does not exist in the code"), "{}", notes(&job));
    // Also where the log is not looked at.
    assert_eq!(facts.not_started.as_deref(), Some(notes(&job).trim_end()));
}

#[tokio::test]
async fn a_stop_is_the_signal_of_the_spec_and_lets_the_process_finish() {
    let rig = Rig::new();
    let line = "trap 'echo bye; exit 5' USR2; echo ready; while :; do sleep 0.01; done";
    let job = rig.job_of(json!({ "command": line, "stop": { "signal": "SIGUSR2" } }));
    rig.start(&job).await;
    let collecting = rig.executor.collect(&job);
    let stopping = async {
        until("the trap is set", || stdout(&job).contains("ready")).await;
        rig.executor.signal(&job, Signal::Stop).await;
    };
    let (facts, ()) = within(async { tokio::join!(collecting, stopping) }).await;
    assert_eq!(facts.expect("collected").code, Some(5));
    assert_eq!(stdout(&job), "ready\nbye\n");
    // A signal that comes late is fine.
    rig.executor.signal(&job, Signal::Kill).await;
}

#[tokio::test]
async fn a_tree_that_ignores_the_stop_is_killed_with_its_daemons() {
    for own_users in [true, false] {
        let rig = Rig::with(|settings| settings.own_users = own_users);
        let marker = marker();
        // Two sessions of their own, one of them orphaned at once, and all of them deaf.
        let line = format!(
            "trap '' TERM; (setsid sh -c \"trap '' TERM; sleep {marker}; :\" &) ; setsid sleep {marker} & sleep {marker}; sleep {marker}"
        );
        let job = rig.job(json!(line));
        rig.start(&job).await;
        until("all are there", || count_marked(&marker) >= 5).await;
        rig.executor.signal(&job, Signal::Stop).await;
        rig.executor.signal(&job, Signal::Kill).await;
        let facts = within(rig.executor.collect(&job)).await.expect("collected");
        assert_eq!((facts.code, facts.signal), (Some(137), Some(9)));
        assert_eq!(count_marked(&marker), 0);
    }
}

#[tokio::test]
async fn daemons_do_not_outlive_the_main_process() {
    let rig = Rig::new();
    let marker = marker();
    let (facts, out) = rig.run_command(json!(format!("(setsid sleep {marker} &); echo done; exit 3"))).await;
    assert_eq!((facts.code, out.as_str()), (Some(3), "done\n"));
    assert_eq!(count_marked(&marker), 0);
}

#[tokio::test]
async fn a_fork_bomb_stays_small_and_goes() {
    if !is_root() {
        // Without a user of its own its only bound is that of the agent's user.
        return;
    }
    let rig = Rig::with(|settings| settings.max_processes = 150);
    let marker = marker();
    let job =
        rig.job(json!(format!("bomb() {{ bomb & bomb & sleep {marker}; }}; bomb 2>/dev/null & exec sleep {marker}")));
    rig.start(&job).await;
    until("it explodes", || count_marked(&marker) > 60).await;
    assert!(count_marked(&marker) <= 150);
    rig.executor.signal(&job, Signal::Kill).await;
    assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").signal, Some(9));
    assert_eq!(count_marked(&marker), 0);
}

#[tokio::test]
async fn a_chain_that_forks_into_new_sessions_and_ends_is_caught() {
    for own_users in [true, false] {
        let rig = Rig::with(|settings| settings.own_users = own_users);
        let marker = marker();
        let job = rig.job(json!(format!(
            "hop='setsid sh -c \"$0\" \"$0\" {marker} &'; sh -c \"$hop\" \"$hop\"; sleep {marker}"
        )));
        rig.start(&job).await;
        until("it hops", || count_marked(&marker) >= 2).await;
        rig.executor.signal(&job, Signal::Kill).await;
        within(rig.executor.collect(&job)).await.expect("collected");
        assert_eq!(count_marked(&marker), 0);
    }
}

#[tokio::test]
async fn a_tree_over_its_memory_is_killed_and_told_so() {
    let rig = Rig::with(|settings| settings.memory_period = std::time::Duration::from_millis(20));
    // The hungry one is not the main process.
    let job =
        rig.job_of(json!({ "command": "tail /dev/zero & wait; sleep 60", "requirements": { "memory": "64MiB" } }));
    let facts = rig.run(&job).await;
    assert_eq!((facts.oom, facts.failure()), (true, Some(FailureKind::OutOfMemory)));
    assert!(facts.peak_memory_bytes > Some(64 << 20), "{facts:?}");
    assert!(notes(&job).contains("more than their 64 MiB of memory"), "{}", notes(&job));
}

#[tokio::test]
async fn removing_deletes_whatever_there_is_and_may_be_repeated() {
    let rig = Rig::new();
    let line =
        "mkdir -p a/b/c && echo x > a/b/c/file && chmod 000 a/b/c a/b a && mkdir t && cd t && seq 2000 | xargs touch";
    let job = rig.job(json!(line));
    assert_eq!(rig.run(&job).await.code, Some(0));
    rig.executor.remove(&job).await.expect("removed");
    let left: Vec<_> =
        fs::read_dir(&job.dir).expect("the directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["process"]);
    assert_eq!(fs::metadata(job.dir.join("process")).expect("there").len(), 0, "nothing is said in it any more");
    rig.executor.remove(&job).await.expect("removed again");
}

#[tokio::test]
async fn removing_ends_what_still_runs() {
    let rig = Rig::new();
    let marker = marker();
    let job = rig.job(json!(format!("setsid sleep {marker} & sleep {marker}")));
    rig.start(&job).await;
    until("both are there", || count_marked(&marker) >= 2).await;
    within(rig.executor.remove(&job)).await.expect("removed");
    assert_eq!(count_marked(&marker), 0);
}

#[tokio::test]
async fn a_name_that_is_no_text_hides_no_process() {
    for own_users in [true, false] {
        for has_supervisor in [true, false] {
            let rig = Rig::with(|settings| settings.own_users = own_users);
            let marker = marker();
            let line = "name=$(printf '\\377x'); cp \"$(command -v sleep)\" \"$name\"; (setsid \"./$name\" \"$M\" &); while [ ! -e go ]; do sleep 0.01; done";
            let job = rig.job_of(json!({ "command": line, "env": { "M": marker } }));
            rig.start(&job).await;
            until("it is there", || count_marked(&marker) == 1).await;
            if has_supervisor {
                std::fs::write(job.dir.join("work/go"), "").expect("told to end");
                assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(0));
            } else {
                let supervisor = supervisor(&job.dir).expect("it is supervised");
                nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).expect("killed");
                assert!(within(rig.executor.collect(&job)).await.is_err(), "nobody saw the end");
            }
            within(rig.executor.remove(&job)).await.expect("removed");
            assert_eq!(count_marked(&marker), 0, "{own_users} {has_supervisor}");
        }
    }
}
