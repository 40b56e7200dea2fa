//! The steps of an attempt: prepare, start, collect, signal, remove.

use super::{
    ProcessExecutor, adoption, blocking, checkpoints,
    environment::environment,
    exit::ExitFile,
    leftovers::Traces,
    output::Follower,
    pidfd::Process,
    proc_fs, remove_tree, scratch,
    state::{self, Record, State},
    supervisor::{self, Doorbell, Rang},
};
use crate::{
    artifacts::{checkpoints::beginning, inputs::bring_all},
    executor::{Adopted, Failure, Job, Prepared, Signal},
};
use domain::{
    outcome::{ExitFacts, FailureKind},
    quantity::show_bytes,
};
use nix::sys::signal::Signal as Unix;
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How often the files are looked at where no bell rings: for processes that an earlier agent started.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A program on a dead network disk may take for ever to be executed.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Longer than the shim's own time to kill.
const END_WITHIN: Duration = Duration::from_secs(40);
/// A shim that has said how it ended has nothing more to do.
const GO_WITHIN: Duration = Duration::from_secs(5);
const CLEAN_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn prepare(executor: &ProcessExecutor, job: &Job) -> Result<Prepared, Failure> {
    if let Some(Record { provenance: Some(provenance), .. }) = Record::read(&job.dir) {
        return Ok(Prepared { provenance });
    }
    let record = plan(executor, job)?;
    if !scratch::reuse(&record, &job.dir) {
        // Before anything is made, so that `remove` finds it all.
        record.write(&job.dir)?;
        let (making, job_dir) = (record.clone(), job.dir.clone());
        blocking(move || scratch::create(&making, &job_dir)).await??;
    }

    let bringing = async {
        match executor.shared.inputs.get() {
            Some((inputs, cellar)) => bring_all(cellar, Some(inputs), job).await,
            None if job.spec.inputs.is_empty() => Ok(Vec::new()),
            None => Err(Failure::new(FailureKind::Rejected, "this agent brings no inputs")),
        }
    };
    let staging = checkpoints::Staging::of(&record);
    let artifacts = executor.shared.inputs.get().map(|(inputs, _)| &inputs.artifacts);
    let beginning = beginning::bring(&staging, artifacts, job);
    // The first failure ends the others.
    let (mut provenance, brought, checkpoint) =
        tokio::try_join!(write_code(executor, job, &record), bringing, beginning)?;
    if let Some((_, cellar)) = executor.shared.inputs.get().cloned().filter(|_| !brought.is_empty()) {
        let facts: Vec<_> = brought.iter().map(|input| input.provenance.clone()).collect();
        provenance.insert("inputs".into(), facts.into());
        let placing = record.clone();
        blocking(move || cellar.place_all(&placing, &brought)).await??;
    }
    if let Some(checkpoints) = job.spec.checkpoints.clone() {
        let (placing, has_landed) = (record.clone(), checkpoint.is_some());
        provenance.extend(checkpoint.map(|facts| ("checkpoint".to_owned(), facts)));
        blocking(move || checkpoints::place(&checkpoints, &placing, has_landed)).await??;
    }
    conclude(executor, job, record, provenance)
}

async fn write_code(
    executor: &ProcessExecutor,
    job: &Job,
    record: &Record,
) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
    let mut provenance = serde_json::Map::new();
    if let Some(code) = &job.spec.source.code {
        let owner = record.uid.map(|uid| (uid, uid));
        let written = executor.shared.trees.materialise(code, &record.work(), owner, &job.log).await?;
        for note in &written.notes {
            job.log.note(note).await;
        }
        let code = json!({
            "url": code.url.as_str(), "commit": written.commit, "tree": written.tree,
            "bytes_fetched": written.bytes_fetched, "cached": written.cached, "notes": written.notes,
        });
        provenance.insert("code".into(), code);
    }
    Ok(provenance)
}

/// As [`prepare`], where no code is to be fetched and an earlier attempt has left its directories.
pub(super) fn prepare_at_once(executor: &ProcessExecutor, job: &Job) -> Option<Result<Prepared, Failure>> {
    let needs_more = job.spec.source.code.is_some() || !job.spec.inputs.is_empty() || job.spec.checkpoints.is_some();
    if needs_more || Record::read(&job.dir).is_some() {
        return None;
    }
    match plan(executor, job) {
        Ok(record) => {
            scratch::reuse(&record, &job.dir).then(|| conclude(executor, job, record, serde_json::Map::new()))
        }
        Err(failure) => Some(Err(failure)),
    }
}

fn plan(executor: &ProcessExecutor, job: &Job) -> Result<Record, Failure> {
    executor.shim()?;
    executor.refuse_when_full()?;
    let uid = executor.shared.users.choose(job.held.attempt);
    let scratch = scratch::choose(job, uid, &executor.shared.reachable);
    Ok(Record { boot_id: proc_fs::boot_id(), uid, scratch, provenance: None })
}

fn conclude(
    executor: &ProcessExecutor,
    job: &Job,
    mut record: Record,
    mut provenance: serde_json::Map<String, serde_json::Value>,
) -> Result<Prepared, Failure> {
    provenance.insert("limits".into(), executor.limits().into());
    provenance.insert("gpu_ids".into(), json!(job.gpu_ids));
    record.provenance = Some(provenance.clone());
    record.write(&job.dir)?;
    Ok(Prepared { provenance })
}

pub(super) async fn start(executor: &ProcessExecutor, job: &Job) -> Result<(), Failure> {
    let found = State::read(&job.dir);
    let adopted = adoption::adopt_unstarted(job, &found);
    let Some(record @ Record { provenance: Some(_), .. }) = found.record else {
        return Err(Failure::node("The attempt's directory was not prepared, or somebody deleted it."));
    };
    match adopted {
        Adopted::NotStarted => {}
        Adopted::Running | Adopted::Exited => return Ok(()),
        Adopted::Gone | Adopted::Unknown => return Err(vanished()),
    }
    let starting = async {
        match begin(executor, job, &record).await? {
            // The starter was killed with what it was told, or the shim in its first moment. Nothing was begun: a shim says who it is first.
            Begun::Nowhere => begin(executor, job, &record).await,
            begun => Ok(begun),
        }
    };
    let begun = timeout(START_WITHIN, starting).await.unwrap_or_else(|_| {
        Err(Failure::node(format!("The process did not begin within {} s.", START_WITHIN.as_secs())))
    });
    match begun? {
        Begun::Here(doorbell) => drop(executor.doorbells().insert(job.held.attempt, Arc::new(doorbell))),
        Begun::Elsewhere => {}
        Begun::Nowhere => return Err(gave_up("it said nothing")),
    }
    Ok(())
}

enum Begun {
    Here(Doorbell),
    /// An earlier start was under way, and its shim has the attempt.
    Elsewhere,
    Nowhere,
}

async fn begin(executor: &ProcessExecutor, job: &Job, record: &Record) -> Result<Begun, Failure> {
    let doorbell = supervisor::spawn(executor, job, record).await?;
    match doorbell.wait().await {
        // It rings when the process runs, and when it has ended.
        Rang::Again => Ok(Begun::Here(doorbell)),
        Rang::Failed(why) => Err(gave_up(&why)),
        Rang::Elsewhere => {
            // It may still be busy with its first words.
            while !matches!(adoption::adopt(job), Adopted::Running | Adopted::Exited) {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(Begun::Elsewhere)
        }
        Rang::Closed if State::read(&job.dir).supervisor.is_none() => Ok(Begun::Nowhere),
        Rang::Closed => Err(gave_up("it said nothing")),
    }
}

fn gave_up(why: &str) -> Failure {
    Failure::node(format!("The supervisor of the process ended before the process began: {why}."))
}

pub(super) async fn collect(executor: &ProcessExecutor, job: &Job) -> Result<ExitFacts, Failure> {
    let mut news = News::of(executor, job);
    let mut follower = Follower::new(&job.dir, &job.log);
    loop {
        // Asked for before reading: the shim writes nothing after its end.
        let has_ended = !news.supervisor_is_alive();
        let found = State::read(&job.dir);
        follower = match follower.catch_up(&job.log, found.exit.is_some() || has_ended).await {
            Ok(follower) => follower,
            Err(error) => {
                tracing::warn!(attempt.id = %job.held.attempt, %error, "the output of a process can't be read; trying again");
                sleep(Duration::from_secs(1)).await;
                Follower::new(&job.dir, &job.log)
            }
        };
        if let Some(exit) = found.exit {
            let missing = follower.missing(exit.log_bytes);
            return finish(executor, job, found.record, &exit, missing).await;
        }
        if has_ended {
            return Err(vanished());
        }
        news.wait(&job.dir).await;
    }
}

async fn finish(
    executor: &ProcessExecutor,
    job: &Job,
    record: Option<Record>,
    exit: &ExitFile,
    missing_bytes: u64,
) -> Result<ExitFacts, Failure> {
    let path = if exit.not_started.is_some() {
        environment(job, &record.unwrap_or_default(), &executor.shared.settings).remove("PATH").unwrap_or_default()
    } else {
        String::new()
    };
    for note in exit.explanations(job, &path) {
        job.log.note(&note).await;
    }
    // Over its limit, the log has said so itself.
    if exit.dropped_bytes > 0 && job.log.totals().complete {
        let dropped = show_bytes(exit.dropped_bytes);
        job.log.note(&format!("{dropped} of output could not be kept, because the node's disk was full")).await;
    }
    // The supervisor syncs all at once at the end, and the page with the exit may have been on disk first.
    if missing_bytes > 0 && job.is_of_earlier_boot {
        let missing = show_bytes(missing_bytes);
        job.log
            .note(&format!("{missing} of output were lost when the machine stopped before they were on its disk"))
            .await;
    }
    Ok(ExitFacts { not_started: exit.why_not_started(&job.spec, &path), ..exit.facts()? })
}

fn vanished() -> Failure {
    Failure::node(
        "The process and its supervisor are gone without a trace of how they ended: killed by hand, or by a restart of the machine.",
    )
}

/// Waits until there may be something new.
enum News {
    Bell(Arc<Doorbell>),
    /// Started by an earlier agent: nobody rings, so the files are looked at, and the kernel says when the shim ends.
    Looking(Option<Process>, Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>),
}

impl News {
    fn of(executor: &ProcessExecutor, job: &Job) -> Self {
        match executor.doorbells().get(&job.held.attempt).cloned() {
            Some(bell) => Self::Bell(bell),
            None => Self::looking(&job.dir),
        }
    }

    fn looking(job_dir: &Path) -> Self {
        let supervisor = State::read(job_dir).supervisor;
        Self::Looking(supervisor, supervisor.and_then(Process::watch))
    }

    fn supervisor_is_alive(&self) -> bool {
        match self {
            // It would have closed.
            Self::Bell(_) => true,
            Self::Looking(supervisor, _) => supervisor.is_some_and(Process::is_alive),
        }
    }

    async fn wait(&mut self, job_dir: &Path) {
        match self {
            Self::Bell(bell) => {
                if bell.wait().await != Rang::Again {
                    // A closed bell answers at once for ever.
                    *self = Self::looking(job_dir);
                }
            }
            Self::Looking(_, Some(end)) => {
                if timeout(LOOK_AGAIN, end.readable()).await.is_ok() {
                    let Self::Looking(supervisor, _) = *self else { return };
                    *self = Self::Looking(supervisor, None);
                }
            }
            Self::Looking(_, None) => sleep(LOOK_AGAIN).await,
        }
    }
}

pub(super) async fn signal(executor: &ProcessExecutor, job: &Job, signal: Signal) {
    let State { supervisor, .. } = State::read(&job.dir);
    let Some(alive) = supervisor.filter(|process| process.is_alive()) else {
        // Nobody is left to pass it on. What still lives has lost its supervisor, and can only be killed.
        if supervisor.is_some() && State::read(&job.dir).exit.is_none() {
            let _ = kill_leftovers(executor, job).await;
        }
        return;
    };
    alive.signal(match signal {
        Signal::Stop => supervisor::STOP,
        Signal::Kill => supervisor::KILL,
    });
}

pub(super) fn renew(job: &Job) {
    let Some(lease) = &job.lease else { return };
    if let Err(error) = supervisor::write_lease(&job.dir, lease) {
        tracing::warn!(attempt.id = %job.held.attempt, %error, "a renewed lease could not be written down");
        return;
    }
    if let Some(alive) = State::read(&job.dir).supervisor.filter(|process| process.is_alive()) {
        alive.signal(supervisor::RENEWED);
    }
}

pub(super) async fn remove(executor: &ProcessExecutor, job: &Job) -> Result<(), Failure> {
    let doorbell = executor.doorbells().remove(&job.held.attempt);
    let mut found = State::read(&job.dir);
    if let Some(supervisor) = found.supervisor {
        end_shim(doorbell.as_deref(), supervisor, found.exit.is_some()).await;
        // The shim looks after all that it started, so its word that none is left spares a search through all processes.
        if found.exit.is_none() {
            found = State::read(&job.dir);
        }
        if found.exit.is_none_or(|exit| exit.alive > 0) {
            kill_leftovers(executor, job).await?;
        }
    }
    let job_dir = job.dir.clone();
    let failed = |error| Failure::node(format!("What the process left on disk can't be deleted: {error}."));
    match found.record {
        Some(record) if scratch::leave_for_next(&record, &job_dir) => {}
        record => blocking(move || remove_scratch(record, &job_dir)).await?.map_err(failed)?,
    }
    state::clear(&job.dir).map_err(failed)
}

fn remove_scratch(record: Option<Record>, job_dir: &Path) -> std::io::Result<()> {
    let Some(record) = record else { return Ok(()) };
    remove_tree(&record.work())?;
    remove_tree(&record.tmp())?;
    if record.scratch == job_dir { Ok(()) } else { remove_tree(&record.scratch) }
}

async fn end_shim(doorbell: Option<&Doorbell>, supervisor: Process, has_exit: bool) {
    if let Some(doorbell) = doorbell {
        // Whether or not the exit was wanted: it is of no use any more.
        doorbell.answer();
        if has_exit && timeout(GO_WITHIN, doorbell.closed()).await.is_ok() {
            return;
        }
    }
    end_supervisor(supervisor).await;
    if let Some(doorbell) = doorbell {
        doorbell.closed().await;
    }
}

/// Has the shim kill its tree, and waits until it is gone itself.
async fn end_supervisor(supervisor: Process) {
    if !supervisor.is_alive() {
        return;
    }
    let end = supervisor.watch();
    supervisor.signal(supervisor::KILL);
    let until = Instant::now() + END_WITHIN;
    while supervisor.is_alive() && Instant::now() < until {
        match &end {
            Some(end) => drop(timeout(LOOK_AGAIN, end.readable()).await),
            None => sleep(Duration::from_millis(5)).await,
        }
    }
    supervisor.signal(Unix::SIGKILL);
}

async fn kill_leftovers(executor: &ProcessExecutor, job: &Job) -> Result<(), Failure> {
    let State { record: Some(record), started, supervisor, .. } = State::read(&job.dir) else { return Ok(()) };
    if record.boot_id != proc_fs::boot_id() {
        return Ok(());
    }
    let traces = Traces::new(job.held.attempt, &record, started, supervisor);
    let shim = executor.shim()?;
    match blocking(move || traces.kill_all(&shim, CLEAN_WITHIN)).await? {
        0 => Ok(()),
        left => Err(Failure::node(format!("{left} processes of the attempt do not end although they were killed."))),
    }
}
