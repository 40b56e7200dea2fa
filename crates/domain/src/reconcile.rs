//! What becomes of each attempt when a node says hello: of those that it has, and of those that it should have. Total in both
//! directions, so that nothing waits for an answer that never comes.
//!
//! A node that comes back usually knows less than the platform: its attempts were replaced meanwhile. After a restore of the database
//! from a backup it knows more: attempts that were leased since the backup. Fences tell the two apart, since a restore begins a new
//! epoch: an attempt of this epoch that the platform does not know is none of its own, one of another epoch may be newer than all that
//! is left. The later lease wins, whoever gave it: the fence alone decides, as everywhere.

use crate::{
    attempt::{AttemptRow, AttemptState, Report},
    ids::{ClusterEpoch, Held, NodeId, TaskId},
    is_default,
    outcome::{Ending, ExitFacts},
    task::TaskRow,
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, collections::BTreeMap};

/// What a node says in its hello of one attempt that it has. What older agents leave out has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    #[serde(flatten)]
    pub held: Held,
    pub state: AttemptState,
    /// None: the node never had it, and only answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// 1 for the first attempt of its task; 0: not said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub number: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_ids: Vec<String>,
    /// It was sent ahead: it holds nothing before it begins.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ahead: bool,
    /// Once its process has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitFacts>,
    /// Once nothing more will come of it, its log included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// Stream -> where its log stands on the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub log_offsets: BTreeMap<String, u64>,
}

impl HeldAttempt {
    /// As an agent says it that knows no more.
    pub fn new(held: Held, state: AttemptState) -> Self {
        Self {
            held,
            state,
            task: None,
            number: 0,
            gpu_ids: Vec::new(),
            ahead: false,
            exit: None,
            ending: None,
            log_offsets: BTreeMap::new(),
        }
    }

    /// It was stopped there, or never began: no end will be reported.
    fn has_no_end(&self) -> bool {
        self.state.is_terminal() && self.ending.is_none()
    }

    /// The report that says all of this at once: a later one implies those before it. None: nothing that a report could say.
    /// `stored`: where its log stands on the platform; less than the node had written may never come.
    pub fn as_report(&self, stored: impl Fn(&str) -> u64) -> Option<Report> {
        match (self.state, &self.ending, &self.exit) {
            (_, Some(ending), _) => {
                let mut ending = ending.clone();
                ending.log.complete &= self.log_offsets.iter().all(|(stream, offset)| stored(stream) >= *offset);
                Some(Report::Ended { ending })
            }
            (_, None, Some(exit)) => Some(Report::Exited { exit: exit.clone() }),
            (AttemptState::Assigned, ..) => Some(Report::Accepted),
            (AttemptState::Preparing, ..) => Some(Report::Preparing),
            (AttemptState::Running | AttemptState::Finishing, ..) => Some(Report::Started),
            (AttemptState::Succeeded | AttemptState::Failed | AttemptState::Cancelled | AttemptState::Lost, ..) => None,
        }
    }
}

/// What the platform answers about an attempt that a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It holds its task, and goes on.
    Keep,
    /// Its end is recorded; the node removes what it left, and says so.
    Collect,
    /// Its release is recorded too: the node only has to hear that once more.
    Forget,
    /// It holds nothing: stopped and removed there.
    Stop,
    /// The node has stopped it, at the word of a platform that a restore has forgotten: its task is placed again.
    GiveUp,
    /// The platform has forgotten it since a restore, and takes it up again.
    Adopt,
    /// Nobody knows its task any more since a restore: it runs to its end, which is kept aside.
    Orphan,
}

/// What a restore from a backup has to do with it.
#[derive(Clone, Copy, Debug)]
pub struct Restore {
    pub epoch: ClusterEpoch,
    /// The node says its first hello since a restore, and the task is older than that. Later, nothing that was forgotten can turn up
    /// there: a node can't take tasks by making up attempts.
    pub may_have_forgotten: bool,
}

/// Whether what a node says can only be if the database was put back to an earlier state and nobody has noticed: an attempt of an epoch
/// that is still to come, or one of this epoch that is unknown though its task is not (both are deleted together).
pub fn shows_loss(said: &HeldAttempt, is_known: bool, is_of_known_task: bool, epoch: ClusterEpoch) -> bool {
    match said.held.fence.epoch().cmp(&epoch) {
        Ordering::Greater => true,
        Ordering::Equal => !is_known && is_of_known_task,
        Ordering::Less => false,
    }
}

/// Answers for one attempt of a node's inventory. `attempt`: its row. `task`: the row of its task; only looked at where there is none
/// of the attempt.
pub fn answer(
    said: &HeldAttempt,
    node: NodeId,
    attempt: Option<&AttemptRow>,
    task: Option<&TaskRow>,
    restore: Restore,
) -> Answer {
    let epoch = restore.epoch;
    let Some(attempt) = attempt else { return answer_forgotten(said, task, restore) };
    if attempt.node != node || attempt.held() != said.held || attempt.state == AttemptState::Lost {
        return Answer::Stop;
    }
    match (attempt.state.is_terminal(), attempt.reserved, said.state.is_terminal()) {
        (false, ..) if said.has_no_end() && said.held.fence.epoch() != epoch => Answer::GiveUp,
        (false, ..) => Answer::Keep,
        (true, true, _) => Answer::Collect,
        (true, false, true) => Answer::Forget,
        // Released, it can't be at work.
        (true, false, false) => Answer::Stop,
    }
}

fn answer_forgotten(said: &HeldAttempt, task: Option<&TaskRow>, restore: Restore) -> Answer {
    if said.held.fence.epoch() == restore.epoch || said.has_no_end() {
        return Answer::Stop;
    }
    match task {
        None => Answer::Orphan,
        // A fence of the future: the database was restored, and nobody has said so. Nothing is stopped for that.
        Some(_) if said.held.fence.epoch() > restore.epoch => Answer::Orphan,
        // Leased since: by this epoch, or by a later lease that came back earlier.
        Some(task) if task.fence >= said.held.fence => Answer::Stop,
        // What a person asked to run again after it had ended; the answer that was given before the backup stands.
        Some(task) if task.state.is_terminal() => Answer::Orphan,
        Some(_) if !restore.may_have_forgotten => Answer::Orphan,
        Some(_) => Answer::Adopt,
    }
}

/// What becomes of an attempt that a node should have and does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Its executor could not be asked: nothing is concluded.
    Unknown,
    /// It may never have arrived.
    SendAgain,
    /// It is gone: its task is placed again.
    GiveUp,
}

/// What else is known of the node that does not name it.
#[derive(Clone, Copy, Debug)]
pub struct Inventory {
    /// The attempt's executor could be asked.
    pub is_complete: bool,
    /// Another installation had the node's token before: what was sent to it may have begun there.
    pub is_new_instance: bool,
}

pub fn absent(attempt: &AttemptRow, inventory: Inventory, epoch: ClusterEpoch) -> Absence {
    let was_accepted = attempt.accepted_at.is_some() || attempt.ended_at.is_some();
    // Since the backup it may have been accepted, run and forgotten: its fence is not used again.
    let may_have_begun = was_accepted || inventory.is_new_instance || attempt.fence.epoch() != epoch;
    match (inventory.is_complete, may_have_begun) {
        (false, _) => Absence::Unknown,
        (true, false) => Absence::SendAgain,
        (true, true) => Absence::GiveUp,
    }
}

#[cfg(test)]
mod tests;
