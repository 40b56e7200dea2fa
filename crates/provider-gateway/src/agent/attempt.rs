//! One attempt on its way: what each event does to it. How it ends is in `ending`, what is said of it in `said`.

use super::{Action, Millis, checkpoint::CheckpointClock, lease::LeaseClock};
use crate::executor::{Adopted, Failure, Signal};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held},
    outcome::{Ending, ExitFacts, FailureKind},
};
use protocol::Assign;

/// A failed removal is tried again after so long: Docker may be away.
pub(super) const REMOVE_AGAIN_MS: Millis = 5_000;
/// Docker could not be asked what became of an attempt: asked again after so long.
pub(super) const ADOPT_AGAIN_MS: Millis = 5_000;
/// A killed process that is still there is killed again after so long.
pub(super) const KILL_AGAIN_MS: Millis = 10_000;
/// A stopped process may take so long beyond its grace to be gone.
const STOP_SLACK_MS: Millis = 1_000;
/// What was sent ahead goes back after so long: what is before it takes longer than was foreseen, and another node may have room.
pub(super) const WAIT_MS: Millis = 5_000;
/// A fenced attempt gets at most so long to stop by itself.
const FENCED_GRACE_MS: Millis = 8_000;

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) held: Held,
    /// None for one that this agent never had: it only answers for it.
    pub(super) assign: Option<Box<Assign>>,
    pub(super) step: Step,
    /// What the server has not committed yet, oldest first.
    pub(super) unacknowledged: Vec<Report>,
    pub(super) cancel: bool,
    /// It holds its task no more: what it does counts for nothing.
    pub(super) fenced: bool,
    pub(super) timed_out: bool,
    pub(super) planned_stop: Option<Millis>,
    /// The planned stop is its own, and not the agent's: its node is to be empty.
    pub(super) evicted: bool,
    /// The planned stop was an earlier agent's.
    pub(super) stopped_before: bool,
    pub(super) started_at: Option<Millis>,
    /// When to stop it for its timeout.
    pub(super) timeout_at: Option<Millis>,
    /// When to kill what was asked to stop.
    pub(super) kill_at: Option<Millis>,
    /// Of exclusive work.
    pub(super) lease: Option<LeaseClock>,
    pub(super) provenance: Option<serde_json::Value>,
    pub(super) exit: Option<ExitFacts>,
    pub(super) ending: Option<Ending>,
    /// What it leaves was stored, or never will be.
    pub(super) stored: bool,
    pub(super) checkpoint: CheckpointClock,
    /// Its directory of checkpoints is to be stored once more.
    pub(super) last_checkpoint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// After a restart: what became of it is being looked up.
    Adopting {
        again_at: Option<Millis>,
    },
    /// There was no room for it yet.
    Waiting {
        since: Millis,
    },
    Preparing,
    Starting,
    Running,
    /// It went wrong in a way that may have left a process; nothing is said of it before that is gone.
    Clearing {
        again_at: Option<Millis>,
    },
    /// It has ended; what it leaves is being stored.
    Storing,
    /// It has ended, and what it leaves is stored; the rest of its log is on its way.
    Draining,
    /// The server is told how it ended.
    Ending,
    Removing {
        again_at: Option<Millis>,
    },
    /// The server is told that the resources are free.
    Released,
}

impl Attempt {
    pub(super) fn new(held: Held, assign: Option<Box<Assign>>, step: Step) -> Self {
        Self {
            held,
            assign,
            step,
            unacknowledged: Vec::new(),
            cancel: false,
            fenced: false,
            timed_out: false,
            planned_stop: None,
            evicted: false,
            stopped_before: false,
            started_at: None,
            timeout_at: None,
            kill_at: None,
            lease: None,
            provenance: None,
            exit: None,
            ending: None,
            stored: false,
            checkpoint: CheckpointClock::default(),
            last_checkpoint: false,
        }
    }

    pub(super) fn id(&self) -> AttemptId {
        self.held.attempt
    }

    pub(super) fn report(&mut self, report: Report, actions: &mut Vec<Action>) {
        if self.fenced && report != Report::Released {
            return;
        }
        self.unacknowledged.push(report.clone());
        actions.push(Action::Report { held: self.held, report });
    }

    pub(super) fn adopted(&mut self, now: Millis, found: Adopted, actions: &mut Vec<Action>) {
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
                    self.drop_checkpoint(actions);
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
            Adopted::NotStarted if self.has_lost_lease() => {
                let ending = self.ending_without_lease();
                self.finish(ending, actions);
            }
            Adopted::NotStarted => {
                self.step = Step::Waiting { since: now };
                self.planned_stop = None;
                self.report(Report::Accepted, actions);
            }
            Adopted::Gone => {
                let message =
                    "it was gone when the agent came back: the machine was restarted, or it was removed by hand";
                self.fail(Ending::failed(FailureKind::NodeLost, message), actions);
            }
            Adopted::Unknown => self.step = Step::Adopting { again_at: Some(now + ADOPT_AGAIN_MS) },
        }
    }

    /// It has its place.
    pub(super) fn begin(&mut self, actions: &mut Vec<Action>) {
        let source = self.assign.as_ref().map(|assign| &assign.spec.source);
        if source.is_some_and(|source| source.code.is_some() || source.environment.is_some()) {
            self.report(Report::Preparing, actions);
        }
        self.step = Step::Preparing;
        actions.push(Action::Prepare(self.id()));
    }

    pub(super) fn prepared(
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
                self.renew_now(actions);
                actions.push(Action::Start(self.id()));
                // Told with what follows: the report that people wait for need not stand behind it.
                self.unacknowledged.extend(self.provenance.clone().map(|provenance| Report::Prepared { provenance }));
            }
            Err(failure) => self.finish(failure.into_ending(), actions),
        }
    }

    pub(super) fn started(&mut self, now: Millis, outcome: Result<(), Failure>, actions: &mut Vec<Action>) {
        if self.step != Step::Starting {
            return;
        }
        match outcome {
            Ok(()) => self.running(now, actions),
            Err(failure) => self.fail(failure.into_ending(), actions),
        }
    }

    /// What is known of the preparation, if the server has not committed it yet.
    pub(super) fn tell_prepared(&self, actions: &mut Vec<Action>) {
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
        self.count_to_checkpoint(now);
        self.report(Report::Started, actions);
        actions.push(Action::Collect(self.id()));
        self.renew_now(actions);
        // Asked for while it was on its way up.
        if self.has_lost_lease() {
            self.stop_for_lease(now, actions);
        } else if self.fenced {
            self.signal_stop(now, Some(FENCED_GRACE_MS), actions);
        } else if self.cancel || (self.planned_stop.is_some() && !self.stopped_before) {
            // What an earlier agent asked to stop, and left running all the same, is left alone.
            self.signal_stop(now, None, actions);
        }
    }

    /// What a cancel and a planned stop have in common.
    pub(super) fn ask_to_stop(
        &mut self,
        now: Millis,
        mark: impl FnOnce(&mut Self),
        grace_ms: Option<Millis>,
        actions: &mut Vec<Action>,
    ) {
        let asked_before = self.cancel || self.fenced || (self.planned_stop.is_some() && self.kill_at.is_some());
        mark(self);
        match self.step {
            Step::Waiting { .. } => {
                let ending = self.stopped_before_start();
                self.finish(ending, actions);
            }
            Step::Preparing => {
                actions.push(Action::Abort(self.id()));
                let ending = self.stopped_before_start();
                self.finish(ending, actions);
            }
            Step::Running if !asked_before => {
                // Nobody goes on with what its user has cancelled.
                if self.cancel {
                    self.drop_checkpoint(actions);
                }
                self.signal_stop(now, grace_ms, actions);
            }
            // A planned stop leaves it as it is: the agent that comes next goes on with it.
            Step::Storing if self.cancel => self.cancel_storing(actions),
            // A start is not torn apart; it is stopped once it is up. The rest has ended.
            Step::Adopting { .. }
            | Step::Starting
            | Step::Running
            | Step::Clearing { .. }
            | Step::Storing
            | Step::Draining
            | Step::Ending
            | Step::Removing { .. }
            | Step::Released => {}
        }
    }

    pub(super) fn stopped_before_start(&self) -> Ending {
        if self.cancel {
            Ending::failed(FailureKind::Cancelled, "cancelled before it started")
        } else {
            Ending {
                planned_stop: true,
                ..Ending::failed(FailureKind::NodeError, format!("{} before it started", self.why_stopped()))
            }
        }
    }

    pub(super) fn why_stopped(&self) -> &'static str {
        if self.evicted { "moved off its node, which is being drained," } else { "the node's agent was stopped" }
    }

    /// As when the agent goes down, but with all the time that its task gives it.
    pub(super) fn evict(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let is_first = !std::mem::replace(&mut self.evicted, true);
        if is_first && self.planned_stop.is_none_or(|_| self.stopped_before) {
            let grace_ms = self.assign.as_ref().map_or(0, |assign| assign.spec.stop.grace_ms);
            self.stop_planned(now, grace_ms, actions);
        }
    }

    pub(super) fn stop_planned(&mut self, now: Millis, grace_ms: Millis, actions: &mut Vec<Action>) {
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

    pub(super) fn fence(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.fenced {
            return;
        }
        self.fenced = true;
        self.unacknowledged.retain(|report| *report == Report::Released);
        match self.step {
            Step::Waiting { .. } => self.remove(actions),
            Step::Preparing => {
                actions.push(Action::Abort(self.id()));
                self.remove(actions);
            }
            Step::Running => {
                self.drop_checkpoint(actions);
                self.signal_stop(now, Some(FENCED_GRACE_MS), actions);
            }
            Step::Storing => {
                actions.push(Action::Abort(self.id()));
                self.remove(actions);
            }
            Step::Draining | Step::Ending => self.remove(actions),
            Step::Adopting { .. } | Step::Starting | Step::Clearing { .. } | Step::Removing { .. } => {}
            // Said again: the server may not have heard it.
            Step::Released => actions.push(Action::Report { held: self.held, report: Report::Released }),
        }
    }

    pub(super) fn remove(&mut self, actions: &mut Vec<Action>) {
        self.step = Step::Removing { again_at: None };
        self.kill_at = None;
        self.timeout_at = None;
        if self.assign.is_some() {
            actions.push(Action::Remove(self.id()));
        } else {
            self.released(actions);
        }
    }

    pub(super) fn removed(&mut self, now: Millis, outcome: Result<(), Failure>, actions: &mut Vec<Action>) {
        if matches!(self.step, Step::Clearing { .. }) {
            self.cleared(now, outcome.is_ok(), actions);
            return;
        }
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

    pub(super) fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
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
            Step::Clearing { again_at } if due(again_at) => {
                self.step = Step::Clearing { again_at: None };
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
                self.look_at_checkpoint(now, actions);
            }
            Step::Waiting { .. } if due(self.waits_until()) => {
                self.give_back(
                    "given back by its node, where what ran before it took longer than was foreseen",
                    actions,
                );
            }
            Step::Waiting { .. }
            | Step::Adopting { .. }
            | Step::Removing { .. }
            | Step::Clearing { .. }
            | Step::Preparing
            | Step::Starting
            | Step::Storing
            | Step::Draining
            | Step::Ending
            | Step::Released => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        let own = match self.step {
            Step::Adopting { again_at } | Step::Removing { again_at } | Step::Clearing { again_at } => again_at,
            Step::Running => [self.timeout_at, self.kill_at, self.checkpoint_at()].into_iter().flatten().min(),
            Step::Waiting { .. } => self.waits_until(),
            Step::Preparing | Step::Starting | Step::Storing | Step::Draining | Step::Ending | Step::Released => None,
        };
        [own, self.lease_deadline()].into_iter().flatten().min()
    }
}
