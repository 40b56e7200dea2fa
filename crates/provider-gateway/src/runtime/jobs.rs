//! The steps of attempts: each runs as a task of its own and says what came of it.

use super::{AttemptsDir, Input, Logs, Parts, attempts_dir::SPOOL, journal::Kept};
use crate::{
    agent::{Action, Event, Record},
    artifacts::{
        checkpoints::{self, Known},
        outputs,
    },
    executor::{Adopted, Executor, Failure, Job, JobLease},
    log::AttemptLog,
};
use domain::{
    ids::AttemptId,
    outcome::{ExitFacts, FailureKind},
};
use protocol::{Assign, Completeness};
use service_kit::Service;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) struct Jobs {
    parts: Parts,
    pub(super) logs: Logs,
    inputs: mpsc::UnboundedSender<Input>,
    service: Service,
    jobs: BTreeMap<AttemptId, (Job, Arc<dyn Executor>)>,
    /// Drops what is being prepared or stored: one thing at a time, and here stands the newest.
    abortable: BTreeMap<AttemptId, CancellationToken>,
    adopting: BTreeSet<AttemptId>,
    /// Executors that could not be asked about an attempt.
    unknown: BTreeMap<AttemptId, &'static str>,
}

impl Jobs {
    pub(super) fn new(parts: Parts, logs: Logs, inputs: mpsc::UnboundedSender<Input>, service: Service) -> Self {
        Self {
            parts,
            logs,
            inputs,
            service,
            jobs: BTreeMap::new(),
            abortable: BTreeMap::new(),
            adopting: BTreeSet::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// What an earlier agent left, opened again.
    pub(super) fn restore(&mut self) -> std::io::Result<Vec<Record>> {
        let (kept, boot) = (self.parts.attempts.take_found()?, crate::process::boot_id());
        for Kept { record, prepared_in } in &kept {
            self.open(&record.assign)?;
            if let Some((job, _)) = self.jobs.get_mut(&record.assign.held.attempt) {
                job.is_of_earlier_boot = prepared_in.as_ref().is_some_and(|run| *run != boot);
            }
        }
        Ok(kept.into_iter().map(|kept| kept.record).collect())
    }

    /// Makes an attempt's directory and opens its log.
    pub(super) fn open(&mut self, assign: &Assign) -> std::io::Result<()> {
        let attempt = assign.held.attempt;
        let dir = self.parts.attempts.create(attempt, assign.project)?;
        let log = AttemptLog::open_in(
            &dir.join(SPOOL),
            assign.held,
            assign.spec.log_limit_bytes,
            self.logs.appended.clone(),
            self.logs.room.clone(),
        )?;
        self.logs.insert(attempt, log.clone());
        let job = Job {
            held: assign.held,
            task: assign.task,
            project: assign.project,
            number: assign.number,
            gpu_ids: assign.gpu_ids.clone(),
            spec: Arc::new(assign.spec.clone()),
            instance: self.parts.instance,
            node_name: self.parts.node_name.borrow().clone(),
            dir,
            lease: assign.lease.map(JobLease::new),
            is_of_earlier_boot: false,
            checkpoints: Known::default(),
            log,
        };
        let executor =
            self.parts.registry.get(&assign.spec.executor).cloned().unwrap_or_else(|| Arc::new(NoSuchExecutor));
        executor.hold_inputs(&job);
        self.jobs.insert(attempt, (job, executor));
        Ok(())
    }

    /// Deletes what was begun of an assignment that the disk does not take.
    pub(super) fn refuse(&mut self, attempt: AttemptId) {
        self.parts.attempts.note_refusal();
        self.carry_out(Action::Forget(attempt));
    }

    pub(super) fn attempts(&self) -> &AttemptsDir {
        &self.parts.attempts
    }

    /// What must be on disk before its end is: once that is, nobody reads the container's log again.
    pub(super) fn log(&self, attempt: AttemptId) -> Option<AttemptLog> {
        self.jobs.get(&attempt).map(|(job, _)| job.log.clone())
    }

    /// The record with an attempt's exit is on disk.
    pub(super) fn exit_is_kept(&self, attempt: AttemptId) {
        if let Some((job, executor)) = self.jobs.get(&attempt) {
            executor.exit_is_kept(job);
        }
    }

    /// Keeps books on what is being looked up.
    pub(super) fn note(&mut self, event: &Event) {
        let Event::Adopted { attempt, found } = event else { return };
        self.adopting.remove(attempt);
        match (found, self.jobs.get(attempt)) {
            (Adopted::Unknown, Some((_, executor))) => self.unknown.insert(*attempt, executor.name()),
            _ => self.unknown.remove(attempt),
        };
    }

    pub(super) fn is_adopting(&self) -> bool {
        !self.adopting.is_empty()
    }

    pub(super) fn completeness(&self) -> BTreeMap<String, Completeness> {
        let of = |name: &'static str| {
            if self.unknown.values().any(|unknown| *unknown == name) {
                Completeness::Unknown
            } else {
                Completeness::Complete
            }
        };
        self.parts.registry.iter().map(|executor| (executor.name().to_owned(), of(executor.name()))).collect()
    }

    /// Does the first of these that takes no time, and takes it out. Gives what came of it.
    pub(super) fn do_at_once(&self, actions: &mut Vec<Action>) -> Option<Event> {
        let done = |action: &Action| match *action {
            Action::Prepare(attempt) => {
                let (job, executor) = self.jobs.get(&attempt)?;
                let outcome = match executor.validate(&job.spec) {
                    Ok(()) => executor.prepare_at_once(job)?.map(|prepared| prepared.provenance),
                    Err(failure) => Err(failure),
                };
                Some(Event::Prepared { attempt, outcome })
            }
            Action::AwaitLog(attempt) => {
                let totals = self.jobs.get(&attempt)?.0.log.settled()?;
                Some(Event::LogAcknowledged { attempt, totals })
            }
            _ => None,
        };
        let (at, event) = actions.iter().enumerate().find_map(|(at, action)| Some((at, done(action)?)))?;
        actions.remove(at);
        Some(event)
    }

    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Adopt(attempt) => {
                self.adopting.insert(attempt);
                self.run(attempt, |job, executor| async move { Event::Adopted { attempt, found: executor.adopt(&job).await } });
            }
            Action::Prepare(attempt) => self.prepare(attempt),
            Action::Abort(attempt) => {
                if let Some(token) = self.abortable.remove(&attempt) {
                    token.cancel();
                }
            }
            Action::Start(attempt) => self.run(attempt, |job, executor| async move { Event::Started { attempt, outcome: executor.start(&job).await } }),
            Action::Renew { attempt, sent_at } => {
                // At once: a start that follows reads it.
                if let Some((Job { lease: Some(lease), .. }, _)) = self.jobs.get(&attempt) {
                    lease.renew(sent_at);
                }
                self.run_silently(attempt, |job, executor| async move { executor.renew(&job).await });
            }
            Action::Collect(attempt) => self.run(attempt, |job, executor| async move { Event::Collected { attempt, outcome: executor.collect(&job).await } }),
            Action::Signal(attempt, signal) => self.run_silently(attempt, move |job, executor| async move { executor.signal(&job, signal).await }),
            Action::AwaitLog(attempt) => self.run(attempt, |job, _| async move {
                job.log.acknowledged().await;
                Event::LogAcknowledged { attempt, totals: job.log.totals() }
            }),
            Action::Remove(attempt) => self.run(attempt, |job, executor| async move {
                let outcome = executor.remove(&job).await;
                if let Err(failure) = &outcome {
                    tracing::warn!(attempt.id = %attempt, error = %failure.message, "what an attempt left could not be removed yet");
                }
                Event::Removed { attempt, outcome }
            }),
            Action::Forget(attempt) => {
                let project = self.jobs.remove(&attempt).map(|(job, executor)| {
                    executor.release_inputs(&job);
                    job.project
                });
                self.abortable.remove(&attempt);
                self.logs.remove(attempt);
                if let Err(error) = self.parts.attempts.remove(attempt, project) {
                    tracing::warn!(attempt.id = %attempt, %error, "an attempt's directory could not be deleted");
                }
            }
            Action::Checkpoint(attempt) => self.checkpoint(attempt),
            Action::StoreOutputs { attempt, exit, last_checkpoint } => self.store_outputs(attempt, exit, last_checkpoint),
            // The runtime's own.
            Action::Persist(_) | Action::Report { .. } => {}
        }
    }

    fn prepare(&mut self, attempt: AttemptId) {
        self.run_abortable(attempt, "prepare", move |job, executor| async move {
            Event::Prepared { attempt, outcome: validate_and_prepare(&job, &*executor).await }
        });
    }

    fn checkpoint(&mut self, attempt: AttemptId) {
        let artifacts = self.parts.artifacts.clone();
        self.run_abortable(attempt, "checkpoint", move |job, executor| async move {
            Event::CheckpointTried { attempt, is_settled: checkpoints::take(&job, &*executor, &artifacts).await }
        });
    }

    fn store_outputs(&mut self, attempt: AttemptId, exit: ExitFacts, last_checkpoint: bool) {
        let artifacts = self.parts.artifacts.clone();
        self.run_abortable(attempt, "store outputs", move |job, executor| async move {
            if last_checkpoint {
                checkpoints::take_last(&job, &*executor, &artifacts).await;
            }
            let outcome = match exit.outputs_due {
                0 => Ok(()),
                _ => outputs::store(&job, &*executor, &artifacts, &exit).await,
            };
            Event::OutputsStored { attempt, outcome }
        });
    }

    /// Until its token is cancelled: dropping the future drops the fetch, the build or the upload with it.
    fn run_abortable<S, F>(&mut self, attempt: AttemptId, name: &'static str, step: S)
    where
        S: FnOnce(Job, Arc<dyn Executor>) -> F,
        F: Future<Output = Event> + Send + 'static,
    {
        let Some((job, executor)) = self.jobs.get(&attempt).cloned() else { return };
        let token = CancellationToken::new();
        self.abortable.insert(attempt, token.clone());
        let inputs = self.inputs.clone();
        let step = step(job, executor);
        self.service.spawn_until_stopped(name, async move {
            tokio::select! {
                () = token.cancelled() => {}
                event = step => drop(inputs.send(Input::Agent(event))),
            }
        });
    }

    fn run<S, F>(&self, attempt: AttemptId, step: S)
    where
        S: FnOnce(Job, Arc<dyn Executor>) -> F,
        F: Future<Output = Event> + Send + 'static,
    {
        let Some((job, executor)) = self.jobs.get(&attempt).cloned() else { return };
        let inputs = self.inputs.clone();
        let step = step(job, executor);
        self.service.spawn_until_stopped("step", async move {
            let _ = inputs.send(Input::Agent(step.await));
        });
    }

    fn run_silently<S, F>(&self, attempt: AttemptId, step: S)
    where
        S: FnOnce(Job, Arc<dyn Executor>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some((job, executor)) = self.jobs.get(&attempt).cloned() else { return };
        let step = step(job, executor);
        self.service.spawn_until_stopped("signal", step);
    }
}

async fn validate_and_prepare(
    job: &Job,
    executor: &dyn Executor,
) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
    executor.validate(&job.spec)?;
    Ok(executor.prepare(job).await?.provenance)
}

/// Stands in for an executor that this node does not offer (any more): refuses, so that the task goes elsewhere.
struct NoSuchExecutor;

impl Executor for NoSuchExecutor {
    fn name(&self) -> &'static str {
        "none"
    }
    fn version(&self) -> &'static str {
        "0"
    }
    fn validate(&self, spec: &domain::spec::TaskSpec) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Rejected, format!("this node has no {} executor", spec.executor)))
    }
    fn prepare<'a>(
        &'a self,
        job: &'a Job,
    ) -> futures::future::BoxFuture<'a, Result<crate::executor::Prepared, Failure>> {
        let refused = self.validate(&job.spec);
        Box::pin(async move { refused.map(|()| crate::executor::Prepared::default()) })
    }
    fn start<'a>(&'a self, _: &'a Job) -> futures::future::BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Err(Failure::node("no such executor")) })
    }
    fn adopt<'a>(&'a self, _: &'a Job) -> futures::future::BoxFuture<'a, Adopted> {
        // Its container may well be there: whoever turned the executor off may turn it on again.
        Box::pin(async { Adopted::Unknown })
    }
    fn collect<'a>(&'a self, _: &'a Job) -> futures::future::BoxFuture<'a, Result<ExitFacts, Failure>> {
        Box::pin(async { Err(Failure::node("no such executor")) })
    }
    fn signal<'a>(&'a self, _: &'a Job, _: crate::executor::Signal) -> futures::future::BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn remove<'a>(&'a self, _: &'a Job) -> futures::future::BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
    fn health<'a>(&'a self) -> futures::future::BoxFuture<'a, Option<domain::node::Condition>> {
        Box::pin(async { None })
    }
}

/// Health of all executors and what is warm, for a heartbeat.
pub(crate) async fn conditions(
    registry: &crate::executor::Registry,
) -> (BTreeSet<domain::node::Condition>, BTreeSet<String>) {
    let mut conditions = BTreeSet::new();
    let mut warm = BTreeSet::new();
    for executor in registry.iter() {
        match tokio::time::timeout(Duration::from_secs(10), executor.health()).await {
            Ok(condition) => conditions.extend(condition),
            Err(_) => tracing::warn!(executor = executor.name(), "its health could not be asked within 10 s"),
        }
        warm.extend(executor.warm());
    }
    (conditions, warm)
}
