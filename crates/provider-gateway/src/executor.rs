//! The contract of an executor, and the registry of those that this node offers. A new executor is a new implementation
//! here and nothing else: the agent, the protocol and the server know executors only by name.

use crate::{
    artifacts::{
        checkpoints::{Known, Taken, Wanted},
        outputs::{Left, Unread},
    },
    log::AttemptLog,
};
use domain::{
    ids::{Held, InstanceId, ProjectId, TaskId},
    lease::Lease,
    node::Condition,
    outcome::{Ending, ExitFacts, FailureKind},
    spec::{Output, TaskSpec},
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The variable with the directory that is kept while a task runs, as its program sees it.
pub(crate) const CHECKPOINT_DIR: &str = "UNIDESK_CHECKPOINT_DIR";

/// One attempt as an executor sees it.
#[derive(Clone)]
pub struct Job {
    pub held: Held,
    pub task: TaskId,
    pub project: ProjectId,
    /// 1 for the first attempt.
    pub number: u32,
    pub gpu_ids: Vec<String>,
    pub spec: Arc<TaskSpec>,
    /// This installation; labels carry it, so that an agent touches only what is its own.
    pub instance: InstanceId,
    pub node_name: String,
    /// The attempt's own directory on the node's disk (mode 0711). What an executor keeps across agent restarts lies here; the
    /// agent deletes it after `remove`.
    pub dir: PathBuf,
    /// Of exclusive work: how long it may run without word from the server.
    pub lease: Option<JobLease>,
    /// It was got ready, and perhaps started, before the machine's last restart: so the agent's record says, which no power loss
    /// takes back.
    pub is_of_earlier_boot: bool,
    /// What is known of its checkpoints.
    pub checkpoints: Known,
    /// Where all output goes: byte for byte, in the order of reading. Waits when the spool is full.
    pub log: AttemptLog,
}

/// The lease of an exclusive attempt, as its supervisor needs it. Clones share when it was renewed.
#[derive(Clone, Debug)]
pub struct JobLease {
    pub terms: Lease,
    renewed_at: Arc<AtomicU64>,
    writing: Arc<Mutex<()>>,
}

impl JobLease {
    pub fn new(terms: Lease) -> Self {
        Self { terms, renewed_at: Arc::default(), writing: Arc::default() }
    }
    /// When the last acknowledged heartbeat was sent, in milliseconds of CLOCK_BOOTTIME. 0: never.
    pub fn renewed_at(&self) -> u64 {
        self.renewed_at.load(Ordering::Acquire)
    }
    pub fn renew(&self, sent_at: u64) {
        self.renewed_at.fetch_max(sent_at, Ordering::AcqRel);
    }
    /// Whoever writes the lease down holds this: a heartbeat may be acknowledged in the middle of a start.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// The variables that every task gets beside its own.
    pub fn platform_env(&self) -> BTreeMap<String, String> {
        let checkpoints = self.spec.checkpoints.as_ref();
        [
            ("UNIDESK_TASK_ID", self.task.to_string()),
            ("UNIDESK_ATTEMPT", self.number.to_string()),
            ("UNIDESK_ATTEMPT_ID", self.held.attempt.to_string()),
            ("UNIDESK_FENCE", self.held.fence.to_string()),
        ]
        .into_iter()
        .chain(checkpoints.map(|checkpoints| (CHECKPOINT_DIR, checkpoints.path.clone())))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

/// Why a step went wrong: the kind decides whose fault it is, the message says what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
    /// The machine's fault: another node may well do it.
    pub fn node(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NodeError, message)
    }
    pub fn into_ending(self) -> Ending {
        Ending::failed(self.kind, self.message)
    }
}

/// What `prepare` got ready: recorded for ever as the attempt's provenance (commits, trees, image, driver).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    pub provenance: serde_json::Map<String, serde_json::Value>,
}

/// What an agent finds of an attempt after its own restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// Alive: `collect` goes on with it.
    Running,
    /// Ended while nobody looked: `collect` yields the rest of its log and its true exit facts.
    Exited,
    /// It was never started.
    NotStarted,
    /// It was started and is gone without a trace (reboot, removed by hand).
    Gone,
    /// Can't be told now (Docker does not answer): ask again later, judge nothing.
    Unknown,
}

/// How to end a process: ask first, then don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The spec's stop signal.
    Stop,
    /// SIGKILL, the whole tree.
    Kill,
}

/// Runs attempts. Every method is safe to repeat; dropping a future cancels what it does.
pub trait Executor: Send + Sync {
    /// As specs name it.
    fn name(&self) -> &'static str;
    fn version(&self) -> &'static str;
    /// Refuses what can't run here, before anything is done.
    fn validate(&self, spec: &TaskSpec) -> Result<(), Failure>;
    /// Makes all ready: source, environment, a container created but not started.
    fn prepare<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Prepared, Failure>>;
    /// As `prepare`, where that is a matter of microseconds and waits for nothing. None: nothing was done, and `prepare` is to be called.
    /// May be called before the attempt is in the agent's record: all that it leaves goes with `dir`.
    fn prepare_at_once(&self, _: &Job) -> Option<Result<Prepared, Failure>> {
        None
    }
    /// Starts the user's process. Returns once it is alive (or has already ended).
    fn start<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>>;
    /// Finds the attempt again after the agent's restart.
    fn adopt<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Adopted>;
    /// Copies output to `job.log`, from where the log stands, until the process has ended; then its exit facts. The agent adds
    /// `timed_out` and `cancelled`. Not being able to ask is retried inside, with backoff: an error is a verdict.
    fn collect<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<ExitFacts, Failure>>;
    /// The facts that `collect` gave are in the agent's own record, fsynced. Returns at once.
    fn exit_is_kept(&self, _: &Job) {}
    /// Sends a signal. Fine when the process has ended already.
    fn signal<'a>(&'a self, job: &'a Job, signal: Signal) -> BoxFuture<'a, ()>;
    /// Tells the supervisor of exclusive work that `job.lease` was renewed. Also called before and right after the start. Best effort:
    /// what does not arrive shortens the lease.
    fn renew<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    /// Whether exclusive work ends here by itself, even when the agent is frozen.
    fn self_fences(&self) -> bool {
        false
    }
    /// The agent has this attempt: what its task reads is not evicted before `remove` has returned Ok. Said before anything else is asked of it.
    fn hold_inputs(&self, _: &Job) {}
    /// The agent has it no more.
    fn release_inputs(&self, _: &Job) {}
    /// What an attempt that has ended left at the path of an output. Reads no content yet.
    fn output<'a>(&'a self, _: &'a Job, _: &'a Output) -> BoxFuture<'a, Result<Left, Unread>> {
        Box::pin(async { Err(Failure::node("this executor keeps no outputs").into()) })
    }
    /// Packs the directory of the task's checkpoints, when it is still. Waits for that no longer than it takes to see it.
    fn checkpoint<'a>(&'a self, _: &'a Job, _: Wanted) -> BoxFuture<'a, Result<Taken, Unread>> {
        Box::pin(async { Err(Failure::node("this executor keeps no checkpoints").into()) })
    }
    /// Removes container, processes, trees: when it returns Ok the resources are free.
    fn remove<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>>;
    /// What keeps this executor from working now; None when it is well. Answers within 10 s.
    fn health<'a>(&'a self) -> BoxFuture<'a, Option<Condition>>;
    /// Keys of what is warm here (see [`domain::warm`]).
    fn warm(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The executors of this node, by name.
#[derive(Clone, Default)]
pub struct Registry {
    executors: BTreeMap<&'static str, Arc<dyn Executor>>,
}

impl Registry {
    pub fn with(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executors.insert(executor.name(), executor);
        self
    }
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Executor>> {
        self.executors.get(name)
    }
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Executor>> {
        self.executors.values()
    }
}
