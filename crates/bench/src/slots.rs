//! How much of their time the slots of nodes stand empty although tasks wait: what lies between the end of one task and the start of
//! the next on its slot. Short tasks and long lines show it.

use crate::{
    load::{self, Shape},
    platform::{Options, Platform},
    report::{Record, round},
};
use serde_json::json;
use std::time::Duration;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Simulated nodes; few, so that what a task costs the platform is not what is measured
    #[arg(long, default_value_t = 1)]
    pub nodes: u32,
    /// Tasks that a node takes at once
    #[arg(long, default_value_t = 4)]
    pub slots: u64,
    /// Milliseconds that a task runs
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    pub run_ms: Vec<u64>,
    /// Milliseconds of a round trip between platform and nodes
    #[arg(long, value_delimiter = ',', default_value = "1,50")]
    pub round_trip_ms: Vec<u64>,
    /// Seconds of work for all slots at each point, three tasks each at least
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    #[command(flatten)]
    pub platform: Options,
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut record = Record::new("slots")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("nodes", args.nodes)
        .with("slots_per_node", args.slots);
    for round_trip_ms in &args.round_trip_ms {
        for run_ms in &args.run_ms {
            let round_trip = Duration::from_millis(*round_trip_ms);
            let [without, with] =
                [measure(args, *run_ms, round_trip, false).await?, measure(args, *run_ms, round_trip, true).await?];
            let point = json!({
                "tasks": with.tasks,
                "idle_percent": round(without.idle_percent),
                "idle_percent_ahead": round(with.idle_percent),
                "tasks_per_s": round(without.tasks_per_s),
                "tasks_per_s_ahead": round(with.tasks_per_s),
            });
            record = record.with(&format!("{run_ms}_ms_tasks_round_trip_{round_trip_ms}_ms"), point);
        }
    }
    Ok(record)
}

struct Point {
    tasks: u64,
    idle_percent: f64,
    tasks_per_s: f64,
}

/// `ahead`: the nodes take tasks before a slot is free, as agents do; without it as agents did before they could.
async fn measure(args: &Args, run_ms: u64, round_trip: Duration, ahead: bool) -> anyhow::Result<Point> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut nodes = platform.start_far_nodes(args.nodes, args.slots, round_trip, ahead).await?;
    let slots = u64::from(args.nodes) * args.slots;
    let tasks = slots * (args.seconds * 1_000 / run_ms.max(1)).max(3);
    let body = load::task("slots", &json!({"run_ms": run_ms}));
    let shape = Shape { tasks: tasks as usize, batch: 100, clients: 1, keys: true, goes_on: false };
    let before = nodes.figures().ended;
    load::submit(platform.server, &platform.admin_token, &body, shape).await?;
    let within = Duration::from_millis(run_ms * (tasks / slots)) * 4 + Duration::from_secs(60);
    let figures = nodes.until("all tasks have ended", within, |figures| figures.ended >= before + tasks).await?;
    let used = figures.used;
    anyhow::ensure!(used.ran == tasks, "{} of {tasks} tasks ran", used.ran);
    // A node is never given more than it has: whatever is sent ahead waits there.
    anyhow::ensure!(used.most_running <= args.slots, "{} tasks ran at once on one node", used.most_running);
    let window = used.last_exit_at.saturating_sub(used.first_start_at) as f64 * slots as f64;
    drop(nodes);
    platform.stop().await?;
    Ok(Point {
        tasks,
        idle_percent: 100.0 * (1.0 - used.busy_us as f64 / window),
        tasks_per_s: tasks as f64 * 1e6 / (window / slots as f64),
    })
}
