//! What attempts leave: stored by whoever holds the task, and by nobody else.

use super::FakeStore;
use domain::{
    attempt::AttemptState,
    ids::{Held, NodeId},
};

/// What became of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputAnswer {
    Stored,
    Fenced,
    /// The platform has its end already, by what is known of its exit.
    Ended,
    /// A restore has forgotten the attempt, and its node has not said hello since.
    NotYet,
    /// A restore has forgotten it, and so has everybody else.
    Forgotten,
}

impl FakeStore {
    /// Its upload is complete: it is ready, and counted once.
    pub(crate) fn complete_output(&mut self, node: NodeId, held: Held, index: u32) -> OutputAnswer {
        let Some(mut attempt) = self.attempts.get(&held.attempt).cloned() else {
            let was_heard = self.nodes.get(&node).is_some_and(|row| row.connected_since.is_some());
            return match (self.is_old(held.fence), was_heard) {
                (false, _) => OutputAnswer::Fenced,
                (true, false) => OutputAnswer::NotYet,
                (true, true) => OutputAnswer::Forgotten,
            };
        };
        let task = &self.tasks[&attempt.task].row;
        let is_held = task.live == Some(attempt.id) && task.fence == held.fence && attempt.ended_at.is_none();
        let is_its_own = attempt.node == node && attempt.held() == held;
        if is_its_own && attempt.ended_at.is_some() && attempt.state != AttemptState::Lost {
            return OutputAnswer::Ended;
        }
        if !is_its_own || !is_held {
            return OutputAnswer::Fenced;
        }
        self.outputs.insert((attempt.id, index));
        attempt.outputs_stored = self.outputs.range((attempt.id, 0)..=(attempt.id, u32::MAX)).count() as u32;
        self.save_attempt(attempt);
        OutputAnswer::Stored
    }
}
