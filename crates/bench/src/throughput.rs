//! Durable no-op tasks, from submission over HTTP through scheduler, WebSocket and simulated nodes until the last result can be
//! read; beside the limit of the same server in the same run.

use crate::{
    database::Counters,
    limit, load,
    nodes::NodesProcess,
    platform::{Cost, Options, Platform},
    report::{Record, median, round},
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// No-op tasks of each run
    #[arg(long, default_value_t = 20_000)]
    pub tasks: usize,
    /// Simulated nodes
    #[arg(long, default_value_t = 16)]
    pub nodes: u32,
    /// Tasks that a node takes at once
    #[arg(long, default_value_t = 64)]
    pub slots: u64,
    /// Tasks of one request; 0: one request a task
    #[arg(long, default_value_t = 1_000)]
    pub batch: usize,
    /// Clients that submit at once
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
    /// Submit without idempotency keys
    #[arg(long)]
    pub no_keys: bool,
    /// Runs of the limit and of the platform, in turns; the medians count
    #[arg(long, default_value_t = 3)]
    pub pairs: usize,
    /// Rows of one statement of the limit
    #[arg(long, default_value_t = 128)]
    pub limit_batch: usize,
    /// Give a run up after so many seconds
    #[arg(long, default_value_t = 900)]
    pub within_s: u64,
    /// Write what each statement cost per task to this file
    #[arg(long)]
    pub statements: Option<PathBuf>,
    #[command(flatten)]
    pub platform: Options,
}

impl Args {
    /// What the command line does without arguments.
    pub fn with_platform(platform: Options) -> Self {
        Self {
            tasks: 20_000,
            nodes: 16,
            slots: 64,
            batch: 1_000,
            clients: 4,
            no_keys: false,
            pairs: 3,
            limit_batch: 128,
            within_s: 900,
            statements: None,
            platform,
        }
    }
}

/// One run of the platform.
pub struct Run {
    pub tasks: usize,
    /// From the first submission until the last result was readable.
    pub took: Duration,
    pub submitting: Duration,
    pub reading: Duration,
    pub http_bytes: u64,
    pub requests: u64,
    pub socket_bytes: u64,
    pub frames: u64,
    pub counters: Counters,
    pub cpu: Vec<(&'static str, Duration)>,
}

impl Run {
    pub fn tasks_per_s(&self) -> f64 {
        self.tasks as f64 / self.took.as_secs_f64()
    }

    fn per_task(&self, count: f64) -> f64 {
        count / self.tasks as f64
    }

    /// What one task costs, in counts.
    pub fn costs(&self, record: Record) -> Record {
        let mut record = record
            .number("row_writes_per_task", self.per_task(self.counters.row_writes() as f64))
            .number("statements_per_task", self.per_task(self.counters.calls() as f64))
            .number("commits_per_task", self.per_task(self.counters.commits as f64))
            .number("wal_bytes_per_task", self.per_task(self.counters.wal_bytes as f64))
            .number("socket_bytes_per_task", self.per_task(self.socket_bytes as f64))
            .number("frames_per_task", self.per_task(self.frames as f64))
            .number("http_bytes_per_task", self.per_task(self.http_bytes as f64))
            .number("http_requests_per_task", self.per_task(self.requests as f64));
        for (name, cpu) in &self.cpu {
            record = record.number(&format!("cpu_us_per_task_{name}"), self.per_task(cpu.as_secs_f64() * 1e6));
        }
        let mut tables = serde_json::Map::new();
        for (name, writes) in &self.counters.tables {
            let one = [writes.inserted, writes.updated, writes.hot, writes.deleted];
            tables.insert(name.clone(), one.map(|count| round(self.per_task(count as f64))).to_vec().into());
        }
        record.with("writes_per_task_by_table_ins_upd_hot_del", Value::from(tables))
    }
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut nodes = platform.start_nodes(args.nodes, args.slots).await?;
    let reference = limit::prepare(|name| platform.postgres.url(name)).await?;
    let settings = platform.database().await?.settings().await?;
    let (mut limits, mut runs) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs.max(1) {
        limits.push(limit::run(&reference, args.tasks.max(20_000), args.limit_batch).await?.tasks_per_s);
        let run = once(&platform, &mut nodes, args, &format!("bench-{pair}")).await?;
        eprintln!(
            "pair {}: limit {:.0}/s, tasks {:.0}/s (submitted in {:.0} ms, all read back in {:.0} ms)",
            pair + 1,
            limits.last().copied().unwrap_or_default(),
            run.tasks_per_s(),
            run.submitting.as_secs_f64() * 1e3,
            run.reading.as_secs_f64() * 1e3
        );
        runs.push(run);
    }
    let rates: Vec<f64> = runs.iter().map(Run::tasks_per_s).collect();
    let ratios: Vec<f64> = rates.iter().zip(&limits).map(|(rate, limit)| rate / limit).collect();
    let submits: Vec<f64> = runs.iter().map(|run| run.tasks as f64 / run.submitting.as_secs_f64()).collect();
    let mut record = Record::new("throughput")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("postgres", settings)
        .with("tasks", args.tasks)
        .with("nodes", args.nodes)
        .with("submitted_by", describe(args))
        .number("limit_tasks_per_s", median(&limits))
        .number("tasks_per_s", median(&rates))
        .number("ratio", median(&ratios))
        .number("submitted_per_s", median(&submits));
    if let Some(last) = runs.last() {
        record = last.costs(record);
        if let Some(path) = &args.statements {
            std::fs::write(path, crate::statements::table(&last.counters, last.tasks))?;
        }
    }
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}

fn describe(args: &Args) -> String {
    let keys = if args.no_keys { "without" } else { "with" };
    match args.batch {
        0 => format!("{} clients, one task a request, {keys} idempotency keys", args.clients),
        batch => format!("{} clients, {batch} tasks a request, {keys} idempotency keys", args.clients),
    }
}

/// Submits, waits, reads back, and counts what it cost.
pub async fn once(platform: &Platform, nodes: &mut NodesProcess, args: &Args, name: &str) -> anyhow::Result<Run> {
    let within = Duration::from_secs(args.within_s);
    let mut database = platform.database().await?;
    let counted = database.counters().await?;
    let (before, cost, sim) = (nodes.figures(), platform.cost(), cpu_of(nodes));
    let shape = load::Shape {
        tasks: args.tasks,
        batch: args.batch,
        clients: args.clients,
        keys: !args.no_keys,
        goes_on: false,
    };
    let own = crate::platform::usage::of(std::process::id() as i32).cpu;
    let submitted = load::submit(platform.server, &platform.admin_token, &load::task(name, &json!({})), shape).await?;
    let all = before.ended + args.tasks as u64;
    nodes.until("every end is acknowledged", within, |figures| figures.ended >= all).await?;
    load::until_readable(&platform.client, &submitted.ids, within).await?;
    let took = submitted.began.elapsed();
    let cpu = spent(cost, platform.cost(), cpu_of(nodes).saturating_sub(sim), own);
    // Releases are still under way; their cost belongs to the tasks as well.
    let done = nodes.until("every attempt is released", within, |figures| figures.attempts == 0).await?;
    let counters = database.counters().await?.since(&counted);
    load::check_history(&load::sample(&platform.client, &submitted.ids).await?)?;
    let reading = load::read_back(&platform.client, name, &submitted.ids).await?;
    anyhow::ensure!(done.complaints == before.complaints, "the platform did not understand a simulated node");
    Ok(Run {
        tasks: args.tasks,
        took,
        submitting: submitted.took,
        reading,
        http_bytes: submitted.http_bytes,
        requests: submitted.requests,
        socket_bytes: done.bytes_in + done.bytes_out - before.bytes_in - before.bytes_out,
        frames: done.frames_in + done.frames_out - before.frames_in - before.frames_out,
        counters,
        cpu,
    })
}

fn cpu_of(nodes: &NodesProcess) -> Duration {
    crate::platform::usage::of(nodes.pid()).cpu
}

fn spent(before: Cost, after: Cost, nodes: Duration, own_before: Duration) -> Vec<(&'static str, Duration)> {
    let own = crate::platform::usage::of(std::process::id() as i32).cpu.saturating_sub(own_before);
    vec![
        ("gateway", after.gateway.cpu.saturating_sub(before.gateway.cpu)),
        ("scheduler", after.scheduler.cpu.saturating_sub(before.scheduler.cpu)),
        ("registry", after.registry.cpu.saturating_sub(before.registry.cpu)),
        ("postgres", after.postgres.cpu.saturating_sub(before.postgres.cpu)),
        ("nodes", nodes),
        ("load", own),
    ]
}

/// `limit` alone.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitArgs {
    /// Tasks of each run
    #[arg(long, default_value_t = 50_000)]
    pub tasks: usize,
    /// Rows of one statement, each a run
    #[arg(long, value_delimiter = ',', default_value = "16,128,512")]
    pub batches: Vec<usize>,
    #[command(flatten)]
    pub platform: Options,
}

pub async fn run_limit(args: &LimitArgs) -> anyhow::Result<Record> {
    let platform = Platform::start(&args.platform).await?;
    let reference = limit::prepare(|name| platform.postgres.url(name)).await?;
    let mut record = Record::new("limit")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("postgres", platform.database().await?.settings().await?);
    for batch in &args.batches {
        let limit = limit::run(&reference, args.tasks, *batch).await?;
        record = record.number(&format!("tasks_per_s_batch_{batch}"), limit.tasks_per_s);
    }
    let commits: Vec<Duration> = limit::commits(&reference, 200).await?;
    record = record.ms("commit_ms_p50", crate::report::percentile(&commits, 50.0));
    let began = Instant::now();
    platform.stop().await?;
    eprintln!("stopped in {:?}", began.elapsed());
    Ok(record)
}
