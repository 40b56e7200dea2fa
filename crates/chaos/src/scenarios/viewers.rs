//! People who read slowly, and tasks that write fast.

use crate::{
    scenario::{Scenario, Seen},
    viewer::Viewer,
    wait::until,
    workload::Wanted,
    world::{QUIET_WITHIN, World},
};
use api_types::log::LogQuery;
use client::{Followed, LogItem};
use futures::TryStreamExt as _;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("F30", "somebody reads a log very slowly", |run, world| {
            let token = run.admin_token().to_owned();
            Box::pin(async move { slow_reader(&token, world).await })
        }),
        Scenario::new("F31", "a task floods its log", |_, world| Box::pin(flood(world))),
    ]
}

/// A task that writes `mebibytes` as fast as it can, and no ledger.
fn flooding(name: &str, mebibytes: u32, limit: &str) -> Wanted {
    let line = format!("head -c {} /dev/zero | tr '\\000' x", mebibytes << 20);
    let also = json!({ "command": line, "log_limit": limit });
    Wanted { steps: 0, also, ..Wanted::process(name, 0, Duration::ZERO) }
}

/// Every number on a line of its own, so that no byte is like the one that is missing; about 30 MiB.
const NUMBERS: u32 = 4_000_000;

async fn slow_reader(token: &str, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("a follower takes 1 byte a second of 30 MiB, then comes back");
    let written: String = (1..=NUMBERS).map(|number| format!("{number}\n")).collect();
    let before = world.gateway(0)?.usage();
    let also = json!({ "command": format!("seq 1 {NUMBERS}"), "log_limit": "64MiB" });
    let id = world.submitter.submit(Wanted { steps: 0, also, ..Wanted::process("flood", 0, Duration::ZERO) }).await?;
    let path = format!("/api/v1/tasks/{id}/logs?follow=true");
    let mut slow = Viewer::open(world.clients[0].base_url(), &path, token, None).await?;
    let other = world.clients[0].follow_log(id, &LogQuery::default());
    let other = tokio::time::timeout(
        2 * QUIET_WITHIN,
        other.try_fold(Vec::new(), async |mut all, item| {
            if let Followed::Event(LogItem::Piece(piece)) = item {
                all.extend_from_slice(&piece.bytes);
            }
            Ok(all)
        }),
    );
    let mut worst = 0;
    let began = Instant::now();
    let gateway = world.gateway(0)?;
    let slowly = async {
        let dropped = until("the gateway lets the slow one go", 2 * QUIET_WITHIN, async || {
            worst = worst.max(gateway.usage().rss_kib);
            let is_over = slow.take_a_byte().await.is_err() || !slow.is_served().unwrap_or(true);
            sleep(Duration::from_secs(1)).await;
            is_over.then_some(())
        });
        let dropped = dropped.await.map(|_| began.elapsed());
        // At once: a kernel keeps what is on its way for a reader that takes nothing for a minute or so.
        (dropped, slow.rest().await)
    };
    let ((dropped, first), other) = tokio::join!(slowly, other);
    let first = first?;
    seen.detected = dropped.as_ref().ok().copied();
    seen.promise(dropped.is_ok(), "the slow follower was not let go");
    seen.promise(
        other.is_ok_and(|all| all.is_ok_and(|all| all == written.as_bytes())),
        "another follower did not get the whole log",
    );
    let grown = worst.saturating_sub(before.rss_kib) / 1024;
    seen.notes.push(format!("the gateway grew by at most {grown} MiB for it"));
    seen.promise(grown < 24, format!("the gateway grew by {grown} MiB for one slow reader"));
    until("the flood has ended", QUIET_WITHIN, async || {
        world.task(id).await.filter(|task| task.state.is_terminal()).map(drop)
    })
    .await?;
    let bytes = world.task(id).await.map_or(0, |task| task.log.bytes);
    seen.promise(bytes == written.len() as u64, format!("{bytes} of {} bytes of the flood are stored", written.len()));
    // What was on its way arrived. It goes on after the last message that came whole.
    seen.promise(!first.is_over && first.cursor.is_some(), "the slow follower was not cut off in the middle");
    let back = Instant::now();
    let second = Viewer::open(world.clients[0].base_url(), &path, token, first.cursor.as_deref()).await?.rest().await?;
    seen.notes.push(format!(
        "it had {} KiB when it was cut off; the other {} KiB came in {:.1} s after its cursor {}",
        first.bytes.len() / 1024,
        second.bytes.len() / 1024,
        back.elapsed().as_secs_f64(),
        first.cursor.as_deref().unwrap_or("(none)"),
    ));
    seen.promise(second.is_over, "the follower that came back was not told of the end");
    seen.promise(
        [first.bytes, second.bytes].concat() == written.as_bytes(),
        "what the two parts have together is not the log",
    );
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn flood(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("two tasks write 64 MiB each, 8 MiB are to be kept");
    let began = Instant::now();
    let mut ids = Vec::new();
    for number in 0..2 {
        ids.push(world.submitter.submit(flooding(&format!("flood-{number}"), 64, "8MiB")).await?);
    }
    let mut worst = Duration::ZERO;
    for id in ids {
        while world.task(id).await.is_none_or(|task| !task.state.is_terminal()) {
            anyhow::ensure!(began.elapsed() < QUIET_WITHIN, "the flood did not end");
            worst = worst.max(world.probe().await?);
        }
    }
    seen.notes
        .push(format!("a new task took at most {:.2} s from its submission to its end meanwhile", worst.as_secs_f64()));
    seen.promise(worst < Duration::from_secs(10), format!("a new task took {worst:?} beside the flood"));
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}
