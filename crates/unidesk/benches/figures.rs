//! The figures of `docs/benchmarks.md`: measured on the real platform, printed, never asserted.
//!
//! `cargo bench -p unidesk --bench figures`. Needs PostgreSQL, Docker and Git on this machine.

use client::Client;
use domain::task::TaskState;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use test_kit::{
    docker::bollard::{
        Docker,
        models::{ContainerCreateBody, HostConfig},
        query_parameters::*,
    },
    git_host::{Content, GitHost},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const PROCESS_TASKS: usize = 200;
const CONTAINER_PAIRS: usize = 30;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only asks whether this builds.
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let dir = tempfile::Builder::new()
        .prefix("ud-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .tempdir()?;
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("machine: {} cores, {}; build: {build}", std::thread::available_parallelism()?, cpu_model());

    let cold = Up::start(&dir.path().join("d")).await?;
    println!("up, first start (makes the database): {}", ms(cold.took));
    cold.stop().await?;
    let mut warm = Vec::new();
    for _ in 0..5 {
        let up = Up::start(&dir.path().join("d")).await?;
        warm.push(up.took);
        up.stop().await?;
    }
    println!("up, later starts: {}", spread(&mut warm));

    let up = Up::start(&dir.path().join("d")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("idle private memory, server with one local node: {:.1} MiB", up.private_mib()?);
    idle_agent(&up, &dir.path().join("agent")).await?;
    process_latency(&up).await?;
    container_overhead(&up).await?;
    up.stop().await
}

/// Submission to start, and submission to the end that a client sees, one task at a time on an idle cluster.
async fn process_latency(up: &Up) -> anyhow::Result<()> {
    let (mut to_start, mut to_end) = (Vec::new(), Vec::new());
    for _ in 0..PROCESS_TASKS {
        let began = Instant::now();
        let task = up.client.submit(&json!({"command": ["/bin/true"]}), None).await?;
        let task = up.client.wait(task.id).await?;
        to_end.push(began.elapsed());
        anyhow::ensure!(task.state == TaskState::Succeeded, "{}", task.message);
        let started_at = task.started_at.unwrap_or(task.created_at);
        to_start.push((started_at - task.created_at).to_std().unwrap_or_default());
    }
    println!(
        "process task, submission to start (by the database's clock), {PROCESS_TASKS} tasks: {}",
        spread(&mut to_start)
    );
    println!("process task, submission to the end as the client sees it: {}", spread(&mut to_end));
    Ok(())
}

/// A warm container task beside the same container through the Docker API alone on one kept-alive connection, in turns.
async fn container_overhead(up: &Up) -> anyhow::Result<()> {
    let image = test_kit::docker::busybox().await;
    let docker = test_kit::docker::docker().await;
    let git = GitHost::start();
    let env = git
        .repository("env")
        .commit(&[("Dockerfile", Content::from(format!("FROM {image}\n").as_str()))], "environment");
    let code = git.repository("code").commit(&[("hello.sh", Content::from("echo hello\n"))], "code");
    let task = json!({"command": ["sh", "hello.sh"], "source": {
        "code_repo_url": git.url("code"), "code_commit_id": code, "env_repo_url": git.url("env"), "env_commit_id": env, "dockerfile_path": "Dockerfile"}});
    // Builds the image and fills the cache.
    run(&up.client, &task).await?;
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..CONTAINER_PAIRS {
        ours.push(run(&up.client, &task).await?);
        alone.push(docker_alone(&docker, image).await?);
    }
    println!(
        "warm container task, submission to the end as the client sees it, {CONTAINER_PAIRS} in turns: {}",
        spread(&mut ours)
    );
    println!("the same container by the Docker API alone (create, start, wait, read its log): {}", spread(&mut alone));
    println!("over it at p50: {}", ms(percentile(&ours, 50).saturating_sub(percentile(&alone, 50))));
    Ok(())
}

async fn run(client: &Client, task: &Value) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let task = client.submit(task, None).await?;
    let task = client.wait(task.id).await?;
    anyhow::ensure!(task.state == TaskState::Succeeded, "{}", task.message);
    Ok(began.elapsed())
}

async fn docker_alone(docker: &Docker, image: &str) -> anyhow::Result<Duration> {
    let host = HostConfig {
        memory: Some(512 << 20),
        nano_cpus: Some(1_000_000_000),
        init: Some(true),
        ..HostConfig::default()
    };
    let cmd = ["sh", "-c", "echo hello"].map(str::to_owned).to_vec();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(cmd),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let began = Instant::now();
    let created = docker.create_container(None::<CreateContainerOptions>, body).await?;
    docker.start_container(&created.id, None::<StartContainerOptions>).await?;
    let mut wait = docker.wait_container(&created.id, None::<WaitContainerOptions>);
    while wait.next().await.is_some() {}
    let mut log = docker.logs(&created.id, Some(LogsOptionsBuilder::default().stdout(true).stderr(true).build()));
    while log.next().await.is_some() {}
    let took = began.elapsed();
    docker.remove_container(&created.id, Some(RemoveContainerOptionsBuilder::default().force(true).build())).await?;
    Ok(took)
}

async fn idle_agent(up: &Up, data_dir: &Path) -> anyhow::Result<()> {
    let token = up.client.create_node_token("bench").await?.token;
    std::fs::create_dir_all(data_dir)?;
    let token_file = data_dir.join("token");
    std::fs::write(&token_file, token)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_unidesk"));
    command.args(["--server", &up.url, "provider", "--token-file"]).arg(&token_file).arg("--data-dir").arg(data_dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    first_line(&mut child).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("idle private memory, agent: {:.1} MiB", private_mib(child.id())?);
    child.kill().await?;
    Ok(())
}

/// A platform in a process of its own.
struct Up {
    child: Child,
    url: String,
    client: Client,
    took: Duration,
}

impl Up {
    async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_unidesk"));
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
        let ready = first_line(&mut child).await?;
        let took = began.elapsed();
        let url = ready.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let token = std::fs::read_to_string(data_dir.join("admin.token"))?;
        let client = Client::new(&url, token.trim())?;
        Ok(Self { child, url, client, took })
    }
    fn private_mib(&self) -> anyhow::Result<f64> {
        private_mib(self.child.id())
    }
    async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().map(|pid| nix::unistd::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

async fn first_line(child: &mut Child) -> anyhow::Result<String> {
    let stdout = child.stdout.take().ok_or_else(|| anyhow::anyhow!("its output is not piped"))?;
    let mut line = String::new();
    tokio::time::timeout(Duration::from_secs(60), BufReader::new(stdout).read_line(&mut line)).await??;
    anyhow::ensure!(line.starts_with("ready"), "it did not become ready");
    Ok(line)
}

fn private_mib(pid: Option<u32>) -> anyhow::Result<f64> {
    let path = PathBuf::from(format!("/proc/{}/status", pid.unwrap_or_default()));
    let status = std::fs::read_to_string(path)?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    Ok(kib.unwrap_or_default() / 1024.0)
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or_else(String::new, |rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let mut sorted = sorted.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn spread(all: &mut [Duration]) -> String {
    all.sort();
    format!("p50 {}, p99 {}, least {}", ms(percentile(all, 50)), ms(percentile(all, 99)), ms(all[0]))
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
