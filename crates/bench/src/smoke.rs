//! The short run of CI: nothing is asserted on time, which a shared machine does not have, but on counts. A change that makes a task
//! dearer by a row write, a statement or a frame is seen in the request that brings it.

use crate::{
    fleet,
    platform::Options,
    report::Record,
    throughput::{self, Args},
};
use anyhow::Context as _;

/// What one no-op task may cost at most, submitted by batch. To be lowered with every step that makes it cheaper, never raised
/// without a word why in docs/benchmarks.md.
const BOUNDS: [(&str, f64); 6] = [
    // The table in docs/benchmarks.md, and some more where the reports of one attempt fall into two groups.
    ("row_writes_per_task", 10.5),
    ("statements_per_task", 0.8),
    ("wal_bytes_per_task", 5_800.0),
    // assign, accepted, preparing, started, exited, ended, released, and acknowledgements of many.
    ("frames_per_task", 8.0),
    ("socket_bytes_per_task", 1_800.0),
    ("http_bytes_per_task", 150.0),
];

#[derive(Clone, Debug, clap::Args)]
pub struct SmokeArgs {
    /// No-op tasks
    #[arg(long, default_value_t = 2_000)]
    pub tasks: usize,
    #[command(flatten)]
    pub platform: Options,
}

pub async fn run(args: &SmokeArgs) -> anyhow::Result<Record> {
    let run = Args {
        tasks: args.tasks,
        nodes: 16,
        slots: 64,
        batch: 500,
        clients: 2,
        no_keys: false,
        pairs: 1,
        limit_batch: 128,
        within_s: 300,
        statements: None,
        platform: args.platform.clone(),
    };
    let record = throughput::run(&run).await?;
    let mut dear = Vec::new();
    for (name, bound) in BOUNDS {
        let found = record.get(name).with_context(|| format!("{name} was not measured"))?;
        if found > bound {
            dear.push(format!("{name} is {found}; at most {bound} are meant"));
        }
    }
    let record = return_of_nodes(args, record).await?;
    anyhow::ensure!(dear.is_empty(), "a task costs more than it should:\n{}", dear.join("\n"));
    Ok(record)
}

/// A killed gateway costs no node its standing.
async fn return_of_nodes(args: &SmokeArgs, record: Record) -> anyhow::Result<Record> {
    let nodes = 100;
    let fleet = fleet::run(&fleet::Args {
        nodes,
        per_process: nodes,
        idle_s: 5,
        dial_over_ms: 0,
        within_s: 240,
        no_kill: false,
        watch_s: 2,
        platform: args.platform.clone(),
    })
    .await?;
    let of = |name: &str| fleet.get(name).with_context(|| format!("{name} was not measured"));
    anyhow::ensure!(of("falsely_offline")? == 0.0, "a node was called offline while the gateway was away");
    anyhow::ensure!(of("refused_in_the_storm")? == 0.0, "a node was refused when it came back");
    Ok(record.number("all_nodes_back_after_ms", of("all_back_after_ms")?))
}
