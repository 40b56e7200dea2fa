//! A platform as a careful owner runs it, each service a process: PostgreSQL that syncs, api-gateway, scheduler, node-registry.
//! Started for one run in a directory that is removed after it.

pub mod postgres;
pub mod program;
pub mod usage;

use crate::{
    database::Database,
    nodes::{NodesProcess, process},
};
use anyhow::Context as _;
use client::Client;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use postgres::Postgres;
use program::{Program, unidesk_command};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use usage::Usage;

/// The database that the services share.
const DATABASE: &str = "unidesk";
/// Requests for tokens at once.
const TOKEN_REQUESTS: usize = 16;
/// Descriptors that one process may need: 10,000 sockets and some.
const DESCRIPTORS: u64 = 20_000;

/// What the platform is to be like.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// PostgreSQL's shared_buffers
    #[arg(long, default_value = "1GB")]
    pub shared_buffers: String,
    /// Connections of each service
    #[arg(long, default_value_t = 16)]
    pub connections: u32,
    /// Keep the run's directory (logs, database) and print its path
    #[arg(long)]
    pub keep: bool,
    /// Ended tasks are deleted after so many seconds; None: kept.
    #[arg(skip)]
    pub task_retention_s: Option<u64>,
}

impl Options {
    fn retention(&self) -> Option<String> {
        self.task_retention_s.map(|seconds| format!("--task-retention={seconds}s"))
    }
}

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Gateway,
    Scheduler,
    Registry,
    Postgres,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "api-gateway",
            Self::Scheduler => "scheduler",
            Self::Registry => "node-registry",
            Self::Postgres => "PostgreSQL",
        }
    }
}

pub struct Platform {
    // Programs first: they use what comes after.
    asked: Option<Program>,
    gateway: Program,
    scheduler: Program,
    registry: Program,
    pub postgres: Postgres,
    pub server: SocketAddr,
    pub admin_token: String,
    pub client: Client,
    options: Options,
    dir: Option<TempDir>,
    root: PathBuf,
    tokens: u32,
}

/// What the parts cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub gateway: Usage,
    pub scheduler: Usage,
    pub registry: Usage,
    pub postgres: Usage,
}

impl Platform {
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        allow_descriptors()?;
        // A short path (a socket's has at most 107 bytes) that PostgreSQL's own user can pass through.
        let dir = tempfile::Builder::new().prefix("udb-").tempdir_in("/tmp").context("making the run's directory")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let root = dir.path().to_owned();
        let logs = root.join("logs");
        let postgres = Postgres::start(&root.join("pg"), &logs, &options.shared_buffers).await?;
        let mut database = Database::connect(&postgres.url("postgres")).await?;
        database.run(&format!("CREATE DATABASE {DATABASE}")).await?;
        let url = postgres.url(DATABASE);
        let token_file = root.join("admin.token");
        let mut migrate = unidesk_command(&["migrate", "--database-url", &url])?;
        let migrated =
            migrate.arg("--admin-token-file").arg(&token_file).output().context("running unidesk migrate")?;
        anyhow::ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        Database::connect(&url).await?.forget_statements().await?;
        let admin_token = fs::read_to_string(&token_file)?.trim().to_owned();
        let server = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let client = Client::new(format!("http://{server}"), &admin_token)?;
        let start = async |name: &str, more: &[&str]| start_service(&root, &url, options, name, more).await;
        let gateway = start("api-gateway", &["--listen", &server.to_string()]).await?;
        let scheduler = start("scheduler", &[]).await?;
        let retention = options.retention();
        let registry = start("node-registry", retention.as_deref().as_slice()).await?;
        if options.keep {
            eprintln!("the run's directory stays: {}", root.display());
        }
        let options = options.clone();
        Ok(Self {
            asked: None,
            gateway,
            scheduler,
            registry,
            postgres,
            server,
            admin_token,
            client,
            options,
            dir: Some(dir),
            root,
            tokens: 0,
        })
    }

    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    pub async fn database(&self) -> anyhow::Result<Database> {
        Database::connect(&self.database_url()).await
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn cost(&self) -> Cost {
        Cost {
            gateway: usage::of(self.gateway.pid()),
            scheduler: usage::of(self.scheduler.pid()),
            registry: usage::of(self.registry.pid()),
            postgres: usage::of_tree(self.postgres.pid()),
        }
    }

    pub fn pids(&self) -> [(&'static str, i32); 4] {
        [
            ("api-gateway", self.gateway.pid()),
            ("scheduler", self.scheduler.pid()),
            ("node-registry", self.registry.pid()),
            ("postgres", self.postgres.pid()),
        ]
    }

    /// As a crash: nothing is said or closed, and another one starts as soon as it can.
    pub async fn kill_and_restart(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Gateway => {
                self.gateway.kill().await?;
                self.gateway = self.start_service("api-gateway", &["--listen", &self.server.to_string()]).await?;
            }
            Part::Scheduler => {
                self.scheduler.kill().await?;
                self.scheduler = self.start_service("scheduler", &[]).await?;
            }
            Part::Registry => {
                self.registry.kill().await?;
                let retention = self.options.retention();
                self.registry = self.start_service("node-registry", retention.as_deref().as_slice()).await?;
            }
            Part::Postgres => self.postgres.kill_and_restart().await?,
        }
        Ok(())
    }

    /// Nothing is leased until [`Platform::start_scheduler`].
    pub async fn stop_scheduler(&mut self) -> anyhow::Result<()> {
        self.scheduler.stop(Signal::SIGTERM).await
    }

    pub async fn start_scheduler(&mut self) -> anyhow::Result<()> {
        self.scheduler = self.start_service("scheduler", &[]).await?;
        Ok(())
    }

    async fn start_service(&self, name: &str, more: &[&str]) -> anyhow::Result<Program> {
        start_service(&self.root, &self.database_url(), &self.options, name, more).await
    }

    /// Another api-gateway, which nobody else asks and no node dials, and its client. It is a user of its own to the database, so that what
    /// its answers cost can be told from what the platform does beside.
    pub async fn start_asked(&mut self, user: &str) -> anyhow::Result<Client> {
        self.database().await?.run(&format!("CREATE ROLE {user} LOGIN SUPERUSER")).await?;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let url = self.postgres.url_of(user, DATABASE);
        let mut command = unidesk_command(&["server", "api-gateway", "--database-url", &url])?;
        command.args(["--database-connections", &self.options.connections.to_string()]);
        command.args(["--listen", &listen.to_string()]).env("RUST_LOG", "warn");
        self.asked = Some(Program::start("api-gateway-asked", command, &self.root.join("logs")).await?);
        Ok(Client::new(format!("http://{listen}"), &self.admin_token)?)
    }

    /// Makes nodes by the product's own way, a token each, and returns the file with the tokens.
    pub async fn make_nodes(&mut self, count: u32) -> anyhow::Result<PathBuf> {
        let first = self.tokens;
        self.tokens += count;
        let tokens: Vec<String> = stream::iter(first..first + count)
            .map(|number| {
                let client = self.client.clone();
                async move { client.create_node_token(&format!("sim-{number:05}")).await.map(|made| made.token) }
            })
            .buffered(TOKEN_REQUESTS)
            .try_collect()
            .await
            .context("making node tokens")?;
        let file = self.root.join(format!("tokens-{first}"));
        fs::write(&file, tokens.join("\n") + "\n")?;
        Ok(file)
    }

    /// Makes nodes and starts a process with them; waits until all are connected.
    pub async fn start_nodes(&mut self, count: u32, slots: u64) -> anyhow::Result<NodesProcess> {
        self.start_far_nodes(count, slots, Duration::ZERO, false).await
    }

    /// As [`Platform::start_nodes`], on lines whose round trip is longer by so much. `ahead`: tasks may be sent before a slot is free.
    pub async fn start_far_nodes(
        &mut self,
        count: u32,
        slots: u64,
        round_trip: Duration,
        ahead: bool,
    ) -> anyhow::Result<NodesProcess> {
        let tokens = self.make_nodes(count).await?;
        let round_trip_ms = round_trip.as_millis() as u64;
        let args = process::Args { server: self.server, tokens, slots, dial_over_ms: 0, round_trip_ms, ahead };
        let mut nodes = NodesProcess::start(&args)?;
        let all = u64::from(count);
        nodes
            .until("all nodes are connected", Duration::from_secs(120), |figures| figures.connected == all && all > 0)
            .await?;
        Ok(nodes)
    }

    /// Ends everything; the directory goes unless it was to be kept.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for service in self.asked.iter_mut().chain([&mut self.registry, &mut self.scheduler, &mut self.gateway]) {
            service.stop(Signal::SIGTERM).await?;
        }
        self.postgres.stop().await?;
        if let Some(dir) = self.dir.take().filter(|_| self.options.keep) {
            let _ = dir.keep();
        }
        Ok(())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // After a failure the logs are worth more than the room.
        if let Some(dir) = self.dir.take().filter(|_| self.options.keep || std::thread::panicking()) {
            let _ = dir.keep();
        }
    }
}

async fn start_service(
    root: &Path,
    url: &str,
    options: &Options,
    name: &str,
    more: &[&str],
) -> anyhow::Result<Program> {
    let mut command = unidesk_command(&["server", name, "--database-url", url])?;
    command.args(["--database-connections", &options.connections.to_string()]).args(more);
    command.env("RUST_LOG", "warn");
    Program::start(name, command, &root.join("logs")).await
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Of this process, and so of those that it starts.
fn allow_descriptors() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < DESCRIPTORS {
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard), hard)?;
    }
    Ok(())
}
