use crate::rig::{Rig, docker, until};
use domain::{node::Condition, outcome::FailureKind};
use provider_gateway::executor::Executor;

#[tokio::test]
async fn a_fuller_disk_costs_only_our_own_idle_images_the_oldest_first() {
    let mut rig = Rig::new();
    let [oldest, held, recent] =
        ["1", "2", "3"].map(|n| rig.environment(&format!("FROM unidesk-test/busybox:latest\nRUN echo {n} > /n\n")));
    let foreign = format!("unidesk-test/foreign:{}", uuid::Uuid::new_v4());
    docker(&["tag", "unidesk-test/busybox:latest", &foreign]);
    let mut tags = Vec::new();
    for environment in [&oldest, &held, &recent] {
        let attempt = rig.shell(environment, "true");
        let prepared = rig.executor.prepare(&attempt.job).await.unwrap();
        tags.push(prepared.provenance["image"]["tag"].as_str().unwrap().to_owned());
        if environment != &held {
            rig.executor.remove(&attempt.job).await.unwrap();
        }
    }
    // Below the mark nothing happens.
    assert_eq!(rig.executor.collect_garbage().await.removed_images, Vec::<String>::new());
    assert_eq!(rig.executor.warm().len(), 3);
    // Images used a moment ago stay.
    rig.restart(|settings| (settings.disk.marks.high_percent, settings.disk.marks.low_percent) = (0, 0));
    assert_eq!(rig.executor.collect_garbage().await.removed_images, Vec::<String>::new());
    rig.restart(|settings| settings.disk.marks.recent_s = 0);
    let report = rig.executor.collect_garbage().await;
    assert_eq!(report.removed_images, [tags[0].clone(), tags[2].clone()]);
    assert!(report.used_before.is_some());
    assert_eq!(rig.executor.warm().len(), 1);
    assert_ne!(docker(&["images", "-q", &tags[1]]), "");
    assert_ne!(docker(&["images", "-q", &foreign]), "");
    docker(&["rmi", &foreign]);
}

#[tokio::test]
async fn a_full_disk_refuses_work_and_says_so() {
    let rig = Rig::with(|settings| settings.disk.marks.full_percent = 0);
    assert_eq!(rig.executor.health().await, Some(Condition::DiskFull));
    let attempt = rig.shell(&rig.environment("FROM unidesk-test/busybox:latest\n"), "true");
    let failure = rig.executor.prepare(&attempt.job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NodeError);
    assert!(failure.message.starts_with("disk full: "), "{}", failure.message);
}

#[tokio::test]
async fn an_image_that_waits_for_the_code_is_not_collected() {
    let rig = Rig::with(|settings| {
        (settings.disk.marks.high_percent, settings.disk.marks.low_percent, settings.disk.marks.recent_s) = (0, 0, 0);
    });
    let nonce = uuid::Uuid::new_v4();
    let environment = rig.environment(&format!("FROM unidesk-test/busybox:latest\nRUN echo made {nonce}\n"));
    let attempt = rig.shell(&environment, "true");
    let gate = rig.trees.code_gate.write().await;
    let preparing = rig.executor.prepare(&attempt.job);
    tokio::pin!(preparing);
    tokio::select! {
        _ = &mut preparing => panic!("the code can't be had yet"),
        () = async {
            until("the image is there", || rig.executor.warm().len() == 1).await;
            assert_eq!(rig.executor.collect_garbage().await.removed_images, Vec::<String>::new());
        } => {}
    }
    drop(gate);
    preparing.await.unwrap();
    // Then its container holds it, and after that nothing does.
    assert_eq!(rig.executor.collect_garbage().await.removed_images, Vec::<String>::new());
    let built = attempt.text(protocol::Stream::Build);
    assert_eq!(built.lines().filter(|line| *line == format!("made {nonce}")).count(), 1, "built once: {built}");
    rig.executor.remove(&attempt.job).await.unwrap();
    assert_eq!(rig.executor.collect_garbage().await.removed_images.len(), 1);
}
