//! The agent of a node: dials out, takes attempts, runs them, and keeps everything that the server has not committed yet.
//!
//! Owns: sessions from the node's side, executors (containers through the Docker socket, processes under a shim), the git cache,
//! the spool. Must not know: the database, other nodes, placement. It never listens.
//! Begin at [`agent`], the pure core; [`runtime`] is its shell, [`connection`] the line to the server, [`executor`] the contract.

pub mod agent;
pub mod artifacts;
pub mod collector;
pub mod config;
pub mod connection;
pub mod container;
pub mod disk;
pub mod doctor;
pub mod executor;
mod identity;
pub mod log;
pub mod process;
pub mod pulse;
pub mod resources;
pub mod runtime;
pub mod source;
mod sources;

pub use protocol::version::{SUPPORTED as PROTOCOL, Versions};
pub use sources::Sources;

use anyhow::Context as _;
use artifacts::{Artifacts, Inputs, Platform, Shelf};
use config::{Policy, ProviderSettings};
use connection::Link;
use domain::{
    node::NodeFacts,
    quantity,
    spec::{ARTIFACTS_FEATURE, CHECKPOINTS_FEATURE},
};
use executor::Registry;
use runtime::{AttemptsDir, Handle};
use service_kit::Service;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use trust::Trust;

/// How often the machine is measured again.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://unidesk.example`.
    pub server: String,
    /// The node's token.
    pub token: String,
    /// Who vouches for the server and its object store.
    pub trust: Trust,
    /// Everything that the agent keeps.
    pub data_dir: PathBuf,
    pub settings: ProviderSettings,
    pub policy: Policy,
    /// The supervisor of processes; `unidesk-shim` beside this program by default.
    pub shim: Option<PathBuf>,
}

impl Config {
    /// Reads `provider.toml` and `policy.toml` in the data directory.
    pub fn load(server: String, token: String, data_dir: &Path) -> anyhow::Result<Self> {
        let settings: ProviderSettings = config::read(&data_dir.join("provider.toml"))?;
        settings
            .watermarks
            .check()
            .and_then(|()| settings.inputs.check())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("{}", data_dir.join("provider.toml").display()))?;
        Ok(Self {
            server,
            token,
            trust: Trust::default(),
            settings,
            policy: config::read(&data_dir.join("policy.toml"))?,
            data_dir: data_dir.to_owned(),
            shim: None,
        })
    }
}

/// A running agent.
pub struct Agent {
    handle: Handle,
    connected: watch::Receiver<bool>,
    stopping: watch::Sender<bool>,
}

impl Agent {
    /// Returns once a session is open.
    pub async fn connected(&mut self) {
        let _ = self.connected.wait_for(|connected| *connected).await;
    }
    /// Takes nothing new, stops what runs with `grace`, and returns when the server knows it or time is up.
    pub async fn shut_down(&self, grace: Duration) {
        self.stopping.send_replace(true);
        self.handle.shut_down(grace).await;
    }
    /// Attempts whose process may be alive.
    pub fn running(&self) -> usize {
        self.handle.running()
    }
}

/// Starts the agent: one at a time per data directory. Its tasks end with `service`; work goes on without them and is adopted by
/// the next agent. To stop the work too, call [`Agent::shut_down`] first.
pub async fn start(service: &Service, config: Config) -> anyhow::Result<Agent> {
    let identity = identity::open(&config.data_dir)
        .with_context(|| format!("opening the data directory {}", config.data_dir.display()))?;
    let instance = identity.instance;
    let cache = Arc::new(source::SourceCache::open(&config.data_dir.join("git")).context("opening the git cache")?);
    let sources = Sources::new(cache.clone(), config.policy.source.clone());

    let mut container_settings = container::Settings::new(config.data_dir.join("images"), instance);
    if let Some(socket) = &config.settings.docker_socket {
        container_settings.socket = socket.clone();
    }
    container_settings.shim = config.shim.clone();
    let marks = config.settings.watermarks.clone();
    container_settings.disk.marks = marks.clone();
    let platform = Platform::new(&config.server, &config.token, &config.trust);
    let moves_artifacts = platform.is_ok();
    let mut artifacts = match platform {
        Ok(platform) => Artifacts::new(Arc::new(platform)),
        // As a line that can't be had: told, and no reason not to be there.
        Err(reason) => {
            tracing::error!(reason, "tasks with inputs, outputs or checkpoints are not offered to run here");
            Artifacts::none()
        }
    };
    artifacts.store = transfer::Store::trusting(config.trust.clone());
    artifacts.marks = marks.clone();
    let shelf = |record: &str, disk: &Path| {
        let shelf = Shelf::open(&config.data_dir.join(record), config.settings.inputs.limit_bytes(disk));
        let shelf = Arc::new(shelf.context("opening the record of inputs")?);
        anyhow::Ok(Inputs { artifacts: artifacts.clone(), shelf })
    };
    let containers = container::ContainerExecutor::new(container_settings, Arc::new(sources.clone()))
        .context("opening the record of images")?;
    let docker_disk = containers.data_root().await.filter(|path| path.exists());
    let docker_disk = docker_disk.unwrap_or_else(|| config.data_dir.clone());
    let containers = Arc::new(containers.with_inputs(shelf("input-volumes.json", &docker_disk)?));
    let attempts_root = config.data_dir.join("attempts");
    let mut process_settings = process::Settings::new(&config.data_dir);
    process_settings.shim = config.shim.clone();
    process_settings.disk = marks.clone();
    let processes = process::ProcessExecutor::new(process_settings, Arc::new(sources.clone()));
    let processes = Arc::new(
        processes.with_inputs(shelf("inputs.json", &config.data_dir)?).context("opening the directory of inputs")?,
    );
    let mut registry = Registry::default();
    let surroundings = config::Surroundings::look();
    if surroundings.is_container && goes_with_the_container(&config.data_dir) {
        tracing::warn!(
            data_dir = %config.data_dir.display(),
            "what this agent keeps is inside its container and goes with it: logs and results that the server does not have yet, and all caches. \
             Mount a volume there, as -v unidesk-node:{}",
            config.data_dir.display()
        );
    }
    if config.policy.allows("container", surroundings) {
        registry = registry.with(containers.clone());
    }
    if config.policy.allows("process", surroundings) {
        registry = registry.with(processes.clone());
    } else if config.policy.executors.is_none() {
        tracing::info!(
            "process tasks are off: this agent is not root, or runs in a container; `executors` in policy.toml turns them on"
        );
    }

    let disk =
        collector::AgentDisk { data_dir: config.data_dir.clone(), attempts: attempts_root.clone(), cache, marks };
    let surveyor = Surveyor {
        config: config.clone(),
        registry: registry.clone(),
        containers: containers.clone(),
        processes: processes.clone(),
        moves_artifacts,
    };
    let (facts_sender, facts) = watch::channel(surveyor.survey().await);
    let (name, node_name) = watch::channel(String::new());
    let parts = runtime::Parts {
        registry: registry.clone(),
        attempts: AttemptsDir::open(&attempts_root)?,
        instance,
        node_name,
        spool: config.settings.spool.clone(),
        artifacts: artifacts.clone(),
    };
    let handle = runtime::start(service, parts).context("restoring attempts")?;
    let (offers, mut measured) = (handle.clone(), facts.clone());
    offers.tell(agent::Event::Offers(measured.borrow_and_update().capacity.clone()));
    service.spawn_until_stopped("offers", async move {
        while measured.changed().await.is_ok() {
            offers.tell(agent::Event::Offers(measured.borrow_and_update().capacity.clone()));
        }
    });

    let (connected_sender, connected) = watch::channel(false);
    service.spawn_until_stopped("pulse", pulse::keep(config.data_dir.clone(), connected.clone()));
    let (stopping, stopping_receiver) = watch::channel(false);
    let meter = Arc::new(Mutex::new(resources::Meter::new(surveyor.disk_path().await)));
    let link = Link {
        url: config.server.clone(),
        token: config.token.clone(),
        trust: config.trust.clone(),
        reconnect_cap_ms: config.settings.reconnect_cap_ms.unwrap_or(connection::BACKOFF_CAP_MS),
        instance,
        facts,
        registry,
        sources,
        handle: handle.clone(),
        meter,
        name,
        connected: connected_sender,
        stopping: stopping_receiver,
    };
    let stop = service.stopping().clone();
    service.spawn("connection", async move {
        // Held as long as the agent lives.
        let _identity = identity;
        link.run(stop).await;
    });
    service.spawn_until_stopped("survey", surveyor.keep_current(facts_sender));
    service.spawn_until_stopped("collect garbage", collector::run(containers, processes, disk));
    Ok(Agent { handle, connected, stopping })
}

/// Whether a directory lies on the file system of the container itself, and not on a volume.
fn goes_with_the_container(dir: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|file| std::os::unix::fs::MetadataExt::dev(&file)).ok();
    device(dir).is_some_and(|dir| device(Path::new("/")) == Some(dir))
}

/// Measures the machine, now and then again.
struct Surveyor {
    config: Config,
    registry: Registry,
    containers: Arc<container::ContainerExecutor>,
    processes: Arc<process::ProcessExecutor>,
    moves_artifacts: bool,
}

impl Surveyor {
    /// Containers fill Docker's disk, so that is the one that counts, where it can be seen.
    async fn disk_path(&self) -> PathBuf {
        let docker = self.containers.data_root().await;
        docker.filter(|path| path.exists()).unwrap_or_else(|| self.config.data_dir.clone())
    }

    async fn survey(&self) -> NodeFacts {
        let offered = &self.config.settings;
        let mut settings = resources::Settings::new(self.disk_path().await);
        settings.cpu_millis = offered.cpus.map(|cpus| (cpus * 1_000.0) as u64);
        settings.memory_bytes = offered.memory.as_deref().and_then(quantity::parse_bytes);
        settings.disk_bytes = offered.disk.as_deref().and_then(quantity::parse_bytes);
        settings.role = offered.role.clone().unwrap_or_else(|| "worker".into());
        settings.tags = offered.tags.clone();
        settings.labels = offered.labels.clone();
        settings.internet = offered.internet.unwrap_or(true);
        settings.max_tasks = offered.max_tasks.unwrap_or(0);
        let measured = tokio::task::spawn_blocking(move || resources::measure(&settings)).await.unwrap_or_default();
        let limits = [("container", self.containers.limits()), ("process", Some(self.processes.limits()))];
        NodeFacts {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            docker_version: self.containers.server_version(),
            executors: self
                .registry
                .iter()
                .map(|executor| (executor.name().to_owned(), executor.version().to_owned()))
                .collect(),
            features: self
                .registry
                .iter()
                .filter(|executor| executor.self_fences())
                .map(|executor| domain::lease::feature(executor.name()))
                .chain([domain::placement::AHEAD.to_owned()])
                .chain(
                    [ARTIFACTS_FEATURE, CHECKPOINTS_FEATURE]
                        .map(str::to_owned)
                        .into_iter()
                        .filter(|_| self.moves_artifacts),
                )
                .collect(),
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|id| id.trim().parse().ok()),
            limits: limits.into_iter().filter_map(|(name, limits)| Some((name.to_owned(), limits?))).collect(),
            ..measured
        }
    }

    async fn keep_current(self, facts: watch::Sender<NodeFacts>) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            let mut now = self.survey().await;
            facts.send_if_modified(|known| {
                // What tasks and caches fill and free is no change of the machine: the disk on offer moves only with a real step.
                let step = known.capacity.disk_bytes / 20;
                if now.capacity.disk_bytes.abs_diff(known.capacity.disk_bytes) < step {
                    now.capacity.disk_bytes = known.capacity.disk_bytes;
                }
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    }
}
