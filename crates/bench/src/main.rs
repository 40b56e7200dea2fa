//! The command line of the benches.

use bench::{
    api, artifacts, faults, fleet, latency, logs, nodes, peers, queue, slots, smoke, soak, spawn, tables, throughput,
};
use clap::{Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// The same load with more and more tasks waiting behind it
    Queue(queue::Args),
    /// What people ask, with a million tasks in the database
    Api(api::Args),
    /// Real processes on a real agent, beside bare forks
    Spawn(spawn::Args),
    /// How much of their time the slots of nodes stand empty while tasks wait, near and far
    Slots(slots::Args),
    /// Lines and bytes a second from attempts to storage and to followers
    Logs(logs::Args),
    /// A large file in and out, beside curl and cp
    Artifacts(artifacts::Args),
    /// Other platforms on as many tasks, installed from their registries, beside ours
    Peers(peers::Args),
    /// At full speed for half an hour while old tasks are deleted: does the database stay bounded?
    Soak(soak::Args),
    /// The full load while services and PostgreSQL are killed: is anything lost, doubled or stuck?
    Faults(faults::Args),
    /// The short run of CI: fails when a task costs more rows, statements or bytes than it should
    Smoke(smoke::SmokeArgs),
    /// Everything, one after another, in under twenty minutes; one that fails does not stop the others
    All,
    /// The newest figures of each bench as tables in Markdown
    Tables(tables::Args),
    /// A process of simulated nodes; the others start it
    #[command(hide = true)]
    Nodes(nodes::process::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.bench {
        Bench::Nodes(args) => nodes::process::run(args),
        Bench::Tables(args) => tables::run(args),
        Bench::All => all(cli.json.as_deref()),
        other => run(other, cli.json.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What `just bench` runs, as it would be typed. Sizes are such that all of it takes less than twenty minutes on two cores.
const ALL: [&str; 12] = [
    "limit",
    "throughput --tasks 30000",
    "throughput --tasks 20000 --batch 0 --clients 64 --pairs 1",
    "latency",
    "fleet --nodes 1000 --idle-s 20 --watch-s 5",
    "fleet --nodes 10000 --idle-s 45",
    "queue",
    "api",
    "spawn",
    "logs",
    "faults",
    "peers",
];

fn all(json: Option<&Path>) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for line in ALL {
        let words = std::iter::once("unidesk-bench").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words)?;
        if let Err(error) = run(&cli.bench, json) {
            eprintln!("{line}: {error:#}");
            failed.push(line);
        }
    }
    anyhow::ensure!(failed.is_empty(), "no figures of: {}", failed.join("; "));
    Ok(())
}

fn run(bench: &Bench, json: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let record = runtime.block_on(async {
        match bench {
            Bench::Limit(args) => throughput::run_limit(args).await,
            Bench::Throughput(args) => throughput::run(args).await,
            Bench::Latency(args) => latency::run(args).await,
            Bench::Fleet(args) => fleet::run(args).await,
            Bench::Queue(args) => queue::run(args).await,
            Bench::Api(args) => api::run(args).await,
            Bench::Spawn(args) => spawn::run(args).await,
            Bench::Slots(args) => slots::run(args).await,
            Bench::Logs(args) => logs::run(args).await,
            Bench::Artifacts(args) => artifacts::run(args).await,
            Bench::Peers(args) => peers::run(args).await,
            Bench::Soak(args) => soak::run(args).await,
            Bench::Faults(args) => faults::run(args).await,
            Bench::Smoke(args) => smoke::run(args).await,
            Bench::All | Bench::Tables(_) | Bench::Nodes(_) => anyhow::bail!("this one measures nothing itself"),
        }
    })?;
    record.publish(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_whole_run_is_a_command() {
        for line in ALL {
            let words = std::iter::once("unidesk-bench").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
