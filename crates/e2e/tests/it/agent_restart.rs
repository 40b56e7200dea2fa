//! The agent is killed and started again: what it ran goes on, once, with its whole log and its true end.

use crate::{
    deployment::Deployment,
    task::Body,
    until::{until, until_true},
    world::{SOON, docker, log, log_until, task_until},
};
use domain::task::TaskState;
use nix::sys::signal::Signal;

/// Says that it began, and a line five times a second.
const CHATTER: &str =
    "echo begin; i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; echo end >&2; exit 4";
const SHORT: &str = "echo begin; sleep 2; echo end; exit 6";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_finds_its_work_again() {
    let mut deployment = Deployment::start(1).await;
    let container = |line: &str| Body::container(&deployment.repositories, line);
    let process = deployment.submit(&Body::process(CHATTER)).await.id;
    let contained = deployment.submit(&container(CHATTER)).await.id;
    let ends_alone = deployment.submit(&Body::process(SHORT)).await.id;
    for id in [process, contained] {
        log_until(&deployment.client, id, "line 2\n").await;
    }
    // One more begins as late as possible, so that it ends while no agent is there: on a busy machine the build that follows takes its time.
    let contained_ends_alone = deployment.submit(&container("echo begin; sleep 12; echo end; exit 6")).await.id;
    log_until(&deployment.client, contained_ends_alone, "begin\n").await;
    // And one is being built.
    let image = test_kit::docker::busybox().await;
    // Nothing that Docker could remember from an earlier run.
    let dockerfile = format!("FROM {image}\nRUN echo building-now; sleep 4 # {}\n", deployment.home.path().display());
    let slow =
        deployment.repositories.environment.commit(&[("Dockerfile", dockerfile.as_str().into())], "Slow to build");
    let built = container("echo built").with("source.env_commit_id", slow);
    let built = deployment.submit(&built).await.id;
    until("it is being built", SOON, async || {
        let log = log(&deployment.client, built, Some("build")).await;
        String::from_utf8_lossy(&log).contains("building-now\n").then_some(())
    })
    .await;

    deployment.kill_agent().await;
    let label = format!("label=unidesk.task={contained_ends_alone}");
    until_true("a container ends with no agent there", SOON, || {
        docker(&["ps", "-q", "--filter", "status=exited", "--filter", &label]).len() == 1
    })
    .await;
    assert!(deployment.client.task(contained_ends_alone).await.expect("a task").ended_at.is_none());
    deployment.start_agent().await;

    let numbered: String = (0..60).map(|n| format!("line {n}\n")).collect();
    for id in [process, contained] {
        let task = deployment.ended(id).await;
        assert_eq!((task.attempt, task.exit_code), (1, Some(4)), "{task:#?}");
        let stdout = String::from_utf8(log(&deployment.client, id, Some("stdout")).await).expect("text");
        assert_eq!(stdout, format!("begin\n{numbered}"));
        assert_eq!(log(&deployment.client, id, Some("stderr")).await, b"end\n");
        assert!(task.log.complete);
    }
    for id in [ends_alone, contained_ends_alone] {
        let task = deployment.ended(id).await;
        assert_eq!((task.attempt, task.exit_code), (1, Some(6)), "{task:#?}");
        assert_eq!(log(&deployment.client, id, None).await, b"begin\nend\n");
    }
    let task = deployment.ended(built).await;
    assert_eq!((task.attempt, task.state), (1, TaskState::Succeeded), "{task:#?}");
    assert_eq!(log(&deployment.client, built, None).await, b"built\n");
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_a_timeout_reach_work_whose_agent_was_away() {
    let mut deployment = Deployment::start(1).await;
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.2; done";
    let cancelled =
        deployment.submit(&Body::process(stubborn).with("stop", serde_json::json!({ "grace": "1s" }))).await.id;
    let timed = deployment
        .submit(&Body::container(&deployment.repositories, "echo up; sleep 600").with("timeout", "5s"))
        .await
        .id;
    for id in [cancelled, timed] {
        log_until(&deployment.client, id, "up\n").await;
    }
    deployment.kill_agent().await;
    deployment.client.cancel(cancelled).await.expect("it may be cancelled");
    deployment.start_agent().await;
    let task = deployment.ended(cancelled).await;
    assert_eq!((task.state, task.attempt), (TaskState::Cancelled, 1), "{task:#?}");
    let task = task_until(&deployment.client, timed, "it times out", |task| task.state.is_terminal()).await;
    assert_eq!((task.outcome.as_deref(), task.attempt), (Some("timeout"), 1), "{task:#?}");
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_before_its_node_hears_of_it_never_runs() {
    let deployment = Deployment::start(1).await;
    // Still connected, and deaf: as a machine that hangs for a moment.
    let agent = deployment.agent.as_ref().expect("it runs");
    agent.signal(Signal::SIGSTOP);
    let task = deployment.submit(&Body::process("sleep 5; echo it ran").named("deaf")).await;
    let assigned = |task: &api_types::task::Task| task.state == TaskState::Assigned;
    task_until(&deployment.client, task.id, "it is placed", assigned).await;
    let asked = deployment.client.cancel(task.id).await.expect("it may be cancelled");
    assert!(asked.cancel_requested);
    agent.signal(Signal::SIGCONT);
    let ended = deployment.ended(task.id).await;
    assert_eq!((ended.state, ended.attempt), (TaskState::Cancelled, 1), "{ended:#?}");
    assert_eq!(log(&deployment.client, task.id, None).await, b"");
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_stop_hands_its_work_back_and_one_that_is_told_twice_leaves_it() {
    let mut deployment = Deployment::start(1).await;
    let process = deployment.submit(&Body::process("echo up; exec sleep 600")).await.id;
    let contained = deployment.submit(&Body::container(&deployment.repositories, "echo up; exec sleep 600")).await.id;
    for id in [process, contained] {
        log_until(&deployment.client, id, "up\n").await;
    }
    let mut agent = deployment.agent.take().expect("it runs");
    assert!(agent.stop().await.success());
    for id in [process, contained] {
        // The server knew it before the agent was gone, so no node has to be waited for.
        let task = deployment.client.task(id).await.expect("a task");
        assert_eq!((task.state, task.attempt), (TaskState::Pending, 1), "{task:#?}");
    }
    deployment.start_agent().await;
    for id in [process, contained] {
        let runs_again = |task: &api_types::task::Task| (task.state, task.attempt) == (TaskState::Running, 2);
        task_until(&deployment.client, id, "it runs again", runs_again).await;
        deployment.client.cancel(id).await.expect("it may be cancelled");
        deployment.ended(id).await;
    }

    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.2; done";
    let left = Body::process(stubborn).with("stop", serde_json::json!({ "grace": "5s" }));
    let left = deployment.submit(&left).await.id;
    log_until(&deployment.client, left, "up\n").await;
    let mut agent = deployment.agent.take().expect("it runs");
    agent.signal(Signal::SIGTERM);
    agent.until_said("stopping; 1 running", SOON).await;
    assert!(agent.stop().await.success(), "the second signal");
    assert!(agent.said().contains("the next agent takes it over"), "{}", agent.said());
    deployment.start_agent().await;
    let task = deployment.client.task(left).await.expect("a task");
    assert_eq!((task.state, task.attempt), (TaskState::Running, 1), "{task:#?}");
    deployment.client.cancel(left).await.expect("it may be cancelled");
    assert_eq!(deployment.ended(left).await.attempt, 1);
    deployment.finish().await;
}
