//! The agent ends, the process does not notice.

use crate::kit::*;
use domain::outcome::FailureKind;
use protocol::Stream;
use provider_gateway::executor::{Adopted, Executor, Signal};
use serde_json::json;

#[tokio::test]
async fn a_new_agent_finds_the_process_and_misses_no_byte() {
    let mut rig = Rig::new();
    let job =
        rig.job(json!("seq 1 5000; echo half >&2; while [ ! -e go ]; do sleep 0.01; done; seq 5001 9000; exit 9"));
    assert_eq!(rig.executor.adopt(&job).await, Adopted::NotStarted);
    rig.start(&job).await;
    let half = until("half of it is collected", || bytes(&job, Stream::Stderr) == b"half\n");
    tokio::select! {
        () = half => {}
        facts = rig.executor.collect(&job) => panic!("it ended early: {facts:?}"),
    }
    rig.executor = rig.another_agent();
    let job = reopened(job);
    assert_eq!(rig.executor.adopt(&job).await, Adopted::Running);
    // Starting what runs changes nothing.
    rig.executor.start(&job).await.expect("it runs");
    std::fs::write(job.dir.join("work/go"), "").expect("told to go on");
    let facts = within(rig.executor.collect(&job)).await.expect("collected");
    assert_eq!(facts.code, Some(9));
    let expected: String = (1..=9_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(stdout(&job), expected);
    assert_eq!(bytes(&job, Stream::Stderr), b"half\n");
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_truly() {
    let mut rig = Rig::new();
    let job = rig.job(json!("echo out; echo err >&2; exit 42"));
    rig.start(&job).await;
    rig.executor = rig.another_agent();
    until("it has ended", || has_ended(&job.dir)).await;
    let job = reopened(job);
    assert_eq!(rig.executor.adopt(&job).await, Adopted::Exited);
    for _ in 0..2 {
        // Also when the agent ends again before it could report.
        assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(42));
        assert_eq!((stdout(&job).as_str(), bytes(&job, Stream::Stderr)), ("out\n", b"err\n".to_vec()));
    }
}

#[tokio::test]
async fn what_a_power_loss_took_of_the_output_is_said_in_the_log_and_the_end_still_counts() {
    for zeroed in [false, true] {
        let mut rig = Rig::new();
        let job = rig.job(json!("echo first; sleep 0.3; echo second; exit 6"));
        rig.start(&job).await;
        rig.executor = rig.another_agent();
        until("it has ended", || has_ended(&job.dir)).await;
        // The page with its end was on disk, that with its last words was not.
        let state = std::fs::File::options().write(true).open(job.dir.join("process")).expect("opened");
        let length = state.metadata().expect("there").len();
        state.set_len(8_192 + 5 + 6).expect("cut");
        if zeroed {
            state.set_len(length).expect("grown");
        }
        let job = provider_gateway::executor::Job { is_of_earlier_boot: true, ..reopened(job) };
        assert_eq!(rig.executor.adopt(&job).await, Adopted::Exited);
        assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(6));
        assert_eq!(stdout(&job), "first\n");
        let notes = String::from_utf8(bytes(&job, Stream::System)).expect("text");
        assert!(notes.contains("12 B of output were lost"), "{notes:?}");
        within(rig.executor.remove(&job)).await.expect("removed");
    }
}

#[tokio::test]
async fn a_new_agent_can_stop_what_an_old_one_started() {
    let mut rig = Rig::new();
    let marker = marker();
    let job = rig.job(json!(format!("sleep {marker}")));
    rig.start(&job).await;
    rig.executor = rig.another_agent();
    rig.executor.signal(&job, Signal::Stop).await;
    let facts = within(rig.executor.collect(&job)).await.expect("collected");
    assert_eq!((facts.code, facts.signal), (Some(143), Some(15)));
    assert_eq!(count_marked(&marker), 0);
}

#[tokio::test]
async fn without_its_supervisor_an_attempt_is_gone_and_so_are_its_processes() {
    for own_users in [true, false] {
        let mut rig = Rig::with(|settings| settings.own_users = own_users);
        let marker = marker();
        let job = rig.job(json!(format!("(setsid sleep {marker} &); sleep {marker}")));
        rig.start(&job).await;
        until("all are there", || count_marked(&marker) >= 2).await;
        let killing = async {
            nix::sys::signal::kill(supervisor(&job.dir).expect("it is supervised"), nix::sys::signal::Signal::SIGKILL)
                .expect("killed");
        };
        let (facts, ()) = within(async { tokio::join!(rig.executor.collect(&job), killing) }).await;
        assert_eq!(facts.expect_err("nobody saw the end").kind, FailureKind::NodeError);
        rig.executor = rig.another_agent();
        assert_eq!(rig.executor.adopt(&job).await, Adopted::Gone);
        within(rig.executor.remove(&job)).await.expect("removed");
        assert_eq!(count_marked(&marker), 0);
        assert_eq!(rig.executor.adopt(&job).await, Adopted::NotStarted);
    }
}

#[tokio::test]
async fn what_was_got_ready_before_a_restart_of_the_machine_is_not_begun_again_whatever_its_files_say() {
    let rig = Rig::new();
    let job = rig.job(json!("echo once"));
    // A power loss took the files back, but not the agent's record.
    let job = provider_gateway::executor::Job { is_of_earlier_boot: true, ..job };
    assert_eq!(rig.executor.adopt(&job).await, Adopted::Gone);
    rig.executor.prepare(&job).await.expect("prepared");
    assert_eq!(rig.executor.adopt(&job).await, Adopted::Gone);
    assert!(rig.executor.start(&job).await.is_err());
    assert_eq!(supervisor(&job.dir), None, "nothing was begun");
    within(rig.executor.remove(&job)).await.expect("removed");
}

#[tokio::test]
async fn a_supervisor_goes_once_its_end_is_kept_and_not_at_once_before() {
    let rig = Rig::new();
    let job = rig.job(json!("exit 4"));
    rig.start(&job).await;
    let shim = supervisor(&job.dir).expect("it is supervised");
    assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(4));
    // A dead one that nobody has waited for yet is still there by this question, so it is asked for its program.
    let lives = || std::fs::read_link(format!("/proc/{shim}/exe")).is_ok();
    assert!(lives(), "it waits for the word of its agent");
    rig.executor.exit_is_kept(&job);
    let told = std::time::Instant::now();
    until("it goes", || !lives()).await;
    assert!(
        told.elapsed() < std::time::Duration::from_millis(1_500),
        "it went because it was told, not because time was up"
    );
    within(rig.executor.remove(&job)).await.expect("removed");
}

#[tokio::test]
async fn without_an_agent_a_supervisor_goes_too() {
    let mut rig = Rig::new();
    let job = rig.job(json!("exit 4"));
    rig.start(&job).await;
    let shim = supervisor(&job.dir).expect("it is supervised");
    rig.executor = rig.another_agent();
    until("it goes", || std::fs::read_link(format!("/proc/{shim}/exe")).is_err()).await;
    assert!(has_ended(&job.dir));
}

#[tokio::test]
async fn starting_twice_at_once_runs_once() {
    let rig = Rig::new();
    let job = rig.job(json!("echo once; sleep 0.3"));
    rig.executor.prepare(&job).await.expect("prepared");
    let (first, second) = tokio::join!(rig.executor.start(&job), rig.executor.start(&job));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(within(rig.executor.collect(&job)).await.expect("collected").code, Some(0));
    assert_eq!(stdout(&job), "once\n");
}
