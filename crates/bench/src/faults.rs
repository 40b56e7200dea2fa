//! The full load while services are killed: nothing that was accepted may be lost, doubled or stuck, and the load goes on by itself.

use crate::{
    audit, load,
    nodes::NodesProcess,
    platform::{Options, Part, Platform},
    report::Record,
};
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// No-op tasks
    #[arg(long, default_value_t = 150_000)]
    pub tasks: usize,
    /// Simulated nodes
    #[arg(long, default_value_t = 16)]
    pub nodes: u32,
    /// Tasks that a node takes at once
    #[arg(long, default_value_t = 64)]
    pub slots: u64,
    /// What is killed, one after another, evenly over the run
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "gateway,scheduler,postgres,registry,gateway,postgres"
    )]
    pub kills: Vec<Part>,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 600)]
    pub within_s: u64,
    #[command(flatten)]
    pub platform: Options,
}

const PER_REQUEST: usize = 1_000;
/// So many more ends after a kill: work flows again.
const FLOWS: u64 = 1_000;

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut nodes = platform.start_nodes(args.nodes, args.slots).await?;
    let within = Duration::from_secs(args.within_s);
    let body = load::task("faults", &json!({}));
    let shape = load::Shape { tasks: args.tasks, batch: PER_REQUEST, clients: 4, keys: true, goes_on: true };
    let (server, token) = (platform.server, platform.admin_token.clone());
    let began = Instant::now();
    let submitting = load::submit(server, &token, &body, shape);
    let killing = kill_in_turn(args, &mut platform, &mut nodes, within);
    let (submitted, killed) = tokio::join!(submitting, killing);
    let (submitted, killed) = (submitted?, killed?);
    let mut database = platform.database().await?;
    while database.number("SELECT count(*) FROM task_state WHERE ended_at IS NULL").await? > 0 {
        anyhow::ensure!(began.elapsed() < within, "tasks are still under way after {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    nodes.until("every attempt is released", within, |figures| figures.attempts == 0).await?;
    load::read_back(&platform.client, "faults", &submitted.ids).await?;
    let attempts = database.number("SELECT count(*) FROM attempts").await?;
    audit::is_clean(&platform.client).await?;
    let mut record = Record::new("faults")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("tasks", args.tasks)
        .number("tasks_per_s", args.tasks as f64 / took.as_secs_f64())
        .with("lost_doubled_or_stuck", 0)
        .with("attempts_beyond_one_each", attempts - args.tasks as i64)
        .with("requests_sent_again", submitted.sent_again)
        .with("audit", "clean");
    for (at, (part, back)) in killed.iter().enumerate() {
        record = record.ms(&format!("{} {} killed, work flows again after ms", at + 1, part.name()), *back);
    }
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}

/// Kills each part when its share of the tasks has ended, starts it again at once, and tells how long it took until work flowed again.
async fn kill_in_turn(
    args: &Args,
    platform: &mut Platform,
    nodes: &mut NodesProcess,
    within: Duration,
) -> anyhow::Result<Vec<(Part, Duration)>> {
    let mut killed = Vec::new();
    for (number, part) in (1..).zip(&args.kills) {
        let share = (args.tasks * number / (args.kills.len() + 1)) as u64;
        nodes.until("a share of the tasks has ended", within, |figures| figures.ended >= share).await?;
        let at = Instant::now();
        platform.kill_and_restart(*part).await?;
        let ended = nodes.figures().ended;
        nodes.until("work flows again", within, |figures| figures.ended >= ended + FLOWS).await?;
        killed.push((*part, at.elapsed()));
        eprintln!(
            "{} killed after {share} tasks: work flows again after {:.0} ms",
            part.name(),
            at.elapsed().as_secs_f64() * 1e3
        );
    }
    Ok(killed)
}
