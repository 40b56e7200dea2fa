//! `unidesk provider`: the agent of a node.

use crate::paths::Places;
use anyhow::Context as _;
use provider_gateway::Config;
use service_kit::Service;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use trust::Trust;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with the node's token
    #[arg(long, env = "UNIDESK_NODE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Where the agent keeps caches and what the server has not acknowledged; `provider` in the data directory by default
    #[arg(long, env = "UNIDESK_PROVIDER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PEM file with certificates that are trusted besides the system's, for the server and for its object store
    #[arg(long, env = trust::CA_FILE, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How long running work may take to stop when the agent is stopped; it runs again elsewhere. 0s leaves it to the next agent
    #[arg(long, env = "UNIDESK_PROVIDER_GRACE", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub grace: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let ms = domain::quantity::parse_duration_ms(text);
    ms.map(Duration::from_millis).ok_or_else(|| "give a duration such as 30s or 5m".to_owned())
}

/// `server`: the address of the platform, by the flag that all commands have.
pub async fn run(args: Args, server: Option<String>) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::init("info");
    let server = server
        .or_else(|| std::env::var("UNIDESK_URL").ok().filter(|url| !url.is_empty()))
        .context("which server? give --server URL, or set UNIDESK_URL")?;
    let token = std::fs::read_to_string(&args.token_file)
        .with_context(|| format!("reading the token file {}", args.token_file.display()))?;
    let data_dir =
        std::path::absolute(args.data_dir.unwrap_or_else(|| Places::from_env().data_dir().join("provider")))?;
    let service = Service::new();
    let mut config = Config::load(server, token.trim().to_owned(), &data_dir)?;
    config.trust = args.ca_file.as_deref().map(Trust::with_file).transpose()?.unwrap_or_default();
    let mut agent = provider_gateway::start(&service, config).await?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut is_told = false;
    loop {
        tokio::select! {
            _ = interrupts.recv() => break,
            _ = terminations.recv() => break,
            () = agent.connected(), if !is_told => {
                is_told = true;
                println!("ready data={}", data_dir.display());
            }
        }
    }
    if !args.grace.is_zero() {
        if agent.running() > 0 {
            let grace = args.grace.as_secs_f64();
            eprintln!(
                "stopping; {} running, {grace} s to stop and then again elsewhere (once more: leave it to the next agent)",
                agent.running()
            );
        }
        tokio::select! {
            () = agent.shut_down(args.grace) => {}
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
    }
    if agent.running() > 0 {
        eprintln!("{} running; the work goes on and the next agent takes it over", agent.running());
    }
    service.stop_within(Duration::from_secs(3)).await;
    Ok(ExitCode::SUCCESS)
}
