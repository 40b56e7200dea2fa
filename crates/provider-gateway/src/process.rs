//! The process executor: a task's command as a plain process of this machine, with the code of its commit if it names one.
//!
//! Owns: the attempt's scratch directory, its unprivileged user, and its supervisor (`unidesk-shim`), which outlives this agent
//! and shares one file with it. What is known of an attempt stands there, so a new agent needs nothing else to go on.
//! Must not know: Git, Docker, the server. Begin at [`ProcessExecutor`], then `state` for that file and `supervisor` for the shim.

mod adoption;
mod checkpoints;
mod environment;
mod exit;
mod inputs;
mod leftovers;
mod output;
mod outputs;
mod pidfd;
mod proc_fs;
mod remove_tree;
mod run;
mod scratch;
mod starter;
mod state;
mod supervisor;
mod tree;
mod users;

pub(crate) use proc_fs::boot_id;
pub use remove_tree::remove_tree;
pub(crate) use scratch::has_no_marks;
pub use scratch::{SHARED as SHARED_SCRATCH, remove_orphans as remove_orphaned_scratch};
pub use state::STATE;

use crate::{
    artifacts::{
        Inputs,
        checkpoints::{Taken, Wanted},
        outputs::{Left, Unread},
    },
    disk::Watermarks,
    executor::{Adopted, Executor, Failure, Job, Prepared, Signal},
    log::AttemptLog,
};
use domain::{
    ids::AttemptId,
    node::Condition,
    outcome::{ExitFacts, FailureKind},
    source::Pinned,
    spec::{Network, Output, TaskSpec},
};
use futures::future::BoxFuture;
use starter::Starter;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use supervisor::{Doorbell, KernelKills};
use users::Users;

/// Writes the tree of a commit into a directory that is there and empty.
pub trait TreeWriter: Send + Sync {
    fn materialise<'a>(
        &'a self,
        pinned: &'a Pinned,
        dir: &'a Path,
        owner: Option<(u32, u32)>,
        log: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<Materialised, Failure>>;
}

/// What was written: kept as provenance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Materialised {
    pub commit: String,
    pub tree: String,
    pub bytes_fetched: u64,
    pub cached: bool,
    /// What is not in the directory though the commit names it: submodules, pointers of Git LFS.
    pub notes: Vec<String>,
}

/// How this node runs processes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where attempts live: its disk is watched.
    pub data_dir: PathBuf,
    /// The supervisor's binary. None: `unidesk-shim` beside this program.
    pub shim: Option<PathBuf>,
    /// PATH of tasks that set none.
    pub path: String,
    /// Give each attempt a user of its own. Takes effect only as root.
    pub own_users: bool,
    /// How often the memory of a task's processes is summed up.
    pub memory_period: Duration,
    /// Processes and threads of one attempt, where it has a user of its own.
    pub max_processes: u64,
    pub max_open_files: u64,
    /// The node takes no more work when its disk is too full.
    pub disk: Watermarks,
}

impl Settings {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            shim: None,
            path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            own_users: true,
            memory_period: Duration::from_millis(200),
            max_processes: 4_096,
            max_open_files: 65_536,
            disk: Watermarks::default(),
        }
    }
}

/// Runs attempts as processes of this machine. Cheap to clone.
#[derive(Clone)]
pub struct ProcessExecutor {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    users: Users,
    trees: Arc<dyn TreeWriter>,
    /// Of the processes that this agent started. Those it found at its own start ring no bell any more.
    doorbells: Mutex<HashMap<AttemptId, Arc<Doorbell>>>,
    /// Where the supervisor's binary was found.
    shim: OnceLock<PathBuf>,
    starter: Starter,
    kernel_kills: Mutex<KernelKills>,
    reachable: Mutex<scratch::Reachable>,
    inputs: OnceLock<(Inputs, inputs::Cellar)>,
}

impl ProcessExecutor {
    pub fn new(settings: Settings, trees: Arc<dyn TreeWriter>) -> Self {
        let users = Users::of_this_machine(settings.own_users);
        Self {
            shared: Arc::new(Shared {
                settings,
                users,
                trees,
                doorbells: Mutex::default(),
                shim: OnceLock::new(),
                starter: Starter::default(),
                kernel_kills: Mutex::default(),
                reachable: Mutex::default(),
                inputs: OnceLock::new(),
            }),
        }
    }

    /// From here on tasks may have inputs; they are kept in `inputs` below the data directory. Errors: that can't be made.
    pub fn with_inputs(self, inputs: Inputs) -> std::io::Result<Self> {
        let root = self.shared.settings.data_dir.join("inputs");
        let cellar = inputs::Cellar::open(&root, |key| inputs.shelf.knows(key))?;
        let _ = self.shared.inputs.set((inputs, cellar));
        Ok(self)
    }

    /// How limits are enforced, for the node's facts.
    pub fn limits(&self) -> String {
        let settings = &self.shared.settings;
        let users = if self.shared.users.are_own() {
            format!("each attempt as a user of its own with at most {} processes", settings.max_processes)
        } else {
            "all attempts as the agent's user".to_owned()
        };
        format!(
            "memory: watcher of the process tree, every {} ms; cpu and disk: not limited; {users}",
            settings.memory_period.as_millis()
        )
    }

    /// Removes inputs that nobody uses while the agent's disk is too full: how many bytes.
    pub async fn relieve_disk(&self) -> u64 {
        let Some((inputs, cellar)) = self.shared.inputs.get() else { return 0 };
        let Settings { data_dir, disk, .. } = &self.shared.settings;
        crate::artifacts::inputs::relieve(cellar, &inputs.shelf, data_dir, disk).await
    }

    fn refuse_when_full(&self) -> Result<(), Failure> {
        self.shared.settings.disk.refuse_when_full(&self.shared.settings.data_dir, "the agent's disk")
    }

    fn doorbells(&self) -> MutexGuard<'_, HashMap<AttemptId, Arc<Doorbell>>> {
        // The map is whole after every statement that changes it.
        self.shared.doorbells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The workdir that a spec has when it says nothing: the attempt's own directory.
const WORKSPACE: &str = "/workspace";

impl Executor for ProcessExecutor {
    fn name(&self) -> &'static str {
        "process"
    }
    fn version(&self) -> &'static str {
        "1"
    }

    fn validate(&self, spec: &TaskSpec) -> Result<(), Failure> {
        let refuse = |message: &str| Err(Failure::new(FailureKind::Rejected, message));
        if spec.source.environment.is_some() {
            return refuse(
                "A process task runs without an image. Leave the environment repository out, or use executor: container.",
            );
        }
        if spec.command.is_blank() {
            return refuse("A process task needs a command: there is no image that could have one.");
        }
        if scratch::below_workspace(&spec.workdir).is_none() {
            return refuse(
                "A process task works in a directory of its own, which it calls /workspace: workdir must be /workspace or below it.",
            );
        }
        let lies_outside = |path: &str| scratch::below_workspace(path).is_none();
        if spec.checkpoints.as_ref().is_some_and(|checkpoints| lies_outside(&checkpoints.path)) {
            return refuse(
                "The checkpoints of a process task lie in the directory that it calls /workspace, or below it.",
            );
        }
        if spec.user.is_some() {
            return refuse(
                "A process task runs as a user that the node chooses. Leave user out, or use executor: container.",
            );
        }
        if spec.network == Network::None && !self.shared.users.are_own() {
            return refuse("This node's agent does not run as root, so it can't take the network away from a process.");
        }
        let mut words = spec.command.argv();
        words.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
        if words.iter().any(|word| word.contains('\0')) {
            return refuse("The command or a variable holds a NUL character, which no process can be given.");
        }
        Ok(())
    }

    fn prepare<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Prepared, Failure>> {
        Box::pin(run::prepare(self, job))
    }
    fn prepare_at_once(&self, job: &Job) -> Option<Result<Prepared, Failure>> {
        run::prepare_at_once(self, job)
    }
    fn start<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(run::start(self, job))
    }
    fn adopt<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Adopted> {
        Box::pin(async { adoption::adopt(job) })
    }
    fn collect<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<ExitFacts, Failure>> {
        Box::pin(run::collect(self, job))
    }
    fn exit_is_kept(&self, job: &Job) {
        if let Some(doorbell) = self.doorbells().get(&job.held.attempt) {
            doorbell.answer();
        }
    }
    fn signal<'a>(&'a self, job: &'a Job, signal: Signal) -> BoxFuture<'a, ()> {
        Box::pin(run::signal(self, job, signal))
    }
    fn renew<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, ()> {
        Box::pin(async { run::renew(job) })
    }
    fn self_fences(&self) -> bool {
        self.shim().is_ok()
    }
    fn remove<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            run::remove(self, job).await?;
            self.release_inputs(job);
            Ok(())
        })
    }
    fn release_inputs(&self, job: &Job) {
        if let Some((inputs, _)) = self.shared.inputs.get() {
            inputs.release(job.held.attempt);
        }
    }
    fn hold_inputs(&self, job: &Job) {
        if let Some((inputs, _)) = self.shared.inputs.get() {
            inputs.hold(job.held.attempt, &job.spec);
        }
    }
    fn output<'a>(&'a self, job: &'a Job, output: &'a Output) -> BoxFuture<'a, Result<Left, Unread>> {
        Box::pin(outputs::look(job, output))
    }
    fn checkpoint<'a>(&'a self, job: &'a Job, wanted: Wanted) -> BoxFuture<'a, Result<Taken, Unread>> {
        Box::pin(checkpoints::take(job, wanted))
    }

    fn health<'a>(&'a self) -> BoxFuture<'a, Option<Condition>> {
        Box::pin(async { self.refuse_when_full().is_err().then_some(Condition::DiskFull) })
    }
}

/// Does what may block for long on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::node(format!("A step of the agent broke off: {error}.")))
}
