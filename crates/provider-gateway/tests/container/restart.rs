use crate::rig::{Rig, docker, until};
use domain::{node::Condition, outcome::FailureKind};
use protocol::Stream;
use provider_gateway::executor::{Adopted, Executor};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_agent_that_was_away_finds_its_containers_whole() {
    let mut rig = Rig::new();
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let line = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.1; done; exit 9";
    let long = rig.shell(&environment, line);
    let short = rig.shell(&environment, "echo short; exit 4");
    let unstarted = rig.shell(&environment, "true");
    let removed = rig.shell(&environment, "true");
    let never_seen = rig.shell(&environment, "true");
    for attempt in [&long, &short, &unstarted, &removed] {
        rig.executor.prepare(&attempt.job).await.unwrap();
    }
    for attempt in [&long, &short, &removed] {
        rig.executor.start(&attempt.job).await.unwrap();
    }
    // The first agent dies in the middle of the output.
    let first = rig.executor.clone();
    tokio::select! {
        _ = first.collect(&long.job) => panic!("it runs for 4 s"),
        () = until("some lines are there", || long.text(Stream::Stdout).contains("line 5\n")) => {}
    }
    drop(first);
    docker(&["rm", "-f", &removed.container()]);
    rig.restart(|_| {});

    let agent = &rig.executor;
    assert_eq!(agent.adopt(&long.job).await, Adopted::Running);
    assert_eq!(agent.adopt(&unstarted.job).await, Adopted::NotStarted);
    assert_eq!(agent.adopt(&never_seen.job).await, Adopted::NotStarted);
    assert_eq!(agent.adopt(&removed.job).await, Adopted::Gone);
    // An older holder of the same attempt's name is not this one.
    let mut fenced = long.job.clone();
    fenced.held.fence = domain::ids::Fence::from_i64(8);
    assert_ne!(agent.adopt(&fenced).await, Adopted::Running);
    // Preparing again what runs changes nothing about it.
    agent.prepare(&long.job).await.unwrap();
    agent.start(&long.job).await.unwrap();

    let exit = agent.collect(&long.job).await.unwrap();
    assert_eq!(exit.code, Some(9));
    let lines = |word: &str| (1..=40).map(|n| format!("{word} {n}\n")).collect::<String>();
    assert_eq!(long.text(Stream::Stdout), lines("line"));
    assert_eq!(long.text(Stream::Stderr), lines("err"));
    // Asked again, as after a lost answer: the same, and no byte twice.
    assert_eq!(agent.collect(&long.job).await.unwrap().code, Some(9));
    assert_eq!(long.text(Stream::Stdout), lines("line"));

    assert_eq!(agent.adopt(&short.job).await, Adopted::Exited);
    assert_eq!(agent.collect(&short.job).await.unwrap().code, Some(4));
    assert_eq!(short.text(Stream::Stdout), "short\n");
    assert_eq!(agent.warm().len(), 1);
}

#[tokio::test]
async fn without_docker_nothing_is_judged_and_with_it_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let rig = Rig::with(|settings| settings.socket = socket.clone());
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let attempt = rig.shell(&environment, "echo hello");
    let agent = &rig.executor;
    assert_eq!(agent.health().await, Some(Condition::DockerUnavailable));
    assert_eq!(agent.adopt(&attempt.job).await, Adopted::Unknown);
    let failure = agent.prepare(&attempt.job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NodeError);
    assert!(failure.message.contains("Docker does not answer"), "{}", failure.message);
    assert!(agent.remove(&attempt.job).await.is_err());
    assert!(agent.inventory().await.is_err());
    assert_eq!(agent.server_version(), None);

    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    assert_eq!(agent.health().await, None);
    assert!(agent.server_version().is_some());
    assert!(agent.limits().unwrap().contains("cgroup v"));
    agent.prepare(&attempt.job).await.unwrap();
    agent.start(&attempt.job).await.unwrap();

    // Docker goes away before anybody looked: collect waits, and then tells the truth.
    std::fs::remove_file(&socket).unwrap();
    let waiting = agent.collect(&attempt.job);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(1_500), &mut waiting).await.is_err());
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    assert_eq!(waiting.await.unwrap().code, Some(0));
    assert_eq!(attempt.text(Stream::Stdout), "hello\n");
}

#[tokio::test]
async fn what_others_made_is_left_alone() {
    let rig = Rig::new();
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let attempt = rig.job(&environment, &[], json!({"command": ["true"]}));
    let name = attempt.container();
    docker(&["run", "-d", "--name", &name, "unidesk-test/busybox:latest", "sleep", "300"]);
    let failure = rig.executor.prepare(&attempt.job).await.unwrap_err();
    assert!(failure.message.contains("that this agent did not make"), "{}", failure.message);
    rig.executor.signal(&attempt.job, provider_gateway::executor::Signal::Kill).await;
    rig.executor.remove(&attempt.job).await.unwrap();
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &name]), "true");
    docker(&["rm", "-f", &name]);
}

#[tokio::test]
async fn a_container_that_no_attempt_knows_goes_after_its_grace_and_nobody_elses_does() {
    let rig = Rig::with(|settings| settings.orphan_grace = Duration::from_millis(300));
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let (known, unknown) = (rig.shell(&environment, "sleep 60"), rig.shell(&environment, "sleep 60"));
    let others = Rig::new();
    let others_environment = others.environment("FROM unidesk-test/busybox:latest\n");
    let foreign = others.shell(&others_environment, "sleep 60");
    for (rig, attempt) in [(&rig, &known), (&rig, &unknown), (&others, &foreign)] {
        rig.executor.prepare(&attempt.job).await.unwrap();
        rig.executor.start(&attempt.job).await.unwrap();
    }
    let attempts = tempfile::tempdir().unwrap();
    std::fs::create_dir(attempts.path().join(known.job.held.attempt.to_string())).unwrap();
    let is_there = |attempt: &crate::rig::Attempt| {
        !docker(&["ps", "-aq", "--filter", &format!("name={}", attempt.container())]).is_empty()
    };
    assert!(rig.executor.remove_orphans(attempts.path()).await.is_empty());
    assert!(is_there(&unknown), "not before its grace");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(rig.executor.remove_orphans(attempts.path()).await.len(), 1);
    assert_eq!([&known, &unknown, &foreign].map(is_there), [true, false, true]);
    for (rig, attempt) in [(&rig, &known), (&others, &foreign)] {
        rig.executor.remove(&attempt.job).await.unwrap();
    }
}
