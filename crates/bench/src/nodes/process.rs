//! A process full of simulated nodes, as its parent sees it: orders in, figures out.

use super::{
    figures::Figures,
    fleet::{Fleet, Order},
};
use anyhow::Context as _;
use std::{io::BufRead as _, net::SocketAddr, path::PathBuf, process::Stdio, sync::mpsc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    task::JoinSet,
};

/// How the process is called: `unidesk-bench nodes ...`. Started by the other commands.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the api-gateway listens
    #[arg(long)]
    pub server: SocketAddr,
    /// A node's token a line
    #[arg(long)]
    pub tokens: PathBuf,
    /// Tasks of the default size that a node takes at once
    #[arg(long, default_value_t = 64)]
    pub slots: u64,
    /// The first connections are spread over so many milliseconds
    #[arg(long, default_value_t = 0)]
    pub dial_over_ms: u64,
    /// The round trip of every line is longer by so many milliseconds
    #[arg(long, default_value_t = 0)]
    pub round_trip_ms: u64,
    /// Tasks may be sent before a slot is free
    #[arg(long)]
    pub ahead: bool,
}

/// Runs the nodes in this process until stdin ends.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.tokens).with_context(|| format!("reading {}", args.tokens.display()))?;
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = match line.as_deref() {
                Ok("reset") => Order::Reset,
                Ok("cut") => Order::Cut,
                _ => Order::Stop,
            };
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    let fleet = Fleet::new(args.server, tokens, args.slots, Duration::from_millis(args.dial_over_ms))?;
    let fleet = fleet.with_round_trip(Duration::from_millis(args.round_trip_ms));
    let fleet = if args.ahead { fleet.that_can_wait(args.slots) } else { fleet };
    fleet.run(&orders)
}

/// Ends with its parent's interest: killed when dropped.
pub struct NodesProcess {
    child: Child,
    orders: ChildStdin,
    figures: watch::Receiver<Figures>,
    _reader: JoinSet<()>,
}

impl NodesProcess {
    pub fn start(args: &Args) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("nodes").arg("--server").arg(args.server.to_string()).arg("--tokens").arg(&args.tokens);
        command.args(["--slots", &args.slots.to_string(), "--dial-over-ms", &args.dial_over_ms.to_string()]);
        command.args(["--round-trip-ms", &args.round_trip_ms.to_string()]);
        command.args(args.ahead.then_some("--ahead"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting a process of simulated nodes")?;
        let orders = child.stdin.take().context("its stdin")?;
        let stdout = child.stdout.take().context("its stdout")?;
        let (sender, figures) = watch::channel(Figures::default());
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(figures) = serde_json::from_str(&line) {
                    sender.send_replace(figures);
                }
            }
        });
        Ok(Self { child, orders, figures, _reader: reader })
    }

    pub fn pid(&self) -> i32 {
        self.child.id().map_or(0, |id| id as i32)
    }

    pub fn figures(&self) -> Figures {
        self.figures.borrow().clone()
    }

    /// Waits until the figures are so. Errors: what was waited for, and how far it came.
    pub async fn until(
        &mut self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&Figures) -> bool,
    ) -> anyhow::Result<Figures> {
        let told = tokio::time::timeout(within, async {
            self.figures.wait_for(|figures| is_so(figures)).await.map(|so| so.clone())
        });
        match told.await {
            Ok(Ok(figures)) => Ok(figures),
            Ok(Err(_)) => anyhow::bail!("the simulated nodes ended while waiting for: {what}"),
            Err(_) => anyhow::bail!("not within {within:?}: {what}; the nodes say {:?}", self.figures()),
        }
    }

    pub async fn order(&mut self, order: &str) -> anyhow::Result<()> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.context("ordering the nodes")?;
        self.orders.flush().await.context("ordering the nodes")
    }
}
