//! `unidesk up`: everything on this machine, in seconds.

use crate::{
    paths::Places,
    standalone::{self, Options},
};
use std::{io::IsTerminal, io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::Instant};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where everything is kept; $XDG_DATA_HOME/unidesk by default, as root /var/lib/unidesk
    #[arg(long, env = "UNIDESK_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address and port of the API and the nodes' door
    #[arg(long, env = "UNIDESK_LISTEN", default_value = "127.0.0.1:7700", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// An existing PostgreSQL instead of a private one
    #[arg(long, env = "UNIDESK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// No local node: this machine takes no work
    #[arg(long, conflicts_with = "nodes")]
    pub no_node: bool,
    /// Local nodes, to try out a fleet; each offers the whole machine
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    #[command(flatten)]
    pub scheduler: scheduler::Config,
    #[command(flatten)]
    pub registry: node_registry::Config,
    #[command(flatten)]
    pub objects: artifact_service::Config,
    #[command(flatten)]
    pub backup: backup::Config,
    /// No backups of the database: somebody else makes them
    #[arg(long)]
    pub no_backup: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // People see the ready line; what goes wrong is logged.
    service_kit::telemetry::init("warn");
    let data_dir = std::path::absolute(args.data_dir.unwrap_or_else(|| Places::from_env().data_dir()))?;
    // Whoever brings a database of their own backs it up there, unless they say where it is to be kept here.
    let has_backups = !args.no_backup && (args.database_url.is_none() || args.backup.backup_dir.is_some());
    let options = Options {
        data_dir: data_dir.clone(),
        listen: args.listen,
        database_url: args.database_url,
        nodes: if args.no_node { 0 } else { usize::from(args.nodes) },
        scheduler: args.scheduler,
        registry: args.registry,
        objects: args.objects,
        backup: has_backups.then_some(args.backup),
        shim: None,
    };
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let platform = {
        let mut spinner = Steps::new();
        let mut show = |what: &str| spinner.step(what);
        tokio::select! {
            started = standalone::start(&options, &mut show) => started,
            _ = interrupts.recv() => anyhow::bail!("stopped while starting"),
            _ = terminations.recv() => anyhow::bail!("stopped while starting"),
        }?
    };
    let nodes = platform.node_names();
    println!(
        "ready {} version={} node={} data={}",
        platform.url,
        crate::version::VERSION,
        if nodes.is_empty() { "-".into() } else { nodes.join(",") },
        data_dir.display()
    );
    std::io::stdout().flush()?;
    let is_terminal = std::io::stderr().is_terminal();
    if is_terminal {
        eprintln!("In another terminal: unidesk run \"uname -a\"     Stop: Ctrl-C");
    }
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    let running = platform.running();
    match running {
        0 => eprintln!("stopping"),
        n => eprintln!(
            "stopping; {n} running {} at most 5 s and will run again at the next start (once more: leave running work alone)",
            if n == 1 { "task gets" } else { "tasks get" }
        ),
    }
    tokio::select! {
        () = platform.stop() => Ok(ExitCode::SUCCESS),
        // Running work goes on without us and is adopted by the next start. PostgreSQL is ended by the kernel.
        _ = interrupts.recv() => Ok(ExitCode::from(130)),
        _ = terminations.recv() => Ok(ExitCode::from(143)),
    }
}

/// One line that says what is being started, on a terminal only.
struct Steps {
    is_terminal: bool,
    began: Instant,
    shown: String,
}

impl Steps {
    fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), began: Instant::now(), shown: String::new() }
    }
    fn step(&mut self, what: &str) {
        if !self.is_terminal {
            return;
        }
        let separator = if self.shown.is_empty() { "" } else { ", " };
        self.shown += &format!("{separator}{what} {:.1} s", self.began.elapsed().as_secs_f64());
        eprint!("\r\x1b[Kstarting  {}", self.shown);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
