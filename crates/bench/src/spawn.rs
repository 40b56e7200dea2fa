//! Real processes on a real agent, beside the same number of bare forks and execs by this very program.

use crate::{
    load,
    platform::{
        Options, Platform,
        program::{Program, unidesk_command},
        usage,
    },
    report::{Record, median},
};
use domain::task::TaskState;
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Processes of each run
    #[arg(long, default_value_t = 2_000)]
    pub tasks: usize,
    /// Processes at once
    #[arg(long, default_value_t = 32)]
    pub at_once: usize,
    /// Runs of both, in turns; the medians count
    #[arg(long, default_value_t = 3)]
    pub pairs: usize,
    #[command(flatten)]
    pub platform: Options,
}

const PROGRAM: &str = "/bin/true";
const WITHIN: Duration = Duration::from_secs(600);

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let platform = Platform::start(&args.platform).await?;
    let mut agent = start_agent(&platform).await?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    let (mut agent_cpu, mut platform_cpu) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs.max(1) {
        bare.push(bare_rate(args.tasks, args.at_once).await?);
        let before = (usage::of_tree(agent.pid()).cpu, platform_used(&platform));
        ours.push(rate(&platform, args.tasks, args.at_once, &format!("spawn-{pair}")).await?);
        let per_task = |cpu: Duration| cpu.as_secs_f64() * 1e6 / args.tasks as f64;
        agent_cpu.push(per_task(usage::of_tree(agent.pid()).cpu.saturating_sub(before.0)));
        platform_cpu.push(per_task(platform_used(&platform).saturating_sub(before.1)));
        eprintln!("pair {}: bare {:.0}/s, tasks {:.0}/s", pair + 1, bare[pair], ours[pair]);
    }
    agent.stop(Signal::SIGTERM).await?;
    let ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
    platform.stop().await?;
    Ok(Record::new("spawn")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("tasks", args.tasks)
        .with("at_once", args.at_once)
        .number("bare_fork_exec_per_s", median(&bare))
        .number("processes_per_s", median(&ours))
        .number("ratio", median(&ratios))
        .number("agent_cpu_us_per_task", median(&agent_cpu))
        .number("platform_cpu_us_per_task", median(&platform_cpu)))
}

/// By the services and PostgreSQL. The agent's part counts its supervisors and their processes too.
fn platform_used(platform: &Platform) -> Duration {
    let cost = platform.cost();
    cost.gateway.cpu + cost.scheduler.cpu + cost.registry.cpu + cost.postgres.cpu
}

/// What a task of this bench asks for: so many of them fit at once.
fn task(run: &str, at_once: usize) -> serde_json::Value {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let requirements = json!({"cpu_cores": cores as f64 / (2 * at_once) as f64, "memory": "8MiB", "disk": "1MiB"});
    json!({"name": run, "executor": "process", "command": [PROGRAM], "requirements": requirements})
}

/// So many processes by the platform, a second.
pub async fn rate(platform: &Platform, tasks: usize, at_once: usize, name: &str) -> anyhow::Result<f64> {
    let shape = load::Shape { tasks, batch: 500, clients: 2, keys: true, goes_on: false };
    let body = task(name, at_once);
    let submitted = load::submit(platform.server, &platform.admin_token, &body, shape).await?;
    let mut database = platform.database().await?;
    let unended = format!(
        "SELECT count(*) FROM task_state s JOIN tasks t ON t.id = s.task_id WHERE t.name = '{name}' AND s.ended_at IS NULL"
    );
    while database.number(&unended).await? > 0 {
        anyhow::ensure!(submitted.began.elapsed() < WITHIN, "the processes are not done within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    load::until_readable(&platform.client, &submitted.ids, WITHIN).await?;
    let took = submitted.began.elapsed();
    let sample = load::sample(&platform.client, &submitted.ids).await?;
    if let Some(failed) = sample.iter().find(|task| task.state != TaskState::Succeeded) {
        anyhow::bail!("a process did not succeed: {}", failed.message);
    }
    load::read_back(&platform.client, name, &submitted.ids).await?;
    Ok(tasks as f64 / took.as_secs_f64())
}

/// The same program without any platform.
async fn bare_rate(count: usize, at_once: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut running: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut failures = 0;
    for _ in 0..count {
        if running.len() >= at_once {
            failures += usize::from(!matches!(running.join_next().await, Some(Ok(Ok(())))));
        }
        running.spawn(async {
            let status =
                tokio::process::Command::new(PROGRAM).stdin(Stdio::null()).stdout(Stdio::null()).status().await?;
            anyhow::ensure!(status.success(), "{PROGRAM} ended with {status}");
            Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        failures += usize::from(!matches!(ended, Ok(Ok(()))));
    }
    anyhow::ensure!(failures == 0, "{failures} of {count} bare processes failed");
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// A real agent that takes processes.
pub async fn start_agent(platform: &Platform) -> anyhow::Result<Program> {
    let dir = platform.root().join("agent");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
    let token_file = dir.join("token");
    fs::write(&token_file, platform.client.create_node_token("real").await?.token)?;
    fs::write(dir.join("policy.toml"), "executors = [\"process\"]\n")?;
    let mut command: Command = unidesk_command(&["--server", &format!("http://{}", platform.server), "provider"])?;
    command.arg("--token-file").arg(&token_file).arg("--data-dir").arg(&dir).env("RUST_LOG", "warn");
    Program::start("agent", command, &platform.root().join("logs")).await
}
