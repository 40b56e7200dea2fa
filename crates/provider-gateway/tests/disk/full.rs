use crate::{dockerd::Dockerd, rig::Rig, small_disk::SmallDisk};
use domain::{node::Condition, outcome::FailureKind};
use provider_gateway::executor::Executor;

#[tokio::test]
async fn a_disk_that_others_filled_refuses_work_until_they_clear_it() {
    let disk = SmallDisk::new("512M");
    let daemon = Dockerd::with_data(disk.path()).await;
    let rig = Rig::on(&daemon, |_| {});
    let known = rig.environment("FROM unidesk-test/busybox:latest\n");
    rig.run(&rig.offline(&known, "true")).await.unwrap();
    assert_eq!(rig.executor.health().await, None);

    disk.fill_to(95);
    assert_eq!(rig.executor.health().await, Some(Condition::DiskFull));
    let new = rig.environment("FROM unidesk-test/busybox:latest\nRUN echo new\n");
    for environment in [&known, &new] {
        let attempt = rig.offline(environment, "true");
        let failure = rig.executor.prepare(&attempt.job).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NodeError);
        let message = failure.message.replace(&format!("{} % of Docker", disk.used()), "NN % of Docker");
        insta::allow_duplicates! {
            insta::assert_snapshot!(message, @"disk full: NN % of Docker's disk is used, and this node takes no work from 92 % on. Its caches are cleared by themselves; the rest is for the owner of the machine to look through.");
        }
        assert_eq!(daemon.docker(&["ps", "-aq", "--filter", &format!("name={}", attempt.container())]), "");
    }

    disk.clear_filler();
    assert_eq!(rig.executor.health().await, None);
    for environment in [&known, &new] {
        assert_eq!(rig.run(&rig.offline(environment, "true")).await.unwrap().code, Some(0));
    }
}
