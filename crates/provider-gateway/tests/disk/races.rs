use crate::{
    dockerd::Dockerd,
    rig::{Rig, until},
    small_disk::SmallDisk,
};
use futures::future::join_all;
use provider_gateway::executor::Executor;
use std::sync::atomic::{AtomicBool, Ordering};

const ROUNDS: usize = 3;

#[tokio::test]
async fn collecting_without_pause_takes_no_image_from_an_attempt_that_wants_it() {
    let disk = SmallDisk::new("512M");
    let daemon = Dockerd::with_data(disk.path()).await;
    // Each collection removes all that it may.
    let rig = Rig::on(&daemon, |disk| {
        (disk.marks.low_percent, disk.marks.high_percent, disk.marks.full_percent) = (0, 0, 101);
        disk.marks.recent_s = 0;
    });
    let environments = ["a", "b"].map(|name| {
        let dockerfile = format!("FROM unidesk-test/busybox:latest\nRUN echo {name} > /name\nRUN echo more >> /name\n");
        (name, rig.environment(&dockerfile))
    });
    let attempt = async |name: &str, environment: &str| {
        let attempt = rig.offline(environment, "head -1 /name");
        let exit = rig.run(&attempt).await.unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
        assert_eq!(exit.code, Some(0));
        assert_eq!(attempt.text(protocol::Stream::Stdout), format!("{name}\n"));
        let notes = attempt.text(protocol::Stream::System);
        assert!(!notes.contains("emptied"), "a build lost what it had uploaded: {notes}");
        rig.executor.remove(&attempt.job).await.unwrap();
    };
    let is_done = AtomicBool::new(false);
    let work = async {
        for _ in 0..ROUNDS {
            // Of each environment three attempts, the last when the first lets go of the image.
            let of_one = environments.iter().flat_map(|(name, environment)| {
                [2, 1].map(|times| async move {
                    for _ in 0..times {
                        attempt(name, environment).await;
                    }
                })
            });
            join_all(of_one).await;
            until("what nobody wants is gone", || rig.executor.warm().is_empty()).await;
        }
        is_done.store(true, Ordering::Relaxed);
    };
    let collecting = async {
        let mut removed = 0;
        // An image is gone before the collection that takes it has ended, and only then it says so: the last one ends too.
        while !is_done.load(Ordering::Relaxed) {
            removed += rig.executor.collect_garbage().await.removed_images.len();
            tokio::task::yield_now().await;
        }
        removed
    };
    let ((), removed) = tokio::join!(work, collecting);
    assert!(removed >= 2 * ROUNDS, "{removed} images were removed");
}
