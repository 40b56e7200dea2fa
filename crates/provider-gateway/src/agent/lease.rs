//! Exclusive work, as the agent keeps it: a lease that runs from the moment when the last acknowledged heartbeat was *sent*. The server
//! recorded that heartbeat later, so the lease ends before the server's own wait does. One that ran out never begins again: by then the
//! task may be on its way to another node.
//!
//! The supervisor beside the process counts by itself, and is told of every renewal. What is here is the second of two: it stops what
//! the first did not, and says why it was stopped.

use super::{
    Action, Agent, Millis,
    attempt::{Attempt, KILL_AGAIN_MS, REMOVE_AGAIN_MS, Step},
};
use crate::executor::Signal;
use domain::{
    lease::Lease,
    outcome::{Ending, ExitFacts, FailureKind},
};

/// The exit code of a supervisor that ended its process because the lease had run out. A program that ends with it by itself is told
/// apart by the time.
pub const SELF_FENCED: i32 = 250;

#[derive(Clone, Debug)]
pub(super) struct LeaseClock {
    terms: Lease,
    /// None: no heartbeat was ever acknowledged, so it has run out.
    renewed_at: Option<Millis>,
    has_run_out: bool,
}

impl LeaseClock {
    pub(super) fn new(terms: Lease, renewed_at: Option<Millis>) -> Self {
        Self { terms, renewed_at, has_run_out: false }
    }
    pub(super) fn renewed_at(&self) -> Option<Millis> {
        self.renewed_at
    }
    fn ends_at(&self) -> Millis {
        self.renewed_at.map_or(0, |at| at.saturating_add(self.terms.period_ms))
    }
    /// Also when it was renewed in the future: the clock starts anew with the machine, and nothing of before lives.
    fn is_over(&self, now: Millis) -> bool {
        now >= self.ends_at() || self.renewed_at > Some(now)
    }
}

impl Agent {
    pub(super) fn heartbeat_acknowledged(&mut self, sent_at: Millis, actions: &mut Vec<Action>) {
        self.acknowledged_at = self.acknowledged_at.max(Some(sent_at));
        self.attempts.values_mut().for_each(|attempt| attempt.renew(sent_at, actions));
    }
}

impl Attempt {
    fn may_have_process(&self) -> bool {
        matches!(self.step, Step::Adopting { .. } | Step::Preparing | Step::Starting | Step::Running)
    }

    fn renew(&mut self, sent_at: Millis, actions: &mut Vec<Action>) {
        let is_live = self.may_have_process();
        let id = self.id();
        let Some(lease) = self.lease.as_mut().filter(|lease| is_live && !lease.has_run_out) else { return };
        if lease.renewed_at < Some(sent_at) {
            lease.renewed_at = Some(sent_at);
            // An agent that comes next must not believe in a shorter one.
            actions.extend([Action::Persist(id), Action::Renew { attempt: id, sent_at }]);
        }
    }

    /// Says again what is known: its supervisor is about to need it.
    pub(super) fn renew_now(&self, actions: &mut Vec<Action>) {
        if let Some(lease) = self.lease.as_ref().filter(|lease| !lease.has_run_out)
            && let Some(sent_at) = lease.renewed_at
        {
            actions.push(Action::Renew { attempt: self.id(), sent_at });
        }
    }

    pub(super) fn has_lost_lease(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.has_run_out)
    }

    pub(super) fn lease_deadline(&self) -> Option<Millis> {
        let lease = self.lease.as_ref().filter(|lease| self.may_have_process() && !lease.has_run_out)?;
        Some(lease.ends_at())
    }

    pub(super) fn check_lease(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let is_live = self.may_have_process();
        let Some(lease) = self.lease.as_mut().filter(|lease| is_live && !lease.has_run_out && lease.is_over(now))
        else {
            return;
        };
        lease.has_run_out = true;
        match self.step {
            Step::Preparing => {
                actions.push(Action::Abort(self.id()));
                let ending = self.ending_without_lease();
                self.finish(ending, actions);
            }
            Step::Running => self.stop_for_lease(now, actions),
            // Stopped once it is known to be up; its supervisor begins nothing without a lease.
            _ => {}
        }
    }

    /// Its grace counts from the end of the lease: who learns of it late, after a suspend, has none left.
    pub(super) fn stop_for_lease(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let Some(lease) = &self.lease else { return };
        let kill_at = lease.ends_at().saturating_add(lease.terms.grace_ms);
        if now >= kill_at {
            self.kill_at = Some(now + KILL_AGAIN_MS);
            actions.push(Action::Signal(self.id(), Signal::Kill));
        } else {
            self.kill_at = Some(self.kill_at.map_or(kill_at, |known| known.min(kill_at)));
            actions.push(Action::Signal(self.id(), Signal::Stop));
        }
    }

    /// Why it was stopped, when that was for its lease. What ended well all the same counts.
    pub(super) fn self_fenced(&self, now: Millis, exit: &ExitFacts) -> Option<String> {
        let lease = self.lease.as_ref()?;
        if self.cancel || self.timed_out || exit.failure().is_none() {
            return None;
        }
        // The supervisor counts in steps of a sixteenth, and so may be earlier by one.
        let early_ms = lease.terms.period_ms / 16 + 2_000;
        let by_supervisor = exit.code == Some(SELF_FENCED) && now.saturating_add(early_ms) >= lease.ends_at();
        (by_supervisor || lease.has_run_out).then(|| self.why_fenced())
    }

    /// Of what had not begun yet.
    pub(super) fn ending_without_lease(&self) -> Ending {
        Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, self.why_fenced()) }
    }

    fn why_fenced(&self) -> String {
        let period_ms = self.lease.as_ref().map_or(0, |lease| lease.terms.period_ms);
        format!(
            "stopped by its own node: it is exclusive, and the server had acknowledged no heartbeat of the node for {}",
            domain::quantity::show_duration_ms(period_ms)
        )
    }

    /// It went wrong without an exit. Of exclusive work the server must hear nothing before it is certain that no process is left: it
    /// would place it again at once.
    pub(super) fn fail(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        if self.lease.is_none() {
            self.finish(ending, actions);
            return;
        }
        self.timeout_at = None;
        self.kill_at = None;
        if self.step == Step::Starting {
            self.tell_prepared(actions);
        }
        self.clear(ending, actions);
    }

    pub(super) fn clear(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        self.step = Step::Clearing { again_at: None };
        self.ending = Some(ending);
        actions.extend([Action::Persist(self.id()), Action::Remove(self.id())]);
    }

    pub(super) fn cleared(&mut self, now: Millis, is_gone: bool, actions: &mut Vec<Action>) {
        if !is_gone {
            self.step = Step::Clearing { again_at: Some(now + REMOVE_AGAIN_MS) };
        } else if let Some(ending) = self.ending.take() {
            self.finish(ending, actions);
        }
    }
}

#[cfg(test)]
mod tests;
