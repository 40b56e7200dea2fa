//! When a checkpoint of what runs is taken: every so often, one at a time, and none any more once it was asked to stop.

use super::{
    Action, Millis,
    attempt::{Attempt, Step},
};
use domain::{
    outcome::{Ending, ExitFacts},
    spec::Checkpoints,
};

/// A directory that was being written to is looked at again after so long, unless checkpoints come more often anyway.
pub(super) const TRY_AGAIN_MS: Millis = 30_000;

/// Of an attempt that keeps checkpoints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckpointClock {
    /// When the next is due. None: it keeps none, or one is being taken.
    at: Option<Millis>,
    is_trying: bool,
}

impl Attempt {
    fn checkpoints(&self) -> Option<&Checkpoints> {
        self.assign.as_ref()?.spec.checkpoints.as_ref()
    }

    /// It runs from now on, or is found running.
    pub(super) fn count_to_checkpoint(&mut self, now: Millis) {
        let at = self.checkpoints().map(|checkpoints| now.saturating_add(checkpoints.every_ms));
        self.checkpoint = CheckpointClock { at, is_trying: false };
    }

    /// Whoever was asked to stop is left alone: what it saves for its end is taken then.
    pub(super) fn checkpoint_at(&self) -> Option<Millis> {
        self.checkpoint.at.filter(|_| self.step == Step::Running && self.kill_at.is_none())
    }

    pub(super) fn look_at_checkpoint(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.checkpoint_at().is_some_and(|at| at <= now) {
            self.checkpoint = CheckpointClock { at: None, is_trying: true };
            actions.push(Action::Checkpoint(self.id()));
        }
    }

    pub(super) fn checkpoint_tried(&mut self, now: Millis, is_settled: bool) {
        // The answer of one that was dropped may still come.
        if std::mem::take(&mut self.checkpoint.is_trying) {
            let every_ms = self.checkpoints().map_or(Millis::MAX, |checkpoints| checkpoints.every_ms);
            let pause_ms = if is_settled { every_ms } else { every_ms.min(TRY_AGAIN_MS) };
            self.checkpoint.at = Some(now.saturating_add(pause_ms));
        }
    }

    /// No more are taken, and one that is being taken is of no use.
    pub(super) fn drop_checkpoint(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.checkpoint).is_trying {
            actions.push(Action::Abort(self.id()));
        }
    }

    /// Whether its directory is stored once more after this end, for whoever goes on with it. An agent that goes down has no time for that, and
    /// what has lost its lease may be running elsewhere.
    pub(super) fn leaves_checkpoint(&self, exit: &ExitFacts, ending: &Ending, is_self_fenced: bool) -> bool {
        let is_by_itself = !ending.planned_stop || (self.evicted && !is_self_fenced);
        self.checkpoints().is_some() && is_by_itself && !self.fenced && Checkpoints::is_due_at_end(exit)
    }
}

#[cfg(test)]
mod tests;
