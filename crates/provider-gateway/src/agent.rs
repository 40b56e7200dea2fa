//! What the agent does about its attempts: pure, (state, event) -> actions. The shell in [`crate::runtime`] carries the actions out
//! and feeds back what came of them; the simulation does the same with pretended containers.
//!
//! Everything that the server must learn is a report, held here until the server has committed it. So a cut line, a restarted
//! server or a lost message cost time and nothing else.

use crate::executor::{Adopted, Failure, Signal};
use domain::{
    attempt::{AttemptState, Report},
    ids::{AttemptId, Held},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
};
use protocol::{Assign, HeldAttempt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Milliseconds of a clock that runs through suspend (CLOCK_BOOTTIME). Only differences count.
pub type Millis = u64;

/// A failed removal is tried again after so long: Docker may be away.
const REMOVE_AGAIN_MS: Millis = 5_000;
/// Docker could not be asked what became of an attempt: asked again after so long.
const ADOPT_AGAIN_MS: Millis = 5_000;
/// A killed process that is still there is killed again after so long.
const KILL_AGAIN_MS: Millis = 10_000;
/// A stopped process may take so long beyond its grace to be gone.
const STOP_SLACK_MS: Millis = 1_000;
/// A fenced attempt gets at most so long to stop by itself.
const FENCED_GRACE_MS: Millis = 8_000;

/// All attempts of a node, and whether it takes new ones.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    attempts: BTreeMap<AttemptId, Attempt>,
    /// The agent is going down on purpose.
    stopping: bool,
}

#[derive(Clone, Debug)]
struct Attempt {
    held: Held,
    /// None for one that this agent never had: it only answers for it.
    assign: Option<Box<Assign>>,
    step: Step,
    /// What the server has not committed yet, oldest first.
    unacknowledged: Vec<Report>,
    cancel: bool,
    /// It holds its task no more: what it does counts for nothing.
    fenced: bool,
    timed_out: bool,
    planned_stop: Option<Millis>,
    /// The planned stop was an earlier agent's.
    stopped_before: bool,
    started_at: Option<Millis>,
    /// When to stop it for its timeout.
    timeout_at: Option<Millis>,
    /// When to kill what was asked to stop.
    kill_at: Option<Millis>,
    provenance: Option<serde_json::Value>,
    exit: Option<ExitFacts>,
    ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// After a restart: what became of it is being looked up.
    Adopting {
        again_at: Option<Millis>,
    },
    Preparing,
    Starting,
    Running,
    /// It has ended; the rest of its log is on its way.
    Draining,
    /// The server is told how it ended.
    Ending,
    Removing {
        again_at: Option<Millis>,
    },
    /// The server is told that the resources are free.
    Released,
}

/// What is kept on disk of an attempt, so that a restarted agent can go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub assign: Assign,
    #[serde(default)]
    pub cancel: bool,
    #[serde(default)]
    pub fenced: bool,
    /// It was asked to stop because its timeout had passed.
    #[serde(default)]
    pub timed_out: bool,
    /// It was asked to stop because the agent went down: an exit until then is put down to that.
    #[serde(default)]
    pub planned_stop: Option<Millis>,
    /// By the clock of [`Millis`], which starts anew with the machine.
    pub started_at: Option<Millis>,
    /// What was got ready, for ever: said again by an agent that comes next.
    #[serde(default)]
    pub provenance: Option<serde_json::Value>,
    pub exit: Option<ExitFacts>,
    pub ending: Option<Ending>,
    /// Container, processes and trees are gone.
    pub removed: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// From the server.
    Assigned(Box<Assign>),
    Cancel(Held),
    Stop(Held),
    /// A report of this kind is committed.
    Acknowledged {
        attempt: AttemptId,
        kind: &'static str,
    },
    /// From the disk, at start.
    Restored(Box<Record>),
    /// From executors.
    Adopted {
        attempt: AttemptId,
        found: Adopted,
    },
    Prepared {
        attempt: AttemptId,
        outcome: Result<serde_json::Map<String, serde_json::Value>, Failure>,
    },
    Started {
        attempt: AttemptId,
        outcome: Result<(), Failure>,
    },
    Collected {
        attempt: AttemptId,
        outcome: Result<ExitFacts, Failure>,
    },
    /// Every byte of its log is committed.
    LogAcknowledged {
        attempt: AttemptId,
        totals: LogTotals,
    },
    Removed {
        attempt: AttemptId,
        outcome: Result<(), Failure>,
    },
    /// A deadline may have passed.
    Tick,
    /// The agent goes down on purpose: live attempts get their stop signal and at most so long.
    ShutDown {
        grace_ms: Millis,
    },
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write [`Agent::record`] to disk, fsynced, before anything that follows.
    Persist(AttemptId),
    /// Tell the server, if there is a session. What is not acknowledged is told again in the next one.
    Report {
        held: Held,
        report: Report,
    },
    Adopt(AttemptId),
    /// Check the spec and prepare.
    Prepare(AttemptId),
    Start(AttemptId),
    Collect(AttemptId),
    /// Drop what is being prepared.
    Abort(AttemptId),
    Signal(AttemptId, Signal),
    /// Say [`Event::LogAcknowledged`] as soon as it is true.
    AwaitLog(AttemptId),
    Remove(AttemptId),
    /// Delete its directory.
    Forget(AttemptId),
}

impl Agent {
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Assigned(assign) => self.assigned(assign, &mut actions),
            Event::Cancel(held) => self.cancel(now, held, &mut actions),
            Event::Stop(held) => self.fence(now, held, &mut actions),
            Event::Acknowledged { attempt, kind } => self.acknowledged(attempt, kind, &mut actions),
            Event::Restored(record) => self.restored(*record, &mut actions),
            Event::Tick => self.attempts.values_mut().for_each(|attempt| attempt.tick(now, &mut actions)),
            Event::ShutDown { grace_ms } => {
                self.stopping = true;
                self.attempts.values_mut().for_each(|attempt| attempt.stop_planned(now, grace_ms, &mut actions));
            }
            Event::Adopted { attempt, found } => self.with(attempt, |a| a.adopted(now, found, &mut actions)),
            Event::Prepared { attempt, outcome } => self.with(attempt, |a| a.prepared(outcome, &mut actions)),
            Event::Started { attempt, outcome } => self.with(attempt, |a| a.started(now, outcome, &mut actions)),
            Event::Collected { attempt, outcome } => self.with(attempt, |a| a.collected(outcome, &mut actions)),
            Event::LogAcknowledged { attempt, totals } => {
                self.with(attempt, |a| a.log_acknowledged(totals, &mut actions))
            }
            Event::Removed { attempt, outcome } => self.with(attempt, |a| a.removed(now, outcome, &mut actions)),
        }
        actions
    }

    fn with(&mut self, attempt: AttemptId, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            change(attempt);
        }
    }

    fn assigned(&mut self, assign: Box<Assign>, actions: &mut Vec<Action>) {
        let held = assign.held;
        if let Some(known) = self.attempts.get(&held.attempt) {
            // Sent again, so the server has not heard our answer yet.
            actions.extend(known.unacknowledged.first().map(|report| Action::Report { held, report: report.clone() }));
            return;
        }
        // Not answered: the server sends it to the agent that comes next, or elsewhere once this node is offline. Ending it here
        // would bring the task back at once, and cost it an attempt each time.
        if self.stopping {
            return;
        }
        let has_source = assign.spec.source.code.is_some() || assign.spec.source.environment.is_some();
        let mut attempt = Attempt::new(held, Some(assign), Step::Preparing);
        actions.push(Action::Persist(held.attempt));
        attempt.report(Report::Accepted, actions);
        if has_source {
            attempt.report(Report::Preparing, actions);
        }
        actions.push(Action::Prepare(held.attempt));
        self.attempts.insert(held.attempt, attempt);
    }

    fn cancel(&mut self, now: Millis, held: Held, actions: &mut Vec<Action>) {
        match self.attempts.get_mut(&held.attempt) {
            Some(attempt) => attempt.ask_to_stop(now, |attempt| attempt.cancel = true, None, actions),
            // Its assignment never arrived. The server waits for the end and for the release all the same.
            None => {
                let mut attempt = Attempt::new(held, None, Step::Ending);
                attempt.report(
                    Report::Ended {
                        ending: Ending::failed(FailureKind::Cancelled, "cancelled before it reached the node"),
                    },
                    actions,
                );
                self.attempts.insert(held.attempt, attempt);
            }
        }
    }

    fn fence(&mut self, now: Millis, held: Held, actions: &mut Vec<Action>) {
        match self.attempts.get_mut(&held.attempt) {
            Some(attempt) => attempt.fence(now, actions),
            None => {
                let mut attempt = Attempt::new(held, None, Step::Released);
                attempt.report(Report::Released, actions);
                self.attempts.insert(held.attempt, attempt);
            }
        }
    }

    fn acknowledged(&mut self, id: AttemptId, kind: &'static str, actions: &mut Vec<Action>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.unacknowledged.retain(|report| report.kind() != kind);
        if kind == "ended" && attempt.step == Step::Ending {
            attempt.remove(actions);
        }
        if kind == "released" && attempt.step == Step::Released {
            self.attempts.remove(&id);
            actions.push(Action::Forget(id));
        }
    }

    fn restored(&mut self, record: Record, actions: &mut Vec<Action>) {
        let held = record.assign.held;
        let mut attempt = Attempt::new(held, Some(Box::new(record.assign)), Step::Adopting { again_at: None });
        attempt.cancel = record.cancel;
        attempt.fenced = record.fenced;
        attempt.timed_out = record.timed_out;
        attempt.planned_stop = record.planned_stop;
        attempt.stopped_before = record.planned_stop.is_some();
        attempt.started_at = record.started_at;
        attempt.unacknowledged.extend(record.provenance.clone().map(|provenance| Report::Prepared { provenance }));
        attempt.provenance = record.provenance;
        attempt.exit = record.exit;
        if record.removed {
            attempt.step = Step::Released;
            attempt.ending = record.ending;
            attempt.unacknowledged.push(Report::Released);
        } else if let Some(ending) = record.ending {
            attempt.finish(ending, actions);
        } else {
            actions.push(Action::Adopt(held.attempt));
        }
        self.attempts.insert(held.attempt, attempt);
    }

    /// Everything that the server has not committed, oldest first per attempt: to be said again in a new session.
    pub fn unacknowledged(&self) -> Vec<(Held, Report)> {
        self.attempts
            .values()
            .flat_map(|attempt| attempt.unacknowledged.iter().map(|report| (attempt.held, report.clone())))
            .collect()
    }

    /// All attempts, for the hello.
    pub fn inventory(&self) -> Vec<HeldAttempt> {
        self.attempts.values().map(|attempt| HeldAttempt { held: attempt.held, state: attempt.state() }).collect()
    }

    /// What to keep on disk. None for an attempt that this agent only answers for.
    pub fn record(&self, attempt: AttemptId) -> Option<Record> {
        let attempt = self.attempts.get(&attempt)?;
        Some(Record {
            assign: (**attempt.assign.as_ref()?).clone(),
            cancel: attempt.cancel,
            fenced: attempt.fenced,
            timed_out: attempt.timed_out,
            planned_stop: attempt.planned_stop,
            started_at: attempt.started_at,
            provenance: attempt.provenance.clone(),
            exit: attempt.exit.clone(),
            ending: attempt.ending.clone(),
            removed: attempt.step == Step::Released,
        })
    }

    pub fn assignment(&self, attempt: AttemptId) -> Option<&Assign> {
        self.attempts.get(&attempt)?.assign.as_deref()
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.attempts.values().filter_map(Attempt::deadline).min()
    }

    /// Attempts that hold resources.
    pub fn live(&self) -> usize {
        self.attempts.values().filter(|attempt| attempt.step != Step::Released).count()
    }

    /// Attempts whose process may be alive or still come to life.
    pub fn running(&self) -> usize {
        self.attempts
            .values()
            .filter(|attempt| {
                matches!(attempt.step, Step::Adopting { .. } | Step::Preparing | Step::Starting | Step::Running)
            })
            .count()
    }

    /// Nothing is left to tell the server, and nothing to remove.
    pub fn is_settled(&self) -> bool {
        self.attempts.is_empty()
    }
}

impl Attempt {
    fn new(held: Held, assign: Option<Box<Assign>>, step: Step) -> Self {
        Self {
            held,
            assign,
            step,
            unacknowledged: Vec::new(),
            cancel: false,
            fenced: false,
            timed_out: false,
            planned_stop: None,
            stopped_before: false,
            started_at: None,
            timeout_at: None,
            kill_at: None,
            provenance: None,
            exit: None,
            ending: None,
        }
    }

    fn id(&self) -> AttemptId {
        self.held.attempt
    }

    fn report(&mut self, report: Report, actions: &mut Vec<Action>) {
        if self.fenced && report != Report::Released {
            return;
        }
        self.unacknowledged.push(report.clone());
        actions.push(Action::Report { held: self.held, report });
    }

    fn adopted(&mut self, now: Millis, found: Adopted, actions: &mut Vec<Action>) {
        if !matches!(self.step, Step::Adopting { .. }) {
            return;
        }
        match found {
            Adopted::Running | Adopted::Exited => {
                self.report(Report::Accepted, actions);
                self.running(now, actions);
                if found == Adopted::Exited {
                    // It ended by itself, however late that is found out.
                    self.timeout_at = None;
                }
            }
            // A fenced or cancelled one need not begin.
            Adopted::NotStarted if self.fenced => self.remove(actions),
            Adopted::NotStarted if self.cancel => {
                self.finish(Ending::failed(FailureKind::Cancelled, "cancelled before it started"), actions)
            }
            Adopted::NotStarted if self.planned_stop.is_some() && !self.stopped_before => {
                let ending = self.stopped_before_start();
                self.finish(ending, actions);
            }
            Adopted::NotStarted => {
                self.step = Step::Preparing;
                self.planned_stop = None;
                self.report(Report::Accepted, actions);
                actions.push(Action::Prepare(self.id()));
            }
            Adopted::Gone => {
                let message =
                    "it was gone when the agent came back: the machine was restarted, or it was removed by hand";
                self.finish(Ending::failed(FailureKind::NodeLost, message), actions);
            }
            Adopted::Unknown => self.step = Step::Adopting { again_at: Some(now + ADOPT_AGAIN_MS) },
        }
    }

    fn prepared(
        &mut self,
        outcome: Result<serde_json::Map<String, serde_json::Value>, Failure>,
        actions: &mut Vec<Action>,
    ) {
        if self.step != Step::Preparing {
            return;
        }
        match outcome {
            Ok(provenance) => {
                self.step = Step::Starting;
                if !provenance.is_empty() {
                    self.provenance = Some(provenance.into());
                    // What ran must be known whatever happens once it runs.
                    actions.push(Action::Persist(self.id()));
                }
                actions.push(Action::Start(self.id()));
                // Told with what follows: the report that people wait for need not stand behind it.
                self.unacknowledged.extend(self.provenance.clone().map(|provenance| Report::Prepared { provenance }));
            }
            Err(failure) => self.finish(failure.into_ending(), actions),
        }
    }

    fn started(&mut self, now: Millis, outcome: Result<(), Failure>, actions: &mut Vec<Action>) {
        if self.step != Step::Starting {
            return;
        }
        match outcome {
            Ok(()) => self.running(now, actions),
            Err(failure) => self.finish(failure.into_ending(), actions),
        }
    }

    /// What is known of the preparation, if the server has not committed it yet.
    fn tell_prepared(&self, actions: &mut Vec<Action>) {
        let prepared = self.unacknowledged.iter().find(|report| matches!(report, Report::Prepared { .. }));
        actions.extend(prepared.map(|report| Action::Report { held: self.held, report: report.clone() }));
    }

    fn running(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.step = Step::Running;
        self.tell_prepared(actions);
        if self.started_at.is_none() || self.planned_stop.is_some() {
            // The timeout counts from here also after a restart, and a stop that follows stays a planned one.
            actions.push(Action::Persist(self.id()));
        }
        let started_at = *self.started_at.get_or_insert(now);
        self.timeout_at = self
            .assign
            .as_ref()
            .and_then(|assign| assign.spec.timeout_ms)
            .map(|timeout| started_at.saturating_add(timeout));
        self.report(Report::Started, actions);
        actions.push(Action::Collect(self.id()));
        // Asked for while it was on its way up.
        if self.fenced {
            self.signal_stop(now, Some(FENCED_GRACE_MS), actions);
        } else if self.cancel || (self.planned_stop.is_some() && !self.stopped_before) {
            // What an earlier agent asked to stop, and left running all the same, is left alone.
            self.signal_stop(now, None, actions);
        }
    }

    /// What a cancel and a planned stop have in common.
    fn ask_to_stop(
        &mut self,
        now: Millis,
        mark: impl FnOnce(&mut Self),
        grace_ms: Option<Millis>,
        actions: &mut Vec<Action>,
    ) {
        let asked_before = self.cancel || self.fenced || (self.planned_stop.is_some() && self.kill_at.is_some());
        mark(self);
        match self.step {
            Step::Preparing => {
                actions.push(Action::Abort(self.id()));
                let ending = self.stopped_before_start();
                self.finish(ending, actions);
            }
            Step::Running if !asked_before => self.signal_stop(now, grace_ms, actions),
            // A start is not torn apart; it is stopped once it is up. The rest has ended.
            Step::Adopting { .. }
            | Step::Starting
            | Step::Running
            | Step::Draining
            | Step::Ending
            | Step::Removing { .. }
            | Step::Released => {}
        }
    }

    fn stopped_before_start(&self) -> Ending {
        if self.cancel {
            Ending::failed(FailureKind::Cancelled, "cancelled before it started")
        } else {
            Ending {
                planned_stop: true,
                ..Ending::failed(FailureKind::NodeError, "the node's agent was stopped before it started")
            }
        }
    }

    fn stop_planned(&mut self, now: Millis, grace_ms: Millis, actions: &mut Vec<Action>) {
        if matches!(self.step, Step::Starting | Step::Running) {
            // An agent that is killed before it learns the exit must not take it for the task's own.
            actions.push(Action::Persist(self.id()));
        }
        self.stopped_before = false;
        self.ask_to_stop(
            now,
            |attempt| attempt.planned_stop = Some(now + grace_ms + STOP_SLACK_MS),
            Some(grace_ms),
            actions,
        );
        // Whoever was asked before has no longer than the agent itself.
        self.kill_at = self.kill_at.map(|at| at.min(now + grace_ms));
    }

    fn signal_stop(&mut self, now: Millis, at_most_ms: Option<Millis>, actions: &mut Vec<Action>) {
        let grace_ms = self.assign.as_ref().map_or(0, |assign| assign.spec.stop.grace_ms);
        let kill_at = now + at_most_ms.map_or(grace_ms, |most| most.min(grace_ms));
        // Another reason to stop is no reason to wait longer.
        self.kill_at = Some(self.kill_at.map_or(kill_at, |known| known.min(kill_at)));
        actions.push(Action::Signal(self.id(), Signal::Stop));
    }

    fn fence(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.fenced {
            return;
        }
        self.fenced = true;
        self.unacknowledged.retain(|report| *report == Report::Released);
        match self.step {
            Step::Preparing => {
                actions.push(Action::Abort(self.id()));
                self.remove(actions);
            }
            Step::Running => self.signal_stop(now, Some(FENCED_GRACE_MS), actions),
            Step::Draining | Step::Ending => self.remove(actions),
            Step::Adopting { .. } | Step::Starting | Step::Removing { .. } => {}
            // Said again: the server may not have heard it.
            Step::Released => actions.push(Action::Report { held: self.held, report: Report::Released }),
        }
    }

    fn collected(&mut self, outcome: Result<ExitFacts, Failure>, actions: &mut Vec<Action>) {
        if self.step != Step::Running {
            return;
        }
        match outcome {
            Ok(mut exit) => {
                exit.timed_out = self.timed_out && !self.ended_in_time(&exit);
                exit.cancelled = self.cancel;
                let mut ending = Ending {
                    failure: exit.failure(),
                    message: describe(&exit),
                    exit: Some(exit.clone()),
                    planned_stop: false,
                    log: LogTotals::default(),
                };
                // It went down with the agent, not by itself. What ended well all the same counts.
                if self.was_stopped_with_the_agent(&exit) && !self.cancel && ending.failure.is_some() {
                    ending.failure = Some(FailureKind::NodeError);
                    ending.planned_stop = true;
                    ending.message = "the node's agent was stopped".into();
                }
                self.finish(ending, actions);
            }
            Err(failure) => self.finish(failure.into_ending(), actions),
        }
    }

    /// It was stopped by this agent, or ended within the time that an earlier one gave it; what went on for longer ended by itself.
    fn was_stopped_with_the_agent(&self, exit: &ExitFacts) -> bool {
        let ended_at = self.started_at.unwrap_or(0) + exit.duration_ms;
        let is_being_stopped = self.kill_at.is_some() && !self.timed_out;
        let died_of_it = exit.signal.is_some() && exit.signal == self.stop_signal();
        self.planned_stop.is_some_and(|until| is_being_stopped || died_of_it || ended_at <= until)
    }

    /// The number of the signal that asks it to stop.
    fn stop_signal(&self) -> Option<i32> {
        let name = &self.assign.as_ref()?.spec.stop.signal;
        name.parse().ok().map(|signal: nix::sys::signal::Signal| signal as i32)
    }

    /// It had ended before its timeout, and the agent learned it later: Docker was away, or its log had to wait.
    fn ended_in_time(&self, exit: &ExitFacts) -> bool {
        let timeout_ms = self.assign.as_ref().and_then(|assign| assign.spec.timeout_ms);
        timeout_ms.is_some_and(|timeout_ms| (1..timeout_ms).contains(&exit.duration_ms))
    }

    /// It has ended: facts first, then the log's tail, then the end itself.
    fn finish(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        self.timeout_at = None;
        self.kill_at = None;
        if self.fenced {
            self.remove(actions);
            return;
        }
        if self.step == Step::Starting {
            self.tell_prepared(actions);
        }
        self.step = Step::Draining;
        if let Some(exit) = &ending.exit {
            self.exit = Some(exit.clone());
        }
        self.ending = Some(ending);
        actions.push(Action::Persist(self.id()));
        // A planned stop is no exit of the task's own: it will run again.
        if let Some(exit) =
            self.exit.clone().filter(|_| self.ending.as_ref().is_some_and(|ending| !ending.planned_stop))
        {
            self.report(Report::Exited { exit }, actions);
        }
        actions.push(Action::AwaitLog(self.id()));
    }

    fn log_acknowledged(&mut self, totals: LogTotals, actions: &mut Vec<Action>) {
        if self.step != Step::Draining {
            return;
        }
        let Some(ending) = &mut self.ending else { return };
        ending.log = totals;
        let ending = ending.clone();
        self.step = Step::Ending;
        // The same words after a restart, so that a repeat is a repeat.
        actions.push(Action::Persist(self.id()));
        self.report(Report::Ended { ending }, actions);
    }

    fn remove(&mut self, actions: &mut Vec<Action>) {
        self.step = Step::Removing { again_at: None };
        self.kill_at = None;
        self.timeout_at = None;
        if self.assign.is_some() {
            actions.push(Action::Remove(self.id()));
        } else {
            self.released(actions);
        }
    }

    fn removed(&mut self, now: Millis, outcome: Result<(), Failure>, actions: &mut Vec<Action>) {
        if !matches!(self.step, Step::Removing { .. }) {
            return;
        }
        match outcome {
            Ok(()) => self.released(actions),
            Err(_) => self.step = Step::Removing { again_at: Some(now + REMOVE_AGAIN_MS) },
        }
    }

    fn released(&mut self, actions: &mut Vec<Action>) {
        self.step = Step::Released;
        if self.assign.is_some() {
            actions.push(Action::Persist(self.id()));
        }
        self.report(Report::Released, actions);
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let due = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        match self.step {
            Step::Adopting { again_at } if due(again_at) => {
                self.step = Step::Adopting { again_at: None };
                actions.push(Action::Adopt(self.id()));
            }
            Step::Removing { again_at } if due(again_at) => {
                self.step = Step::Removing { again_at: None };
                actions.push(Action::Remove(self.id()));
            }
            Step::Running => {
                if due(self.timeout_at) {
                    self.timeout_at = None;
                    if self.kill_at.is_none() {
                        self.timed_out = true;
                        actions.push(Action::Persist(self.id()));
                        self.signal_stop(now, None, actions);
                    }
                }
                if due(self.kill_at) {
                    self.kill_at = Some(now + KILL_AGAIN_MS);
                    actions.push(Action::Signal(self.id(), Signal::Kill));
                }
            }
            Step::Adopting { .. }
            | Step::Removing { .. }
            | Step::Preparing
            | Step::Starting
            | Step::Draining
            | Step::Ending
            | Step::Released => {}
        }
    }

    fn deadline(&self) -> Option<Millis> {
        match self.step {
            Step::Adopting { again_at } | Step::Removing { again_at } => again_at,
            Step::Running => [self.timeout_at, self.kill_at].into_iter().flatten().min(),
            Step::Preparing | Step::Starting | Step::Draining | Step::Ending | Step::Released => None,
        }
    }

    fn state(&self) -> AttemptState {
        match self.step {
            Step::Preparing | Step::Starting | Step::Adopting { .. } => AttemptState::Preparing,
            Step::Running => AttemptState::Running,
            Step::Draining => AttemptState::Finishing,
            Step::Ending | Step::Removing { .. } | Step::Released => match &self.ending {
                _ if self.fenced => AttemptState::Lost,
                Some(ending) if ending.failure.is_none() => AttemptState::Succeeded,
                Some(ending) if ending.failure == Some(FailureKind::Cancelled) => AttemptState::Cancelled,
                Some(_) | None => AttemptState::Failed,
            },
        }
    }
}

/// One sentence on an exit.
fn describe(exit: &ExitFacts) -> String {
    let signal = exit.signal.map(|signal| format!(" (signal {signal})")).unwrap_or_default();
    let code = exit.code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit {code}"));
    // Said by shells and by our own supervisors alike, and no number that people know.
    let means = match exit.code {
        Some(126) => ": the program could not be executed",
        Some(127) => ": the program was not found",
        _ => "",
    };
    match exit.failure() {
        None => String::new(),
        Some(FailureKind::OutOfMemory) => format!("killed at its memory limit, {code}{signal}"),
        Some(FailureKind::Timeout) => format!("stopped at its timeout, {code}{signal}"),
        Some(FailureKind::Cancelled) => format!("cancelled, {code}{signal}"),
        Some(_) => format!("{code}{signal}{means}"),
    }
}

#[cfg(test)]
mod tests;
