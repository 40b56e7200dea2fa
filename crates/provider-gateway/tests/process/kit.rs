//! An executor with a directory of its own, and attempts to run on it.

use bytes::Bytes;
use domain::{
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, TaskId},
    outcome::ExitFacts,
    source::Pinned,
    spec::parse_spec,
};
use futures::future::BoxFuture;
use protocol::{LogPayload, Stream};
use provider_gateway::{
    executor::{Executor, Failure, Job},
    log::{AttemptLog, Cursor},
    process::{Materialised, ProcessExecutor, Settings, TreeWriter},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// Everything here ends long before this, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    root: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) executor: ProcessExecutor,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        // As an agent's data directory: unprivileged users pass through it, but do not look around.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).expect("mode is set");
        let mut settings = Settings { shim: Some(shim()), ..Settings::new(root.path()) };
        change(&mut settings);
        let executor = ProcessExecutor::new(settings.clone(), Arc::new(OneFile));
        Self { root, settings, executor }
    }

    /// The agent of this node after a restart: it knows nothing but what is on disk.
    pub(crate) fn another_agent(&self) -> ProcessExecutor {
        ProcessExecutor::new(self.settings.clone(), Arc::new(OneFile))
    }

    pub(crate) fn job(&self, command: Value) -> Job {
        self.job_of(json!({ "command": command }))
    }

    pub(crate) fn job_of(&self, body: Value) -> Job {
        let spec = parse_spec(&body).expect("a good spec");
        let held = Held { attempt: AttemptId::from_uuid(Uuid::now_v7()), fence: Fence::from_i64(7) };
        let dir = self.root.path().join(held.attempt.to_string());
        fs::create_dir(&dir).expect("the attempt's directory is made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).expect("mode is set");
        Job {
            held,
            task: TaskId::from_uuid(Uuid::now_v7()),
            project: DEFAULT_PROJECT,
            number: 1,
            gpu_ids: Vec::new(),
            log: log(&dir, held, spec.log_limit_bytes),
            spec: Arc::new(spec),
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            node_name: "here".into(),
            lease: None,
            is_of_earlier_boot: false,
            checkpoints: Default::default(),
            dir,
        }
    }

    pub(crate) async fn start(&self, job: &Job) {
        self.executor.validate(&job.spec).expect("it may run here");
        self.executor.prepare(job).await.expect("prepared");
        self.executor.start(job).await.expect("started");
    }

    /// Runs an attempt from beginning to end, and leaves it there to be looked at.
    pub(crate) async fn run(&self, job: &Job) -> ExitFacts {
        self.start(job).await;
        within(self.executor.collect(job)).await.expect("collected")
    }

    /// Runs a command, removes it, and gives its exit and standard output.
    pub(crate) async fn run_command(&self, command: Value) -> (ExitFacts, String) {
        let job = self.job(command);
        let facts = self.run(&job).await;
        self.executor.remove(&job).await.expect("removed");
        (facts, stdout(&job))
    }
}

impl Drop for Rig {
    /// Nothing of a test that failed half-way runs on.
    fn drop(&mut self) {
        for attempt in fs::read_dir(self.root.path()).into_iter().flatten().flatten() {
            if let Some(pid) = supervisor(&attempt.path()).filter(|_| !has_ended(&attempt.path())) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1);
            }
        }
    }
}

/// What the shim of an attempt has said in the page that is its own.
fn said(attempt: &Path) -> String {
    let state = fs::read(attempt.join("process")).unwrap_or_default();
    String::from_utf8_lossy(state.get(4_096..state.len().min(8_192)).unwrap_or_default()).into_owned()
}

pub(crate) fn supervisor(attempt: &Path) -> Option<nix::unistd::Pid> {
    let pid = said(attempt).lines().next()?.strip_prefix("pid=")?.parse().ok()?;
    Some(nix::unistd::Pid::from_raw(pid))
}

/// The process that forked the supervisor of an attempt.
pub(crate) fn starter(attempt: &Path) -> nix::unistd::Pid {
    let supervisor = supervisor(attempt).expect("it is supervised");
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).expect("it is there");
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).expect("it has a parent");
    let starter = nix::unistd::Pid::from_raw(parent.parse().expect("a number"));
    assert!(is_starter(starter), "{starter} is another");
    starter
}

pub(crate) fn is_starter(pid: nix::unistd::Pid) -> bool {
    // A dead one that nobody has waited for yet has no program.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "unidesk-starter\n")
}

/// The shim has said how it ended.
pub(crate) fn has_ended(attempt: &Path) -> bool {
    said(attempt).contains("\nend\n")
}

/// Opens the log of an attempt as a new agent would.
pub(crate) fn log(dir: &Path, held: Held, limit_bytes: u64) -> AttemptLog {
    AttemptLog::open(&dir.join("spool"), held, limit_bytes, Arc::default()).expect("the log opens")
}

/// The same attempt in the hands of a new agent.
pub(crate) fn reopened(job: Job) -> Job {
    let (dir, held, limit) = (job.dir.clone(), job.held, job.spec.log_limit_bytes);
    // The old agent's handle is gone first, as it would be.
    let job = Job { log: AttemptLog::capture().0, ..job };
    Job { log: log(&dir, held, limit), ..job }
}

pub(crate) fn pieces(job: &Job) -> Vec<(Stream, Bytes)> {
    let mut cursor = Cursor::default();
    let frames = std::iter::from_fn(|| job.log.read_next(&mut cursor).expect("the log can be read"));
    frames
        .filter_map(|frame| match frame.payload {
            LogPayload::Bytes(bytes) => Some((frame.stream, bytes)),
            LogPayload::Gap(_) => None,
        })
        .collect()
}

pub(crate) fn bytes(job: &Job, stream: Stream) -> Vec<u8> {
    pieces(job).into_iter().filter(|(of, _)| *of == stream).flat_map(|(_, bytes)| bytes).collect()
}

pub(crate) fn stdout(job: &Job) -> String {
    String::from_utf8(bytes(job, Stream::Stdout)).expect("text")
}

pub(crate) fn notes(job: &Job) -> String {
    String::from_utf8(bytes(job, Stream::System)).expect("text")
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it ends in time")
}

/// Waits for something that other processes bring about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A number that is only in the command lines of one test's processes, as seconds for `sleep`.
pub(crate) fn marker() -> String {
    format!("7{:09}", Uuid::new_v4().as_u128() % 1_000_000_000)
}

/// How many processes of this machine have the marker in their command line.
pub(crate) fn count_marked(marker: &str) -> usize {
    let command_lines = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        fs::read(entry.path().join("cmdline")).ok()
    });
    command_lines.filter(|line| line.windows(marker.len()).any(|part| part == marker.as_bytes())).count()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A commit whose tree is one file: its own address.
struct OneFile;

impl TreeWriter for OneFile {
    fn materialise<'a>(
        &'a self,
        pinned: &'a Pinned,
        dir: &'a Path,
        owner: Option<(u32, u32)>,
        log: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<Materialised, Failure>> {
        Box::pin(async move {
            let file = dir.join("origin");
            fs::write(&file, pinned.url.as_str()).expect("written");
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&file, Some(uid), Some(gid)).expect("given away");
            }
            log.note("fetched").await;
            let notes = vec!["the submodule vendor/x is not there".to_owned()];
            Ok(Materialised {
                commit: pinned.commit.to_string(),
                tree: "a1".repeat(20),
                notes,
                ..Materialised::default()
            })
        })
    }
}

/// The supervisor's binary, built when it is missing or older than its sources.
fn shim() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let shim = profile.join("unidesk-shim");
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim");
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let sources =
        fs::read_dir(crate_dir.join("src")).expect("the sources").flatten().map(|entry| changed(&entry.path()));
    if changed(&shim) < sources.max().expect("there are sources") {
        let status =
            Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "shim"]).current_dir(crate_dir).status();
        assert!(status.expect("cargo runs").success(), "unidesk-shim does not build");
    }
    shim
}
