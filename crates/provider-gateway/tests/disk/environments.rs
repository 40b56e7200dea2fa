use crate::{
    dockerd::Dockerd,
    rig::{Attempt, Rig},
    small_disk::SmallDisk,
};
use provider_gateway::{container::DiskSettings, disk::Watermarks, executor::Executor};
use serde_json::json;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const ENVIRONMENTS: usize = 50;
/// Of its own, an image. All of them are 3 GB.
const MEGABYTES: usize = 60;

impl Rig {
    /// On a daemon of its own, with the rules for disks that nodes have.
    pub(crate) fn on(daemon: &Dockerd, change: impl FnOnce(&mut DiskSettings)) -> Self {
        Self::with(|settings| {
            settings.socket = daemon.socket();
            settings.disk = DiskSettings::default();
            change(&mut settings.disk);
        })
    }
    /// A job in an environment with a big layer of its own.
    pub(crate) fn big(&self, number: usize) -> String {
        self.environment(&format!(
            "FROM unidesk-test/busybox:latest\n\
             RUN echo {number} > /number && dd if=/dev/zero of=/data bs=1M count={MEGABYTES} 2>/dev/null\n"
        ))
    }
    pub(crate) fn offline(&self, environment: &str, line: &str) -> Attempt {
        self.job(environment, &[], json!({ "command": line, "network": "none" }))
    }
}

/// How long at once a disk was so full that work is refused.
async fn longest_over_the_mark(disk: &SmallDisk, longest: &mut Duration) {
    let mut since: Option<Instant> = None;
    loop {
        if Watermarks::default().is_full(disk.used()) {
            *longest = since.get_or_insert_with(Instant::now).elapsed().max(*longest);
        } else {
            since = None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn fifty_environments_pass_through_a_disk_that_holds_twenty() {
    let disk = SmallDisk::new("2G");
    let daemon = Dockerd::with_data(disk.path()).await;
    // What others have there: an image with a layer of its own, containers that run and that don't, a volume.
    daemon.docker(&[
        "run",
        "-d",
        "--name",
        "theirs",
        "--network",
        "none",
        "unidesk-test/busybox:latest",
        "sleep",
        "9999",
    ]);
    daemon.docker(&[
        "run",
        "--name",
        "over",
        "--network",
        "none",
        "unidesk-test/busybox:latest",
        "sh",
        "-c",
        "echo x > /x",
    ]);
    daemon.docker(&["commit", "over", "their/image:1"]);
    daemon.docker(&["volume", "create", "theirs"]);
    let belongings = || {
        let state =
            daemon.docker(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.State.Running}}", "theirs", "over"]);
        let images = daemon.docker(&["inspect", "-f", "{{.Id}}", "their/image:1", "unidesk-test/busybox:latest"]);
        (state, images, daemon.docker(&["volume", "ls", "-q"]))
    };
    let before = belongings();

    let rig = Rig::on(&daemon, |_| {});
    let mut longest = Duration::ZERO;
    let (mut environments, mut keys) = (Vec::new(), Vec::new());
    let work = async {
        for number in 0..ENVIRONMENTS {
            let environment = rig.big(number);
            let attempt = rig.offline(&environment, "cat /number");
            let exit = rig.run(&attempt).await.unwrap_or_else(|failure| panic!("environment {number}: {failure:?}"));
            assert_eq!(exit.code, Some(0));
            assert_eq!(attempt.text(protocol::Stream::Stdout), format!("{number}\n"));
            rig.executor.remove(&attempt.job).await.unwrap();
            assert_eq!(rig.executor.health().await, None, "after environment {number}");
            keys.push(domain::warm::environment_key(attempt.job.spec.source.environment.as_ref().unwrap()));
            environments.push(environment);
        }
    };
    tokio::select! {
        () = work => {}
        () = longest_over_the_mark(&disk, &mut longest) => {}
    }

    assert!(longest < Duration::from_secs(10), "over the mark for {longest:?}");
    assert_eq!(belongings(), before);
    let warm = BTreeSet::from_iter(rig.executor.warm());
    let first_warm = keys.iter().position(|key| warm.contains(key)).unwrap();
    assert!(keys[first_warm..].iter().all(|key| warm.contains(key)), "an older one is warm and a newer one is not");
    let kept = ENVIRONMENTS - first_warm;
    assert!((10..=27).contains(&kept), "{kept} are warm");
    let newest = rig.offline(environments.last().unwrap(), "true");
    let prepared = rig.executor.prepare(&newest.job).await.unwrap();
    assert_eq!(prepared.provenance["image"]["warm"], true);
    let oldest = rig.offline(&environments[0], "true");
    let prepared = rig.executor.prepare(&oldest.job).await.unwrap();
    assert_eq!(prepared.provenance["image"]["warm"], false);
}
