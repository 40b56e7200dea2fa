//! Docker's disk is too small for all inputs.

use crate::{
    dockerd::Dockerd,
    platform::{Platform, noise},
    rig::{Attempt, Rig},
    small_disk::SmallDisk,
};
use domain::{artifact::ArtifactKind, outcome::FailureKind};
use provider_gateway::{container::ContainerExecutor, executor::Executor};
use serde_json::json;
use std::sync::Arc;

#[tokio::test]
async fn a_full_disk_of_docker_loses_what_nobody_uses_before_an_input_is_refused_with_the_sizes() {
    let disk = SmallDisk::new("160M");
    let daemon = Dockerd::with_data(disk.path()).await;
    let mut rig = Rig::on(&daemon, |disk| (disk.marks.high_percent, disk.marks.full_percent) = (101, 101));
    let platform = Platform::start().await;
    let inputs = platform.inputs(&rig.settings.data_dir.join("inputs.json"), 1 << 40);
    let executor = ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
    rig.executor = Arc::new(executor.with_inputs(inputs));
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let attempt = |name: &'static str, bytes: usize| {
        let body =
            json!({"command": "wc -c < /data", "network": "none", "inputs": [{"artifact": name, "path": "/data"}]});
        let attempt = rig.job(&environment, &[], body);
        let job = platform.pin(attempt.job.clone(), vec![(ArtifactKind::File, name, noise(bytes))]);
        Attempt { job, ..attempt }
    };
    let idle = attempt("idle", 80 << 20);
    rig.executor.prepare(&idle.job).await.unwrap();
    rig.executor.remove(&idle.job).await.unwrap();
    let used = attempt("used", 80_000_000);
    let exit = rig.run(&used).await.unwrap();
    assert_eq!((exit.code, used.text(protocol::Stream::Stdout).trim()), (Some(0), "80000000"));
    let said = used.text(protocol::Stream::System);
    assert!(said.contains("used@3: 80 MiB of unused inputs were removed to make room"), "{said}");
    let failure = rig.executor.prepare(&attempt("more", 80_000_001).job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InputUnavailable);
    assert!(
        failure.message.starts_with("disk full: more@3 (76 MiB) does not fit on this node: "),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("Inputs that tasks here use take 76 MiB"), "{}", failure.message);
    let label = format!("label=unidesk.input={}", rig.settings.instance);
    assert_eq!(daemon.docker(&["volume", "ls", "-q", "--filter", &label]).lines().count(), 1, "nothing of it is left");
}
