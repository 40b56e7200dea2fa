//! People who read slowly, and tasks that write fast.

use crate::{
    scenario::{Scenario, Seen},
    wait::until,
    workload::Wanted,
    world::{QUIET_WITHIN, World},
};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

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

async fn slow_reader(token: &str, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("a follower takes 1 byte a second of 32 MiB, 15 s");
    let before = world.gateway(0)?.usage();
    let id = world.submitter.submit(flooding("flood", 32, "64MiB")).await?;
    let address = world.clients[0].base_url().trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&address).await?;
    let request = format!(
        "GET /api/v1/tasks/{id}/logs?follow=true HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\naccept: text/event-stream\r\n\r\n"
    );
    slow.write_all(request.as_bytes()).await?;
    let mut worst = 0;
    for _ in 0..15 {
        let mut byte = [0];
        // Hung up on: as promised.
        if !matches!(slow.read(&mut byte).await, Ok(1)) {
            break;
        }
        worst = worst.max(world.gateway(0)?.usage().rss_kib);
        sleep(Duration::from_secs(1)).await;
    }
    let grown = worst.saturating_sub(before.rss_kib) / 1024;
    seen.notes.push(format!("the gateway grew by at most {grown} MiB for it"));
    seen.promise(grown < 24, format!("the gateway grew by {grown} MiB for one slow reader"));
    until("the flood has ended", QUIET_WITHIN, async || {
        world.task(id).await.filter(|task| task.state.is_terminal()).map(drop)
    })
    .await?;
    let bytes = world.task(id).await.map_or(0, |task| task.log.bytes);
    seen.promise(bytes == 32 << 20, format!("{bytes} bytes of the flood are stored"));
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
