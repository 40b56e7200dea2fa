use crate::{dockerd::Dockerd, rig::Rig, small_disk::SmallDisk};
use futures::future::join;
use provider_gateway::executor::Executor;

/// Attempts of each environment, and each collection removes all that it may.
const ROUNDS: usize = 12;

#[tokio::test]
async fn collecting_without_pause_takes_no_image_from_an_attempt_that_wants_it() {
    let disk = SmallDisk::new("512M");
    let daemon = Dockerd::with_data(disk.path()).await;
    let rig = Rig::on(&daemon, |disk| {
        (disk.marks.low_percent, disk.marks.high_percent, disk.marks.full_percent) = (0, 0, 101);
        disk.marks.recent_s = 0;
    });
    let environments = ["a", "b"].map(|name| {
        rig.environment(&format!("FROM unidesk-test/busybox:latest\nRUN echo {name} > /name\nRUN echo more >> /name\n"))
    });
    let attempts = async |name: &str, environment: &str| {
        for round in 0..ROUNDS {
            let attempt = rig.offline(environment, "head -1 /name");
            let exit = rig.run(&attempt).await.unwrap_or_else(|failure| panic!("{name}, round {round}: {failure:?}"));
            assert_eq!(exit.code, Some(0));
            assert_eq!(attempt.text(protocol::Stream::Stdout), format!("{name}\n"));
            rig.executor.remove(&attempt.job).await.unwrap();
        }
    };
    let mut removed = 0;
    let work = async {
        // Two of the same environment at once: one finds it while the other lets go of it.
        join(
            join(attempts("a", &environments[0]), attempts("a", &environments[0])),
            join(attempts("b", &environments[1]), attempts("b", &environments[1])),
        )
        .await
    };
    let collecting = async {
        loop {
            removed += rig.executor.collect_garbage().await.removed_images.len();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = work => {}
        () = collecting => {}
    }
    assert!(removed > 0, "nothing was ever collected in between");
}
