//! A Docker daemon that is stopped and killed under running containers.

use crate::{dockerd::Dockerd, rig::Rig};
use domain::{node::Condition, outcome::FailureKind};
use protocol::Stream;
use provider_gateway::executor::{Executor, Failure};
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
