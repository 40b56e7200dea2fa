//! Containers through the Docker socket: the environment becomes an image, the code is copied in through Docker's API (no path of
//! the host, so that it works when the agent is a container itself), and what runs is found again by its name and labels.

mod adopt;
mod base_image;
mod build;
mod build_failure;
mod buildkit;
mod builds;
mod checkpoints;
mod collect;
mod create;
mod disk;
mod docker;
mod exit;
mod flight;
mod guard;
mod hardening;
mod image;
mod inputs;
mod logs;
mod orphans;
mod outputs;
mod prepare;
mod raw;
mod records;
mod run;
mod transcript;
mod usage;
mod user;

pub use disk::{DiskSettings, Report};
pub use docker::Facts as DockerFacts;

use crate::{
    artifacts::{
        Inputs,
        checkpoints::{Taken, Wanted},
        outputs::{Left, Unread},
    },
    executor::{Adopted, Executor, Failure, Job, Prepared, Signal},
    log::AttemptLog,
};
use bytes::Bytes;
use domain::{
    ids::{AttemptId, InstanceId},
    node::Condition,
    outcome::{ExitFacts, FailureKind},
    source::{DockerfilePath, Pinned},
    spec::{Output, TaskSpec},
};
use futures::{future::BoxFuture, stream::BoxStream};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Where the code lies inside a container.
pub const WORKSPACE: &str = "/workspace";

/// A commit's tree, as it was got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedTree {
    pub commit: String,
    /// The Git id of the tree.
    pub tree: String,
    pub bytes_fetched: u64,
    /// Nothing had to be fetched.
    pub was_cached: bool,
    /// A branch or tag of the repository that holds the commit, when one is known.
    pub held_by_ref: Option<String>,
    /// Lines for the log: what was left out, what is odd.
    pub notes: Vec<String>,
}

/// How a tree is packed.
#[derive(Clone, Debug, Default)]
pub struct TarOptions {
    pub uid: u32,
    pub gid: u32,
    /// Path -> content that stands in for the file's own.
    pub replace: BTreeMap<String, Bytes>,
}

/// Where trees come from. Safe to repeat; dropping a future cancels it.
pub trait TreeSource: Send + Sync {
    /// Makes the commit's tree available. `role` is `code` or `environment`, for the log.
    fn fetch<'a>(
        &'a self,
        role: &'static str,
        pinned: &'a Pinned,
        log: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<FetchedTree, Failure>>;
    /// One file of a fetched tree: never outside of it, at most 1 MiB.
    fn dockerfile<'a>(
        &'a self,
        pinned: &'a Pinned,
        path: &'a DockerfilePath,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failure>>;
    /// A fetched tree as a tar, in pieces, names relative to its root. An error ends the stream.
    fn tar(&self, pinned: &Pinned, options: TarOptions) -> BoxStream<'static, Result<Bytes, std::io::Error>>;
}

/// Which of Docker's builders makes images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Builder {
    /// BuildKit where the daemon offers it.
    #[default]
    Auto,
    Classic,
}

const DOCKER_SOCKET: &str = "/var/run/docker.sock";

#[derive(Clone, Debug)]
pub struct Settings {
    /// Docker's Unix socket. It need not exist yet.
    pub socket: PathBuf,
    /// What the executor keeps across restarts: when each image was used last.
    pub data_dir: PathBuf,
    pub instance: InstanceId,
    pub agent_version: String,
    pub builder: Builder,
    /// The most processes and threads in one container.
    pub pids_limit: i64,
    /// An image that takes longer to build is given up.
    pub build_timeout: Duration,
    pub disk: DiskSettings,
    /// A container of ours without an attempt is removed after so long.
    pub orphan_grace: Duration,
    /// The supervisor of exclusive containers. None: what lies beside this program.
    pub shim: Option<PathBuf>,
}

impl Settings {
    pub fn new(data_dir: impl Into<PathBuf>, instance: InstanceId) -> Self {
        Self {
            socket: DOCKER_SOCKET.into(),
            data_dir: data_dir.into(),
            instance,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            builder: Builder::Auto,
            pids_limit: 4_096,
            build_timeout: Duration::from_secs(2 * 3_600),
            disk: DiskSettings::default(),
            orphan_grace: Duration::from_secs(60),
            shim: None,
        }
    }
}

/// Runs attempts as containers. Comes up without Docker and connects when the socket appears.
pub struct ContainerExecutor {
    settings: Settings,
    engine: docker::Engine,
    source: Arc<dyn TreeSource>,
    records: records::ImageRecords,
    flights: flight::Flights,
    builds: builds::Builds,
    pins: image::Pins,
    collecting_garbage: tokio::sync::Mutex<()>,
    orphans: orphans::Orphans,
    /// Attempts that this agent itself has sent a signal: their end is not blamed on Docker.
    signalled: Mutex<HashSet<AttemptId>>,
    /// The record of images was held against Docker's own list since this agent began.
    has_compared: AtomicBool,
    /// Whether this Docker refused disk quotas, found out by asking for one.
    quota_refused: AtomicBool,
    /// None where there is none that runs in every image.
    shim: Option<guard::StaticShim>,
    /// Its volume is known to be whole.
    filled_shim: tokio::sync::Mutex<bool>,
    /// Attempts whose first process was told of its first lease by this agent.
    introduced: Mutex<HashSet<AttemptId>>,
    /// Checkpoints that are being read.
    readings: Mutex<HashMap<AttemptId, CancellationToken>>,
    inputs: OnceLock<Inputs>,
    /// What an earlier agent left half done of inputs is gone.
    has_cleaned_inputs: tokio::sync::Mutex<bool>,
    making_helper_image: tokio::sync::Mutex<()>,
}

/// What the daemon at this socket, or at the usual one, says of itself. Errors: in words for a person.
pub async fn look_at_docker(socket: Option<&Path>) -> Result<DockerFacts, String> {
    let engine = docker::Engine::new(socket.unwrap_or(Path::new(DOCKER_SOCKET)).to_owned());
    engine.facts().await.map(|facts| (*facts).clone()).map_err(|error| error.to_string())
}

impl ContainerExecutor {
    /// Errors: the data directory can't be made or its record can't be read.
    pub fn new(settings: Settings, source: Arc<dyn TreeSource>) -> std::io::Result<Self> {
        Ok(Self {
            engine: docker::Engine::new(settings.socket.clone()),
            records: records::ImageRecords::open(&settings.data_dir)?,
            source,
            flights: flight::Flights::default(),
            builds: builds::Builds::default(),
            pins: image::Pins::default(),
            collecting_garbage: tokio::sync::Mutex::new(()),
            orphans: orphans::Orphans::default(),
            signalled: Mutex::default(),
            has_compared: AtomicBool::new(false),
            quota_refused: AtomicBool::new(false),
            shim: guard::StaticShim::find(settings.shim.as_deref()),
            filled_shim: tokio::sync::Mutex::new(false),
            introduced: Mutex::default(),
            readings: Mutex::default(),
            inputs: OnceLock::new(),
            has_cleaned_inputs: tokio::sync::Mutex::new(false),
            making_helper_image: tokio::sync::Mutex::default(),
            settings,
        })
    }

    /// From here on tasks may have inputs.
    pub fn with_inputs(self, inputs: Inputs) -> Self {
        let _ = self.inputs.set(inputs);
        self
    }

    /// The disk that containers fill, when Docker answers.
    pub async fn data_root(&self) -> Option<PathBuf> {
        self.engine.facts().await.ok().map(|facts| facts.data_root.clone())
    }

    /// Docker's version, once it was reached.
    pub fn server_version(&self) -> Option<String> {
        self.engine.known_facts().map(|facts| facts.server_version.clone())
    }

    /// How limits are enforced here, for a person; None until Docker was reached.
    pub fn limits(&self) -> Option<String> {
        self.engine.known_facts().map(|facts| {
            let refused = self.quota_refused.load(Ordering::Relaxed);
            facts.limits(refused)
        })
    }

    /// The attempts of this installation that have a container. Errors: Docker can't be asked, which is not an empty answer.
    pub async fn inventory(&self) -> Result<Vec<AttemptId>, Failure> {
        let own = adopt::own_containers(&self.engine, self.settings.instance).await;
        own.map(|own| own.into_iter().map(|(_, attempt)| attempt).collect())
            .map_err(|error| error.into_failure("listing containers"))
    }

    fn was_signalled(&self, attempt: AttemptId) -> bool {
        self.signalled.lock().unwrap_or_else(PoisonError::into_inner).contains(&attempt)
    }
}

impl Executor for ContainerExecutor {
    fn name(&self) -> &'static str {
        "container"
    }
    fn version(&self) -> &'static str {
        "1"
    }
    fn validate(&self, spec: &TaskSpec) -> Result<(), Failure> {
        if spec.source.environment.is_none() {
            return Err(Failure::new(
                FailureKind::Rejected,
                "A container task names an environment (source.environment): a repository, a commit and a Dockerfile.",
            ));
        }
        Ok(())
    }
    fn prepare<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Prepared, Failure>> {
        Box::pin(self.prepare_container(job))
    }
    fn start<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.start_container(job))
    }
    fn adopt<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Adopted> {
        Box::pin(adopt::find(&self.engine, job))
    }
    fn collect<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<ExitFacts, Failure>> {
        Box::pin(self.collect_container(job))
    }
    fn signal<'a>(&'a self, job: &'a Job, signal: Signal) -> BoxFuture<'a, ()> {
        self.signalled.lock().unwrap_or_else(PoisonError::into_inner).insert(job.held.attempt);
        self.stop_reading(job.held.attempt);
        Box::pin(run::send_signal(&self.engine, job, signal))
    }
    fn remove<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.stop_reading(job.held.attempt);
            run::remove(&self.engine, job).await?;
            self.signalled.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.held.attempt);
            self.introduced.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.held.attempt);
            self.release_inputs(job);
            Ok(())
        })
    }
    fn hold_inputs(&self, job: &Job) {
        if let Some(inputs) = self.inputs.get() {
            inputs.hold(job.held.attempt, &job.spec);
        }
    }
    fn release_inputs(&self, job: &Job) {
        if let Some(inputs) = self.inputs.get() {
            inputs.release(job.held.attempt);
        }
    }
    fn output<'a>(&'a self, job: &'a Job, output: &'a Output) -> BoxFuture<'a, Result<Left, Unread>> {
        Box::pin(self.find_output(job, output))
    }
    fn checkpoint<'a>(&'a self, job: &'a Job, wanted: Wanted) -> BoxFuture<'a, Result<Taken, Unread>> {
        Box::pin(self.take_checkpoint(job, wanted))
    }
    fn renew<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, ()> {
        Box::pin(self.renew_lease(job))
    }
    fn self_fences(&self) -> bool {
        self.shim.is_some()
    }
    fn health<'a>(&'a self) -> BoxFuture<'a, Option<Condition>> {
        Box::pin(self.check_health())
    }
    fn warm(&self) -> Vec<String> {
        self.records.keys()
    }
}
