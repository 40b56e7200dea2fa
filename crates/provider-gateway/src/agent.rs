//! What the agent does about its attempts: pure, (state, event) -> actions. The shell in [`crate::runtime`] carries the actions out
//! and feeds back what came of them; the simulation does the same with pretended containers.
//!
//! Everything that the server must learn is a report, held here until the server has committed it. So a cut line, a restarted
//! server or a lost message cost time and nothing else.

mod attempt;
mod checkpoint;
mod ending;
mod lease;
mod room;
mod said;

use crate::executor::{Adopted, Failure, Signal};
use attempt::{Attempt, Step};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    resources::Capacity,
};
use lease::LeaseClock;
use protocol::{Assign, HeldAttempt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use lease::SELF_FENCED;

/// Milliseconds of a clock that runs through suspend (CLOCK_BOOTTIME). Only differences count.
pub type Millis = u64;

/// All attempts of a node, and whether it takes new ones.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    attempts: BTreeMap<AttemptId, Attempt>,
    /// The agent is going down on purpose.
    stopping: bool,
    /// When the last heartbeat was sent that the server has acknowledged to this agent.
    acknowledged_at: Option<Millis>,
    /// What the machine offers; before it is known, what was sent ahead runs alone.
    capacity: Capacity,
    /// The node is to become empty.
    draining: bool,
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
    /// Of exclusive work, by the same clock: when the last acknowledged heartbeat was sent.
    #[serde(default)]
    pub renewed_at: Option<Millis>,
    /// What was got ready, for ever: said again by an agent that comes next.
    #[serde(default)]
    pub provenance: Option<serde_json::Value>,
    pub exit: Option<ExitFacts>,
    pub ending: Option<Ending>,
    /// What it leaves was stored, or never will be: not looked at again.
    #[serde(default)]
    pub stored: bool,
    /// Its directory of checkpoints is to be stored once more.
    #[serde(default)]
    pub last_checkpoint: bool,
    /// How it went wrong, told once what may be left of it is gone.
    #[serde(default)]
    pub clearing: Option<Ending>,
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
    Evict(Held),
    /// An assignment could not be kept on disk.
    Refused {
        held: Held,
        failure: Failure,
    },
    /// A report of this kind is committed.
    Acknowledged {
        attempt: AttemptId,
        kind: &'static str,
    },
    /// The machine was measured.
    Offers(Capacity),
    /// From the server: whether the node is being drained.
    Draining(bool),
    /// The server has recorded the heartbeat that was sent then.
    HeartbeatAcknowledged {
        sent_at: Millis,
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
    /// A checkpoint was taken, or not. Not settled: it may be had soon, as the directory was being written to or the store was away.
    CheckpointTried {
        attempt: AttemptId,
        is_settled: bool,
    },
    /// All outputs that are due are ready, or why one never will be. The last checkpoint was tried.
    OutputsStored {
        attempt: AttemptId,
        outcome: Result<(), Failure>,
    },
    /// Every byte of its log is committed.
    LogAcknowledged {
        attempt: AttemptId,
        totals: LogTotals,
    },
    /// A new session has begun: so many bytes of its log the server has, and what is kept of it here by now. None: nothing any more.
    LogResumed {
        attempt: AttemptId,
        stored_bytes: u64,
        kept: Option<LogTotals>,
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
    /// Tell its supervisor that a heartbeat sent then was acknowledged.
    Renew {
        attempt: AttemptId,
        sent_at: Millis,
    },
    Collect(AttemptId),
    /// Store the directory of a task's checkpoints as it is now.
    Checkpoint(AttemptId),
    /// Drop what is being prepared or stored.
    Abort(AttemptId),
    Signal(AttemptId, Signal),
    /// Store the outputs that are due after this exit, and where it is said a last checkpoint. Safe to repeat: what is ready already stays as it
    /// is.
    StoreOutputs {
        attempt: AttemptId,
        exit: ExitFacts,
        last_checkpoint: bool,
    },
    /// Say [`Event::LogAcknowledged`] as soon as it is true.
    AwaitLog(AttemptId),
    Remove(AttemptId),
    /// Delete its directory.
    Forget(AttemptId),
}

impl Agent {
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        // Before anything else: after a suspend the first event may be of any kind.
        self.attempts.values_mut().for_each(|attempt| attempt.check_lease(now, &mut actions));
        match event {
            Event::HeartbeatAcknowledged { sent_at } => self.heartbeat_acknowledged(sent_at, &mut actions),
            Event::Offers(capacity) => self.offers(capacity),
            Event::Draining(is_draining) => self.drain(is_draining, &mut actions),
            Event::Assigned(assign) => self.assigned(now, assign, &mut actions),
            Event::Cancel(held) => self.cancel(now, held, &mut actions),
            Event::Stop(held) => self.fence(now, held, &mut actions),
            Event::Evict(held) => self.evict(now, held, &mut actions),
            Event::Refused { held, failure } => self.answer_for(held, failure.into_ending(), &mut actions),
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
            Event::Collected { attempt, outcome } => self.with(attempt, |a| a.collected(now, outcome, &mut actions)),
            Event::CheckpointTried { attempt, is_settled } => {
                self.with(attempt, |a| a.checkpoint_tried(now, is_settled))
            }
            Event::OutputsStored { attempt, outcome } => {
                self.with(attempt, |a| a.outputs_stored(outcome, &mut actions))
            }
            Event::LogAcknowledged { attempt, totals } => {
                self.with(attempt, |a| a.log_acknowledged(totals, &mut actions))
            }
            Event::LogResumed { attempt, stored_bytes, kept } => {
                self.with(attempt, |a| a.log_resumed(stored_bytes, kept, &mut actions))
            }
            Event::Removed { attempt, outcome } => self.with(attempt, |a| a.removed(now, outcome, &mut actions)),
        }
        if !self.stopping {
            self.admit(&mut actions);
        }
        actions
    }

    fn with(&mut self, attempt: AttemptId, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            change(attempt);
        }
    }

    fn assigned(&mut self, now: Millis, assign: Box<Assign>, actions: &mut Vec<Action>) {
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
        let lease = assign.lease.map(|terms| LeaseClock::new(terms, self.acknowledged_at));
        let mut attempt = Attempt { lease, ..Attempt::new(held, Some(assign), Step::Waiting { since: now }) };
        actions.push(Action::Persist(held.attempt));
        attempt.report(Report::Accepted, actions);
        self.attempts.insert(held.attempt, attempt);
    }

    fn cancel(&mut self, now: Millis, held: Held, actions: &mut Vec<Action>) {
        match self.attempts.get_mut(&held.attempt) {
            Some(attempt) => attempt.ask_to_stop(now, |attempt| attempt.cancel = true, None, actions),
            // Its assignment never arrived. The server waits for the end and for the release all the same.
            None => {
                let ending = Ending::failed(FailureKind::Cancelled, "cancelled before it reached the node");
                self.answer_for(held, ending, actions);
            }
        }
    }

    /// Ends an attempt that is not kept here. Forgotten by a restart: the server sends its assignment again then.
    fn answer_for(&mut self, held: Held, ending: Ending, actions: &mut Vec<Action>) {
        let mut attempt = Attempt::new(held, None, Step::Ending);
        attempt.ending = Some(ending.clone());
        attempt.report(Report::Ended { ending }, actions);
        self.attempts.insert(held.attempt, attempt);
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

    fn evict(&mut self, now: Millis, held: Held, actions: &mut Vec<Action>) {
        match self.attempts.get_mut(&held.attempt) {
            Some(attempt) => attempt.evict(now, actions),
            // Its assignment never arrived, so it may run elsewhere at once.
            None => {
                let mut attempt = Attempt::new(held, None, Step::Ending);
                attempt.evicted = true;
                let ending = attempt.stopped_before_start();
                attempt.report(Report::Ended { ending }, actions);
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
        let lease = record.assign.lease.map(|terms| LeaseClock::new(terms, record.renewed_at));
        let mut attempt = Attempt::new(held, Some(Box::new(record.assign)), Step::Adopting { again_at: None });
        attempt.cancel = record.cancel;
        attempt.fenced = record.fenced;
        attempt.timed_out = record.timed_out;
        attempt.planned_stop = record.planned_stop;
        attempt.stopped_before = record.planned_stop.is_some();
        attempt.started_at = record.started_at;
        attempt.lease = lease;
        attempt.unacknowledged.extend(record.provenance.clone().map(|provenance| Report::Prepared { provenance }));
        attempt.provenance = record.provenance;
        attempt.exit = record.exit;
        attempt.stored = record.stored;
        attempt.last_checkpoint = record.last_checkpoint;
        if record.removed {
            attempt.step = Step::Released;
            // The end may not have arrived either.
            let ending = record.ending.clone().filter(|_| !record.fenced);
            attempt.unacknowledged.extend(ending.map(|ending| Report::Ended { ending }));
            attempt.ending = record.ending;
            attempt.unacknowledged.push(Report::Released);
        } else if let Some(ending) = record.ending {
            attempt.finish(ending, actions);
        } else if let Some(ending) = record.clearing {
            attempt.clear(ending, actions);
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
        self.attempts.values().map(Attempt::as_said).collect()
    }

    /// What to keep on disk. None for an attempt that this agent only answers for.
    pub fn record(&self, attempt: AttemptId) -> Option<Record> {
        let attempt = self.attempts.get(&attempt)?;
        let is_clearing = matches!(attempt.step, Step::Clearing { .. });
        Some(Record {
            assign: (**attempt.assign.as_ref()?).clone(),
            cancel: attempt.cancel,
            fenced: attempt.fenced,
            timed_out: attempt.timed_out,
            planned_stop: attempt.planned_stop,
            started_at: attempt.started_at,
            renewed_at: attempt.lease.as_ref().and_then(LeaseClock::renewed_at),
            provenance: attempt.provenance.clone(),
            exit: attempt.exit.clone(),
            ending: attempt.ending.clone().filter(|_| !is_clearing),
            clearing: attempt.ending.clone().filter(|_| is_clearing),
            stored: attempt.stored,
            last_checkpoint: attempt.last_checkpoint,
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
                matches!(
                    attempt.step,
                    Step::Adopting { .. } | Step::Preparing | Step::Starting | Step::Running | Step::Clearing { .. }
                )
            })
            .count()
    }

    /// Nothing is left to tell the server, and nothing to remove.
    pub fn is_settled(&self) -> bool {
        self.attempts.is_empty()
    }
}

#[cfg(test)]
mod tests;
