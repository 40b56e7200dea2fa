//! Logs from many attempts at once: lines and bytes a second until they are stored durably, and how far behind a follower is.

use crate::{
    load,
    nodes::figures::unix_micros,
    platform::{Options, Platform},
    report::{Record, percentile},
};
use api_types::log::LogQuery;
use client::{Client, Followed, LogItem};
use domain::ids::TaskId;
use futures::StreamExt as _;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Attempts that write at once
    #[arg(long, default_value_t = 32)]
    pub tasks: usize,
    /// Lines of each
    #[arg(long, default_value_t = 50_000)]
    pub lines: u64,
    /// Bytes of a line
    #[arg(long, default_value_t = 100)]
    pub line_bytes: u64,
    /// Simulated nodes
    #[arg(long, default_value_t = 8)]
    pub nodes: u32,
    /// Logs that are followed while they are written
    #[arg(long, default_value_t = 4)]
    pub followers: usize,
    #[command(flatten)]
    pub platform: Options,
}

const WITHIN: Duration = Duration::from_secs(600);

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let slots = (args.tasks as u64).div_ceil(u64::from(args.nodes));
    let mut nodes = platform.start_nodes(args.nodes, slots).await?;
    let mut database = platform.database().await?;
    let counted = database.counters().await?;
    let (before, cost) = (nodes.figures(), platform.cost());
    let mut body = load::task("logs", &json!({"log_lines": args.lines, "line_bytes": args.line_bytes}));
    let bytes = args.lines * args.line_bytes;
    body["log_limit"] = json!(format!("{}B", 2 * bytes));
    let shape = load::Shape { tasks: args.tasks, batch: args.tasks, clients: 1, keys: true, goes_on: false };
    let submitted = load::submit(platform.server, &platform.admin_token, &body, shape).await?;
    let mut followers = JoinSet::new();
    for id in submitted.ids.iter().take(args.followers) {
        followers.spawn(follow(platform.client.clone(), *id, args.line_bytes));
    }
    let all = before.ended + args.tasks as u64;
    let done = nodes.until("every log is stored", WITHIN, |figures| figures.ended >= all).await?;
    let took = submitted.began.elapsed();
    let spent = platform.cost();
    let mut behind = Vec::new();
    let mut followed = 0;
    while let Some(follower) = followers.join_next().await {
        let (delays, read) = follower??;
        anyhow::ensure!(read == bytes, "a follower read {read} of {bytes} bytes");
        behind.extend(delays);
        followed += 1;
    }
    let counters = database.counters().await?.since(&counted);
    let stored = database.number("SELECT COALESCE(sum(length(data)), 0)::bigint FROM log_chunks").await?;
    anyhow::ensure!(stored as u64 == bytes * args.tasks as u64, "{stored} bytes are stored");
    let total = args.tasks as f64 * args.lines as f64;
    let seconds = took.as_secs_f64();
    let frames = (done.frames_out - before.frames_out) as f64;
    let record = Record::new("logs")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("attempts_at_once", args.tasks)
        .with("followers", followed)
        .number("lines_per_s", total / seconds)
        .number("mb_per_s", stored as f64 / 1e6 / seconds)
        .ms("follower_behind_ms_p50", percentile(&behind, 50.0))
        .ms("follower_behind_ms_p99", percentile(&behind, 99.0))
        .number("frames_per_s", frames / seconds)
        .number("row_writes_per_frame", counters.row_writes() as f64 / frames)
        .number("statements_per_frame", counters.calls() as f64 / frames)
        .number("wal_bytes_per_log_byte", counters.wal_bytes as f64 / stored as f64)
        .number("cores_gateway", (spent.gateway.cpu - cost.gateway.cpu).as_secs_f64() / seconds)
        .number("cores_postgres", (spent.postgres.cpu - cost.postgres.cpu).as_secs_f64() / seconds);
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}

/// How old the last line of each piece was when it arrived, and how many bytes there were.
async fn follow(client: Client, id: TaskId, line_bytes: u64) -> anyhow::Result<(Vec<Duration>, u64)> {
    let mut pieces =
        std::pin::pin!(client.follow_log(id, &LogQuery { stream: Some("stdout".into()), ..LogQuery::default() }));
    let (mut delays, mut read) = (Vec::new(), 0);
    while let Some(item) = pieces.next().await {
        if let Followed::Event(LogItem::Piece(piece)) = item? {
            read += piece.bytes.len() as u64;
            let last = piece.bytes.len().saturating_sub(line_bytes as usize);
            let text = String::from_utf8_lossy(&piece.bytes[last..]);
            let mut words = text.split_whitespace().skip_while(|word| *word != "at").skip(1);
            if let Some(written) = words.next().and_then(|word| word.parse::<u64>().ok()) {
                delays.push(Duration::from_micros(unix_micros().saturating_sub(written)));
            }
        }
    }
    Ok((delays, read))
}
