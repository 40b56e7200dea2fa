//! Other platforms on the same machine in the same run: as many no-op tasks on each, with what each of them keeps. They are installed
//! from their registries outside the repository; one that can't be had is said to be missing.

mod install;
mod redis;

use crate::{
    limit,
    platform::{Options, Platform, program::Program},
    report::{Record, round},
    spawn, throughput,
};
use anyhow::Context as _;
use install::Scratch;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// No-op tasks on each: so many that all stages are full for most of the run
    #[arg(long, default_value_t = 20_000)]
    pub tasks: usize,
    /// Processes of those that start one for a task
    #[arg(long, default_value_t = 3_000)]
    pub processes: usize,
    /// Only these: graphile-worker, celery, dask, ray, hyperqueue
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Install here and keep it for the next run; a directory that is removed by default
    #[arg(long)]
    pub scratch: Option<PathBuf>,
    /// Give one up after so many seconds
    #[arg(long, default_value_t = 90)]
    pub within_s: u64,
    /// Processes at once, of HyperQueue and of ours beside it
    #[arg(long, default_value_t = 32)]
    pub at_once: usize,
    #[command(flatten)]
    pub platform: Options,
}

/// What one of them is, and what is left of a task when the machine loses its power.
struct Peer {
    name: &'static str,
    title: &'static str,
    keeps: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Graphile { how: &'static str },
    Celery,
    Dask,
    Ray,
    HyperQueue,
}

const PEERS: [Peer; 6] = [
    Peer {
        name: "graphile-worker",
        title: "graphile-worker, one by one",
        keeps: "the task until it is done, synced in PostgreSQL; no result, no history",
        kind: Kind::Graphile { how: "one" },
    },
    Peer {
        name: "graphile-worker",
        title: "graphile-worker, in batches",
        keeps: "the task until it is done, synced in PostgreSQL; no result, no history",
        kind: Kind::Graphile { how: "many" },
    },
    Peer {
        name: "celery",
        title: "Celery on Redis",
        keeps: "task and result in memory, in a file of which up to a second is lost; acks_late: a killed worker's task runs again",
        kind: Kind::Celery,
    },
    Peer { name: "ray", title: "Ray", keeps: "nothing: memory of its driver and workers", kind: Kind::Ray },
    Peer { name: "dask", title: "Dask", keeps: "nothing: memory of its scheduler and workers", kind: Kind::Dask },
    Peer {
        name: "hyperqueue",
        title: "HyperQueue, a process a task",
        keeps: "nothing: memory of its server (it can keep a journal, not synced)",
        kind: Kind::HyperQueue,
    },
];
const OURS_KEEP: &str = "task, every state with its time, result: each synced in PostgreSQL before it is acknowledged";

const SCRIPTS: [(&str, &str); 6] = [
    ("graphile.mjs", include_str!("../peers/graphile.mjs")),
    ("celery_app.py", include_str!("../peers/celery_app.py")),
    ("celery_run.py", include_str!("../peers/celery_run.py")),
    ("dask_run.py", include_str!("../peers/dask_run.py")),
    ("ray_run.py", include_str!("../peers/ray_run.py")),
    ("hyperqueue_run.py", include_str!("../peers/hyperqueue_run.py")),
];

/// What a script says when it is done.
#[derive(Clone, Debug, Deserialize)]
struct Done {
    done: usize,
    seconds: f64,
    version: String,
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    if let Some(unknown) = args.only.iter().find(|only| !PEERS.iter().any(|peer| peer.name == **only)) {
        anyhow::bail!("there is no {unknown}; there are graphile-worker, celery, dask, ray, hyperqueue");
    }
    let scratch = Scratch::open(args.scratch.as_deref())?;
    for (name, text) in SCRIPTS {
        std::fs::write(scratch.path().join(name), text).with_context(|| format!("writing {name}"))?;
    }
    let mut platform = Platform::start(&args.platform).await?;
    let mut record = Record::new("peers")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("tasks", args.tasks)
        .with("processes", args.processes);
    let (ours, processes) = ours(&mut platform, args, &mut record).await?;
    for peer in PEERS.iter().filter(|peer| args.only.is_empty() || args.only.iter().any(|only| *only == peer.name)) {
        let outcome = match one(&platform, &scratch, peer, args).await {
            Ok(done) => {
                let rate = done.done as f64 / done.seconds;
                eprintln!("{}: {rate:.0}/s", peer.title);
                let ours = match peer.kind {
                    Kind::HyperQueue => processes,
                    _ => ours,
                };
                let version = done.version;
                row(round(rate), round(ours / rate), format!("{} (version {version})", peer.keeps))
            }
            Err(error) => {
                // The reason may name this machine's paths and hosts: it is told here, and not recorded.
                eprintln!("{}: no figure: {error:#}", peer.title);
                let why = if error.is::<install::Missing>() { "it could not be installed here" } else { "it failed" };
                row(why, "", peer.keeps)
            }
        };
        record = record.with(peer.title, outcome);
    }
    platform.stop().await?;
    Ok(record)
}

fn row(tasks_per_s: impl Into<Value>, ours_over_it: impl Into<Value>, keeps: impl Into<Value>) -> Value {
    json!({"tasks_per_s": tasks_per_s.into(), "ours_over_it": ours_over_it.into(), "what_is_kept": keeps.into()})
}

/// Our own figures on the same number: by batch, one by one, and as processes.
async fn ours(platform: &mut Platform, args: &Args, record: &mut Record) -> anyhow::Result<(f64, f64)> {
    let reference = limit::prepare(|name| platform.postgres.url(name)).await?;
    let limit = limit::run(&reference, args.tasks.max(20_000), 128).await?.tasks_per_s;
    let mut nodes = platform.start_nodes(16, 64).await?;
    let how = |batch, clients| throughput::Args {
        tasks: args.tasks,
        batch,
        clients,
        ..throughput::Args::with_platform(args.platform.clone())
    };
    // Connections are opened, plans are made: the others are warmed up too.
    throughput::once(platform, &mut nodes, &throughput::Args { tasks: 2_000, ..how(500, 4) }, "warm").await?;
    let batch = throughput::once(platform, &mut nodes, &how(args.tasks.div_ceil(8).min(1_000), 4), "batch").await?;
    let single = throughput::once(platform, &mut nodes, &how(0, 64), "single").await?;
    drop(nodes);
    let mut agent = spawn::start_agent(platform).await?;
    spawn::rate(platform, 200, args.at_once, "processes-warm").await?;
    let processes = spawn::rate(platform, args.processes, args.at_once, "processes").await?;
    agent.stop(Signal::SIGTERM).await?;
    let (batch, single) = (batch.tasks_per_s(), single.tasks_per_s());
    eprintln!(
        "limit {limit:.0}/s; ours {batch:.0}/s by batch, {single:.0}/s one by one, {processes:.0}/s as processes"
    );
    let of = |rate: f64| row(round(rate), 1, OURS_KEEP);
    *record = record
        .clone()
        .number("limit_tasks_per_s", limit)
        .with("UniDesk, by batch", of(batch))
        .with("UniDesk, one by one from 64 clients", of(single))
        .with("UniDesk, a process a task", of(processes));
    Ok((batch, processes))
}

async fn one(platform: &Platform, scratch: &Scratch, peer: &Peer, args: &Args) -> anyhow::Result<Done> {
    let count = if peer.kind == Kind::HyperQueue { args.processes } else { args.tasks };
    let tasks = count.to_string();
    let files = platform.root().join("peer");
    std::fs::create_dir_all(&files)?;
    let mut broker: Option<Program> = None;
    let mut command = match peer.kind {
        Kind::Graphile { how } => {
            let mut database = platform.database().await?;
            database.run("DROP DATABASE IF EXISTS graphile").await?;
            database.run("CREATE DATABASE graphile").await?;
            let modules = scratch.node_package("graphile-worker").await?;
            let mut command = Command::new("node");
            command.arg(scratch.path().join("graphile.mjs")).arg(modules).arg(platform.postgres.url("graphile"));
            command.arg(&tasks).arg(how);
            command
        }
        Kind::Celery => {
            let python = scratch.python_package("celery", &["celery", "redis", "packaging"]).await?;
            let socket = files.join("redis");
            broker = Some(redis::start(scratch, &socket, &platform.root().join("logs")).await?);
            let mut command = script(&python, scratch.path(), "celery_run.py");
            command.arg(&tasks).env("REDIS", socket);
            command
        }
        Kind::Dask => {
            let python = scratch.python_package("distributed", &["distributed"]).await?;
            let mut command = script(&python, scratch.path(), "dask_run.py");
            command.arg(&tasks);
            command
        }
        Kind::Ray => {
            let python = scratch.python_package("ray", &["ray"]).await?;
            let mut command = script(&python, scratch.path(), "ray_run.py");
            command.arg(&tasks).arg(files.join("ray"));
            command
        }
        Kind::HyperQueue => {
            let python = scratch.python_package("hyperqueue", &["hyperqueue"]).await?;
            let mut command = script(&python, scratch.path(), "hyperqueue_run.py");
            command.arg(&tasks).arg(args.at_once.to_string()).arg(files.join("hyperqueue"));
            command
        }
    };
    command.current_dir(scratch.path()).env("HOME", &files).env("PYTHONDONTWRITEBYTECODE", "1");
    let outcome = drive(command, &platform.root().join("logs").join("peers"), args.within_s).await;
    if let Some(mut broker) = broker.take() {
        broker.stop(Signal::SIGTERM).await?;
    }
    let done = outcome?;
    anyhow::ensure!(done.done == count, "{} of {count} tasks were done", done.done);
    Ok(done)
}

fn script(python: &Path, dir: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(dir.join(name));
    command
}

/// Runs a script to its end in a process group of its own, of which nothing is left afterwards.
async fn drive(mut command: Command, log: &Path, within_s: u64) -> anyhow::Result<Done> {
    let errors = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().context("starting the script")?;
    let group = child.id().map(|id| Pid::from_raw(id as i32));
    let output = tokio::time::timeout(Duration::from_secs(within_s), child.wait_with_output()).await;
    if let Some(group) = group {
        // Mostly it is gone already.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let Ok(output) = output else { anyhow::bail!("it was not done within {within_s} s") };
    let output = output?;
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    anyhow::ensure!(output.status.success(), "{}: {}", output.status, last.join(" / "));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().context("it said nothing")?;
    serde_json::from_str(line).with_context(|| format!("it said {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_script_that_fails_says_why_and_one_that_hangs_is_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            command
        };
        let log = dir.path().join("log");
        let line = r#"echo noise; echo '{"done": 7, "seconds": 0.5, "version": "1"}'"#;
        assert_eq!(drive(shell(line), &log, 20).await.expect("a figure").done, 7);
        let failed = drive(shell("echo no broker >&2; exit 3"), &log, 20).await.expect_err("no figure");
        assert!(failed.to_string().contains("no broker"), "{failed}");
        let hung = drive(shell("sleep 1000 & wait"), &log, 1).await.expect_err("no figure");
        assert!(hung.to_string().contains("not done within 1 s"), "{hung}");
    }
}
