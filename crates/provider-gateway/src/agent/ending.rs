//! How an attempt ends: its exit is judged, what it leaves is stored, its log is handed over, and its end is told.

use super::{
    Action, Millis,
    attempt::{Attempt, Step},
    said::describe,
};
use crate::executor::Failure;
use domain::{
    attempt::Report,
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
};

impl Attempt {
    pub(super) fn collected(&mut self, now: Millis, outcome: Result<ExitFacts, Failure>, actions: &mut Vec<Action>) {
        if self.step != Step::Running {
            return;
        }
        self.drop_checkpoint(actions);
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
                    ending.message = self.why_stopped().trim_end_matches(',').into();
                }
                let self_fenced = self.self_fenced(now, &exit);
                let is_self_fenced = self_fenced.is_some();
                if let Some(message) = self_fenced {
                    ending.failure = Some(FailureKind::NodeError);
                    ending.planned_stop = true;
                    ending.message = message;
                }
                self.last_checkpoint = self.leaves_checkpoint(&exit, &ending, is_self_fenced);
                // What was stopped on purpose runs again, and leaves its outputs then.
                if !ending.planned_stop && !self.fenced {
                    exit.outputs_due = self.outputs_due(&exit);
                    ending.exit = Some(exit);
                }
                self.finish(ending, actions);
            }
            Err(failure) => self.fail(failure.into_ending(), actions),
        }
    }

    fn outputs_due(&self, exit: &ExitFacts) -> u32 {
        let outputs = self.assign.iter().flat_map(|assign| &assign.spec.outputs);
        outputs.filter(|output| output.is_due(exit)).count() as u32
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

    /// It has ended: facts first, then what it leaves, then the log's tail, then the end itself.
    pub(super) fn finish(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        self.timeout_at = None;
        self.kill_at = None;
        if self.fenced {
            self.remove(actions);
            return;
        }
        if self.step == Step::Starting {
            self.tell_prepared(actions);
        }
        if let Some(exit) = &ending.exit {
            self.exit = Some(exit.clone());
        }
        self.ending = Some(ending);
        actions.push(Action::Persist(self.id()));
        // A planned stop is no exit of the task's own: it will run again.
        let exit = self.exit.clone().filter(|_| !self.ends_planned());
        if let Some(exit) = &exit {
            self.report(Report::Exited { exit: exit.clone() }, actions);
        }
        let last_checkpoint = self.last_checkpoint;
        match self.exit.clone().filter(|exit| (exit.outputs_due > 0 || last_checkpoint) && !self.stored) {
            Some(exit) => {
                self.step = Step::Storing;
                actions.push(Action::StoreOutputs { attempt: self.id(), exit, last_checkpoint });
            }
            None => self.drain_log(actions),
        }
    }

    fn drain_log(&mut self, actions: &mut Vec<Action>) {
        self.step = Step::Draining;
        actions.push(Action::AwaitLog(self.id()));
    }

    pub(super) fn outputs_stored(&mut self, outcome: Result<(), Failure>, actions: &mut Vec<Action>) {
        if self.step != Step::Storing {
            return;
        }
        if let (Err(failure), Some(ending)) = (outcome, &mut self.ending) {
            // What it failed of itself says more.
            if ending.failure.is_none() {
                (ending.failure, ending.message) = (Some(failure.kind), failure.message);
            }
        }
        self.nothing_more_to_store(actions);
    }

    /// Its user wants nothing of it any more, so nothing more of it is stored.
    pub(super) fn cancel_storing(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Abort(self.id()));
        if let Some(ending) = &mut self.ending {
            // It will not run again, wherever it was to be moved.
            ending.planned_stop = false;
            ending.failure = Some(FailureKind::Cancelled);
            ending.message = "cancelled while what it leaves was being stored".into();
        }
        self.nothing_more_to_store(actions);
    }

    fn nothing_more_to_store(&mut self, actions: &mut Vec<Action>) {
        self.stored = true;
        // An agent that comes next need not look, and must not end it in another way.
        actions.push(Action::Persist(self.id()));
        self.drain_log(actions);
    }

    pub(super) fn log_acknowledged(&mut self, totals: LogTotals, actions: &mut Vec<Action>) {
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
        if self.leaves_no_witness() {
            self.remove(actions);
        }
    }

    /// A server whose database was restored has forgotten bytes that it had acknowledged. Where they are gone here too, an end that the server
    /// has not heard, or forgotten as well, calls its log complete no more.
    pub(super) fn log_resumed(&mut self, stored_bytes: u64, kept: Option<LogTotals>, actions: &mut Vec<Action>) {
        let id = self.id();
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.log.complete) else { return };
        if kept.map_or(stored_bytes >= ending.log.bytes, |kept| kept.complete) {
            return;
        }
        ending.log.complete = false;
        for report in &mut self.unacknowledged {
            if let Report::Ended { ending } = report {
                ending.log.complete = false;
            }
        }
        actions.push(Action::Persist(id));
    }

    /// Nothing that is left of it tells more than the record on disk, so its resources need not wait for the server's answer. A container
    /// is a second witness of its exit, also where the record is lost: it stays until the end is acknowledged.
    fn leaves_no_witness(&self) -> bool {
        self.assign.as_ref().is_some_and(|assign| assign.spec.executor == "process")
    }
}

#[cfg(test)]
mod tests;
