//! Everything in one process: private PostgreSQL, all services, and a local node that connects as any other node does.

pub(crate) mod admin;
pub(crate) mod local_node;

pub use local_node::LocalNode;

use anyhow::Context as _;
use local_postgres::Postgres;
use nix::fcntl::{Flock, FlockArg};
use service_kit::Service;
use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use store::{DatabaseConfig, Store};
use tokio::net::TcpListener;

/// Running work gets its stop signal and this long.
const WORK_GRACE: Duration = Duration::from_secs(5);
const SERVICE_GRACE: Duration = Duration::from_secs(2);
/// A platform that was just started has better things to do.
const FIRST_BACKUP_AFTER: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// An existing server instead of the private one.
    pub database_url: Option<String>,
    /// Local nodes; 0: none.
    pub nodes: usize,
    pub scheduler: scheduler::Config,
    /// Who is offline, and how long what has ended is kept.
    pub registry: node_registry::Config,
    /// An object store instead of the one in the data directory.
    pub objects: artifact_service::Config,
    /// None: no backups are made.
    pub backup: Option<backup::Config>,
    /// Where processes find their supervisor; beside this program by default.
    pub shim: Option<PathBuf>,
}

/// What is being started, for a person who waits.
pub trait Progress {
    fn step(&mut self, what: &str);
}
impl<F: FnMut(&str)> Progress for F {
    fn step(&mut self, what: &str) {
        self(what);
    }
}

/// A running platform.
pub struct Platform {
    pub url: String,
    /// Of the first administrator.
    pub admin_token: String,
    pub store: Store,
    services: Service,
    nodes: Vec<LocalNode>,
    postgres: Option<Postgres>,
    _lock: Flock<File>,
}

/// Starts the platform and returns when it takes work: services answer, and every local node is connected.
pub async fn start(options: &Options, progress: &mut impl Progress) -> anyhow::Result<Platform> {
    let dir = &options.data_dir;
    make_data_dir(dir)?;
    let lock = lock(dir)?;
    // Before anything is started: a port in use is said at once.
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("can't listen on {}; choose another address with --listen", options.listen))?;
    let address = listener.local_addr()?;
    let url = format!("http://{}", reachable(address));

    let postgres = match &options.database_url {
        Some(_) => None,
        None => {
            progress.step("PostgreSQL");
            Some(Postgres::start(&dir.join("postgres")).await?)
        }
    };
    let started = start_services(options, postgres.as_ref(), listener, &url, progress).await;
    match started {
        Ok((services, store, admin_token, nodes)) => {
            let mut lock = lock;
            write_owner(&mut lock, &url)?;
            write_file(&dir.join("url"), &format!("{url}\n"), 0o644)?;
            Ok(Platform { url, admin_token, store, services, nodes, postgres, _lock: lock })
        }
        Err(error) => {
            if let Some(postgres) = postgres {
                postgres.stop().await;
            }
            Err(error)
        }
    }
}

async fn start_services(
    options: &Options,
    postgres: Option<&Postgres>,
    listener: TcpListener,
    url: &str,
    progress: &mut impl Progress,
) -> anyhow::Result<(Service, Store, String, Vec<LocalNode>)> {
    let (database_url, shared) = match (postgres, &options.database_url) {
        (Some(postgres), _) => (postgres.url(), false),
        (None, Some(given)) => (given.clone(), true),
        (None, None) => anyhow::bail!("neither a private PostgreSQL nor an address of one"),
    };
    let config = DatabaseConfig { url: database_url.clone(), max_connections: 16, shared };
    let store = Store::connect(&config).await.context("connecting to PostgreSQL")?;
    progress.step("migrations");
    store.migrate().await.context("bringing the database to this version")?;
    let admin_token = admin::token(&store, &options.data_dir.join("admin.token")).await?;

    progress.step("services");
    let services = Service::new();
    let times = artifact_service::Times::default();
    let (objects, beside) = match options.objects.object_store(times)? {
        Some(objects) => (objects, axum::Router::new()),
        None => {
            let embedded = artifact_service::Embedded::open(&options.data_dir)?;
            (embedded.object_store(url, times), embedded.routes())
        }
    };
    let artifacts = artifact_service::routes(store.clone(), Some(objects.clone()), times);
    let extra = api_gateway::Extra {
        behind: node_registry::routes(store.clone()).merge(artifacts),
        for_nodes: artifact_service::node_routes(store.clone(), Some(objects.clone()), times),
        beside,
        log_archive: Some(Arc::new(objects.clone())),
    };
    api_gateway::run(&services, store.clone(), listener, extra).await?;
    crate::vitals::watch(&services, &store, "up");
    scheduler::run(&services, &options.scheduler, store.clone());
    node_registry::run(&services, &options.registry, store.clone());
    artifact_service::run(&services, times, store.clone(), Some(objects));
    if let Some(config) = &options.backup {
        let root = config.backup_dir.clone().unwrap_or_else(|| options.data_dir.join("backups"));
        backup::run(&services, config, &root, &database_url, FIRST_BACKUP_AFTER)
            .await
            .context("beginning with backups")?;
    }

    let trust = options.objects.trust()?;
    let mut nodes = Vec::new();
    for number in 1..=options.nodes {
        let name = if number == 1 { "local".to_owned() } else { format!("local-{number}") };
        progress.step(&format!("node {name}"));
        nodes.push(LocalNode::start(&store, &options.data_dir, &name, url, trust.clone(), options.shim.clone()).await?);
    }
    for node in &mut nodes {
        node.connected().await?;
    }
    Ok((services, store, admin_token, nodes))
}

impl Platform {
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Attempts whose process may be alive on the local nodes.
    pub fn running(&self) -> usize {
        self.nodes.iter().map(LocalNode::running).sum()
    }

    /// Stops all: running work gets its stop signal and five seconds and runs again at the next start; then the services; then the
    /// database. Takes at most ten seconds.
    pub async fn stop(self) {
        futures::future::join_all(self.nodes.iter().map(|node| node.shut_down(WORK_GRACE))).await;
        self.halt().await;
    }

    /// Stops services and database and leaves running work alone, as a crash would: the next start adopts it.
    pub async fn halt(self) {
        futures::future::join_all(self.nodes.iter().map(|node| node.leave(SERVICE_GRACE))).await;
        self.services.stop_within(SERVICE_GRACE).await;
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

pub(crate) fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making the data directory {}", dir.display()))?;
    // PostgreSQL and tasks run as users of their own: they pass through, but can't look around.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("setting permissions of {}", dir.display()))
}

pub(crate) fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("up.lock");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
        let mut owner = String::new();
        let _ = file.read_to_string(&mut owner);
        let owner = owner.trim();
        let who = if owner.is_empty() {
            "another `unidesk up`".to_owned()
        } else {
            format!("another `unidesk up` ({owner})")
        };
        anyhow::anyhow!("{who} runs on {}. Use it, stop it, or choose another directory with --data-dir", dir.display())
    })
}

/// Who holds the lock, for whoever comes second.
fn write_owner(lock: &mut Flock<File>, url: &str) -> anyhow::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "process {}, {url}", std::process::id())?;
    Ok(())
}

/// Writes a file in one step, readable by `mode`.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let write = || -> std::io::Result<()> {
        let mut file =
            std::os::unix::fs::OpenOptionsExt::mode(File::options().write(true).create_new(true), mode).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// An address that listens everywhere is reached here by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}
