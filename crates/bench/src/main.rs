//! The command line of the benches.

use bench::{fleet, latency, nodes, throughput};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measure UniDesk on this machine: JSON lines for programs, tables for people
#[derive(Debug, Parser)]
#[command(name = "unidesk-bench", max_term_width = 100)]
struct Cli {
    /// Add each bench's figures to this file, a JSON line each
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What this PostgreSQL could do at best: four row writes a task, in batches
    Limit(throughput::LimitArgs),
    /// Durable no-op tasks from submission to the last readable result, beside the limit
    Throughput(throughput::Args),
    /// One task at a time on an idle cluster
    Latency(latency::Args),
    /// Many idle nodes, their cost, and their return after the gateway was killed
    Fleet(fleet::Args),
    /// A process of simulated nodes; the others start it
    #[command(hide = true)]
    Nodes(nodes::process::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Bench::Nodes(args) = &cli.bench {
        return nodes::process::run(args);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let record = runtime.block_on(async {
        match &cli.bench {
            Bench::Limit(args) => throughput::run_limit(args).await,
            Bench::Throughput(args) => throughput::run(args).await,
            Bench::Latency(args) => latency::run(args).await,
            Bench::Fleet(args) => fleet::run(args).await,
            Bench::Nodes(_) => unreachable!("handled above"),
        }
    })?;
    record.publish(cli.json.as_deref())
}
