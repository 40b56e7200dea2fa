//! A log that leaves the database while it is written, on a whole platform: whoever reads it can't tell.

use crate::{
    task::Body,
    until::until_true,
    world::{World, log, log_until},
};
use std::{fs, time::Duration};

/// Between two looks of the mover, and then some.
const MOVED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_large_log_leaves_the_database_and_reads_the_same() {
    let world = World::start().await;
    let task = world.submit(&Body::process("yes $(seq -s , 1 250) | head -n 20000; echo said; sleep 600")).await;
    // More than may stay of a running attempt.
    let numbers: Vec<String> = (1..=250).map(|n: u32| n.to_string()).collect();
    let expected = (numbers.join(",") + "\n").repeat(20_000).into_bytes();
    let expected = [&expected[..], b"said\n"].concat();
    assert!(expected.len() > 17 << 20);
    world.task_until(task.id, "it has said it all", |task| task.log.bytes as usize >= expected.len()).await;
    let packs = world.home.path().join("objects/logs");
    until_true("a part of it is in the object store", MOVED_WITHIN, || {
        fs::read_dir(&packs).is_ok_and(|packs| packs.count() > 0)
    })
    .await;
    assert!(log(&world.client, task.id, None).await == expected, "while it runs");
    // What comes now comes after it.
    world.client.cancel(task.id).await.expect("cancelled");
    world.ended(task.id).await;
    assert!(log(&world.client, task.id, None).await == expected, "when it has ended");
    log_until(&world.client, task.id, "said").await;
    world.finish().await;
}
