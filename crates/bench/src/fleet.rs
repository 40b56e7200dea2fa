//! Many idle nodes: how they connect, what they cost, and how long they need to be back after the gateway was killed.

use crate::{
    nodes::{NodesProcess, process},
    platform::{Cost, Options, Part, Platform},
    report::Record,
};
use anyhow::Context as _;
use std::{
    path::Path,
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Simulated nodes
    #[arg(long, default_value_t = 1_000)]
    pub nodes: u32,
    /// Nodes of one process; a socket each
    #[arg(long, default_value_t = 10_000)]
    pub per_process: u32,
    /// Seconds in which nothing but heartbeats happens, to measure what they cost
    #[arg(long, default_value_t = 60)]
    pub idle_s: u64,
    /// The first connections are spread over so many milliseconds
    #[arg(long, default_value_t = 0)]
    pub dial_over_ms: u64,
    /// Give up waiting for all nodes after so many seconds
    #[arg(long, default_value_t = 300)]
    pub within_s: u64,
    /// Seconds after the return in which nobody may be called offline
    #[arg(long, default_value_t = 20)]
    pub watch_s: u64,
    /// Do not kill the gateway
    #[arg(long)]
    pub no_kill: bool,
    #[command(flatten)]
    pub platform: Options,
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut database = platform.database().await?;
    let empty = platform.cost();
    let mut record = Record::new("fleet")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("nodes", args.nodes)
        .number("gateway_mib_before", mib(empty.gateway.private_bytes));

    let began = Instant::now();
    let files = token_files(&mut platform, args).await?;
    let making = began.elapsed();
    let began = Instant::now();
    let mut fleet = files
        .iter()
        .map(|tokens| {
            let (server, dial_over_ms) = (platform.server, args.dial_over_ms);
            NodesProcess::start(&process::Args {
                server,
                tokens: tokens.clone(),
                slots: 4,
                dial_over_ms,
                round_trip_ms: 0,
                ahead: false,
            })
        })
        .collect::<anyhow::Result<Vec<NodesProcess>>>()?;
    let within = Duration::from_secs(args.within_s);
    let watch = Instant::now();
    while connected(&fleet) < u64::from(args.nodes) {
        let (is, of) = (connected(&fleet), args.nodes);
        anyhow::ensure!(watch.elapsed() < within, "{is} of {of} nodes were connected within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let connecting = began.elapsed();
    let spread = fleet[0].figures().connect_us;
    record = record
        .number("tokens_made_per_s", f64::from(args.nodes) / making.as_secs_f64())
        .ms("all_connected_after_ms", connecting)
        .number("connect_ms_p50", spread.p50 as f64 / 1e3)
        .number("connect_ms_p99", spread.p99 as f64 / 1e3)
        .with("refused_or_failed_at_first", failures(&fleet));

    // What the connections themselves left to do is done first.
    tokio::time::sleep(Duration::from_secs(5)).await;
    order(&mut fleet, "reset").await?;
    let (from, at) = (platform.cost(), Instant::now());
    let beats = answered(&fleet);
    let counted = database.counters().await?;
    tokio::time::sleep(Duration::from_secs(args.idle_s)).await;
    let counters = database.counters().await?.since(&counted);
    let idle = at.elapsed();
    let cost = platform.cost();
    let beats = answered(&fleet) - beats;
    let round_trip = fleet[0].figures().beat_us;
    let cores = |part: fn(&Cost) -> Duration| (part(&cost) - part(&from)).as_secs_f64() / idle.as_secs_f64();
    let (gateway, postgres) = (cores(|cost| cost.gateway.cpu), cores(|cost| cost.postgres.cpu));
    let grown = cost.gateway.private_bytes.saturating_sub(empty.gateway.private_bytes);
    record = record
        .number("beats_per_s", beats as f64 / idle.as_secs_f64())
        .number("beat_ms_p50", round_trip.p50 as f64 / 1e3)
        .number("beat_ms_p99", round_trip.p99 as f64 / 1e3)
        .number("idle_cores_gateway", gateway)
        .number("idle_cores_postgres", postgres)
        .number("idle_cores_gateway_and_postgres", gateway + postgres)
        .number("idle_cores_scheduler", cores(|cost| cost.scheduler.cpu))
        .number("idle_cores_registry", cores(|cost| cost.registry.cpu))
        .number("idle_statements_per_s", counters.calls() as f64 / idle.as_secs_f64())
        .number("idle_row_writes_per_s", counters.row_writes() as f64 / idle.as_secs_f64())
        .number("idle_wal_bytes_per_s", counters.wal_bytes as f64 / idle.as_secs_f64())
        .number("gateway_mib", mib(cost.gateway.private_bytes))
        .number("gateway_kib_per_node", grown as f64 / 1_024.0 / f64::from(args.nodes))
        .number("postgres_mib", mib(cost.postgres.memory_bytes));

    if !args.no_kill {
        record = storm(args, &mut platform, &mut fleet, &mut database, record).await?;
    }
    drop(fleet);
    platform.stop().await?;
    Ok(record)
}

/// Kills the gateway, starts it again at once, and waits until every node is back.
async fn storm(
    args: &Args,
    platform: &mut Platform,
    fleet: &mut [NodesProcess],
    database: &mut crate::database::Database,
    record: Record,
) -> anyhow::Result<Record> {
    let all = u64::from(args.nodes);
    order(fleet, "reset").await?;
    let (sessions, refused) = (sum(fleet, |figures| figures.sessions), sum(fleet, |figures| figures.refused));
    let began = Instant::now();
    platform.kill_and_restart(Part::Gateway).await?;
    let restarted = began.elapsed();
    let (mut half, mut most_offline) = (None, 0);
    // Each must have opened a new session: before the loss is noticed, all still seem to be there.
    let back = |fleet: &[NodesProcess]| {
        let opened = sum(fleet, |figures| figures.sessions) - sessions;
        connected(fleet).min(opened)
    };
    let within = Duration::from_secs(args.within_s);
    loop {
        let are_back = back(fleet);
        most_offline = most_offline.max(offline(database).await?);
        if are_back >= all / 2 && half.is_none() {
            half = Some(began.elapsed());
        }
        if are_back >= all {
            break;
        }
        anyhow::ensure!(began.elapsed() < within, "{are_back} of {all} nodes were back within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let whole = began.elapsed();
    let first = fleet[0].figures().connect_us;
    // The sweep is given the time to be wrong.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(args.watch_s) {
        most_offline = most_offline.max(offline(database).await?);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let presences = platform.client.nodes().await.context("listing the nodes")?;
    let still = presences.iter().filter(|node| node.presence == domain::node::Presence::Connected).count();
    Ok(record
        .ms("gateway_killed_and_ready_again_ms", restarted)
        .ms("half_back_after_ms", half.unwrap_or(whole))
        .ms("all_back_after_ms", whole)
        .number("reconnect_ms_p50", first.p50 as f64 / 1e3)
        .number("reconnect_ms_p99", first.p99 as f64 / 1e3)
        .with("refused_in_the_storm", sum(fleet, |figures| figures.refused) - refused)
        .with("falsely_offline", most_offline)
        .with("connected_as_the_api_says", still))
}

async fn token_files(platform: &mut Platform, args: &Args) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut left = args.nodes;
    let mut files = Vec::new();
    while left > 0 {
        let count = left.min(args.per_process.max(1));
        left -= count;
        files.push(platform.make_nodes(count).await?);
    }
    debug_assert!(files.iter().all(|file| Path::new(file).exists()));
    Ok(files)
}

async fn order(fleet: &mut [NodesProcess], order: &str) -> anyhow::Result<()> {
    for process in fleet {
        process.order(order).await?;
    }
    Ok(())
}

async fn offline(database: &mut crate::database::Database) -> anyhow::Result<i64> {
    database.number("SELECT count(*) FROM node_live WHERE offline_since IS NOT NULL").await
}

fn sum(fleet: &[NodesProcess], part: impl Fn(&crate::nodes::Figures) -> u64) -> u64 {
    fleet.iter().map(|process| part(&process.figures())).sum()
}
fn connected(fleet: &[NodesProcess]) -> u64 {
    sum(fleet, |figures| figures.connected)
}
fn failures(fleet: &[NodesProcess]) -> u64 {
    sum(fleet, |figures| figures.failures)
}
fn answered(fleet: &[NodesProcess]) -> u64 {
    sum(fleet, |figures| figures.beats_answered)
}
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
