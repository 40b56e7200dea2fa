//! Who begins when there is room. What the platform had room for begins at once; what it sent ahead waits here until the machine has
//! room for it, in the order of urgency and age, so that no line and no platform stands between the end of one and the start of the
//! next. The machine is never given more than it has, whatever arrives in whichever order.

use super::{
    Action, Agent, Millis,
    attempt::{Attempt, Step, WAIT_MS},
};
use domain::{
    ids::AttemptId,
    outcome::{Ending, FailureKind},
    resources::{Amounts, Capacity, Ledger, Reservation},
};
use std::cmp::Reverse;

impl Attempt {
    /// Sent before there was room for it.
    pub(super) fn is_ahead(&self) -> bool {
        self.assign.as_ref().is_some_and(|assign| assign.ahead)
    }

    fn amounts(&self) -> Amounts {
        self.assign.as_ref().map(|assign| assign.spec.requirements.amounts).unwrap_or_default()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Waiting { .. })
    }

    /// From its preparation until nothing is left of it.
    fn has_its_place(&self) -> bool {
        self.assign.is_some() && !self.is_waiting() && self.step != Step::Released
    }

    /// What waits for another's word only is not given back: the platform had room for it.
    pub(super) fn waits_until(&self) -> Option<Millis> {
        match self.step {
            Step::Waiting { since } if self.is_ahead() => Some(since + WAIT_MS),
            _ => None,
        }
    }

    /// It has not begun, and another node may have room for it.
    pub(super) fn give_back(&mut self, because: &str, actions: &mut Vec<Action>) {
        let ending = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, because) };
        self.finish(ending, actions);
    }
}

impl Agent {
    /// What the machine offers, as the platform is told.
    pub(super) fn offers(&mut self, capacity: Capacity) {
        self.capacity = capacity;
    }

    /// While it drains, nothing waits here for its place.
    pub(super) fn drain(&mut self, is_draining: bool, actions: &mut Vec<Action>) {
        self.draining = is_draining;
        if is_draining {
            self.give_back_all(actions);
        }
    }

    fn give_back_all(&mut self, actions: &mut Vec<Action>) {
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.is_waiting() && attempt.is_ahead()) {
            attempt.give_back("given back by its node, which is being drained", actions);
        }
    }

    /// It has not begun, for want of room.
    pub fn is_waiting(&self, attempt: AttemptId) -> bool {
        self.attempts.get(&attempt).is_some_and(Attempt::is_waiting)
    }

    /// Begins with what waits and has room.
    pub(super) fn admit(&mut self, actions: &mut Vec<Action>) {
        if !self.attempts.values().any(Attempt::is_waiting) {
            return;
        }
        if self.draining {
            self.give_back_all(actions);
        }
        let mut ledger = Ledger::new(self.capacity.clone());
        let mut is_mixed = false;
        for attempt in self.attempts.values().filter(|attempt| attempt.has_its_place()) {
            ledger.hold(&Reservation::of(&attempt.amounts()));
            is_mixed |= attempt.is_ahead();
        }
        let mut line: Vec<_> = self.attempts.values().filter(|attempt| attempt.is_waiting()).collect();
        // By age is by id: the platform's ids grow with time.
        line.sort_by_key(|attempt| {
            let priority = attempt.assign.as_ref().map_or(0, |assign| assign.spec.priority);
            (attempt.is_ahead(), Reverse(priority), attempt.id())
        });
        let mut begin = Vec::new();
        for attempt in line {
            let reservation = Reservation::of(&attempt.amounts());
            // What the platform had room for is kept waiting by what was sent ahead only: a machine that has become smaller than what it
            // was given still runs that.
            if !ledger.has_room_for(&reservation) && (is_mixed || attempt.is_ahead()) {
                // The first in line is not overtaken by a smaller one, or it might wait for ever.
                break;
            }
            ledger.hold(&reservation);
            is_mixed |= attempt.is_ahead();
            begin.push(attempt.id());
        }
        for id in begin {
            self.with(id, |attempt| attempt.begin(actions));
        }
    }
}

#[cfg(test)]
mod tests;
