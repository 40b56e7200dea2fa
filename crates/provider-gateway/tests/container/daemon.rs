//! A Docker daemon that is stopped and killed under running containers.

use crate::{dockerd::Dockerd, rig::Rig};
use domain::{node::Condition, outcome::FailureKind};
use protocol::Stream;
use provider_gateway::executor::{Adopted, Executor, Failure};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_container_that_went_down_with_docker_is_not_the_tasks_failure() {
    let mut daemon = Dockerd::new().await;
    let socket = daemon.socket();
    let rig = Rig::with(|settings| settings.socket = socket);
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    // One that ends with success when it is asked to stop, one that does not listen, one that is over before.
    let polite = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let job = |line: &str| rig.job(&environment, &[], json!({"command": line, "network": "none"}));
    for signal in ["-TERM", "-KILL"] {
        let attempts = [job(polite), job(deaf), job("exit 7")];
        for attempt in &attempts {
            rig.executor.prepare(&attempt.job).await.unwrap();
            rig.executor.start(&attempt.job).await.unwrap();
        }
        let collecting = futures::future::join_all(attempts.iter().map(|attempt| rig.executor.collect(&attempt.job)));
        tokio::pin!(collecting);
        let all_are_ready = crate::rig::until("all are ready", || {
            attempts[..2].iter().all(|attempt| attempt.text(Stream::Stdout).contains("ready"))
        });
        tokio::select! {
            _ = &mut collecting => panic!("two of them run on"),
            () = async { all_are_ready.await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
        }
        tokio::select! {
            ends = &mut collecting => panic!("nothing can be known yet: {ends:?}"),
            () = daemon.stop(signal) => {}
        }
        assert_eq!(rig.executor.health().await, Some(Condition::DockerUnavailable));
        let (ends, ()) = tokio::join!(&mut collecting, daemon.restart());
        for end in &ends[..2] {
            let Err(Failure { kind: FailureKind::NodeError, message }) = end else { panic!("{signal}: {ends:?}") };
            assert!(message.contains("Docker was restarted"), "{message}");
        }
        assert_eq!(ends[2].as_ref().unwrap().code, Some(7), "{signal}");
        // An agent that comes up only now judges the one that was killed alike.
        let again =
            provider_gateway::container::ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
        assert!(again.collect(&attempts[1].job).await.is_err(), "{signal}");
        assert_eq!(again.collect(&attempts[2].job).await.unwrap().code, Some(7), "{signal}");
        for attempt in &attempts {
            rig.executor.remove(&attempt.job).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_docker_that_hangs_is_a_condition_of_the_node_and_no_verdict() {
    let daemon = Dockerd::new().await;
    let socket = daemon.socket();
    let rig = Rig::with(|settings| settings.socket = socket);
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let job = |line: &str| rig.job(&environment, &[], json!({"command": line, "network": "none"}));
    let (short, long) = (job("echo said; exit 7"), job("sleep 60"));
    for attempt in [&short, &long] {
        rig.executor.prepare(&attempt.job).await.unwrap();
        rig.executor.start(&attempt.job).await.unwrap();
    }
    daemon.signal("-STOP");
    let again = provider_gateway::container::ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
    let asked = async {
        tokio::join!(
            rig.executor.health(),
            again.adopt(&short.job),
            again.adopt(&long.job),
            again.inventory(),
            again.remove(&long.job),
            again.remove_orphans(rig.settings.data_dir.as_path()),
        )
    };
    let (health, short_is, long_is, inventory, removed, orphans) =
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect("nobody waits for ever");
    assert_eq!(health, Some(Condition::DockerUnavailable));
    assert_eq!((short_is, long_is), (Adopted::Unknown, Adopted::Unknown), "a hung Docker is not an empty one");
    assert!(inventory.is_err() && removed.is_err() && orphans.is_empty());
    let collecting = again.collect(&short.job);
    tokio::pin!(collecting);
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut collecting).await;
    assert!(waited.is_err(), "nothing is known yet: {waited:?}");
    daemon.signal("-CONT");
    assert_eq!(collecting.await.unwrap().code, Some(7));
    assert_eq!(short.text(Stream::Stdout), "said\n");
    assert_eq!(again.adopt(&long.job).await, Adopted::Running);
    assert_eq!(rig.executor.health().await, None);
    for attempt in [&short, &long] {
        rig.executor.remove(&attempt.job).await.unwrap();
    }
}
