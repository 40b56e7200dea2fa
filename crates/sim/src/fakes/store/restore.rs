//! A backup, and what is done after its restore.

use super::{FakeStore, NodeRow};
use domain::{
    Timestamp,
    ids::{ClusterEpoch, Fence, Held},
};

/// Beyond every number that was given out since the backup.
const BEYOND: i64 = 1 << 32;

impl FakeStore {
    /// A copy, as a backup has it.
    pub(crate) fn back_up(&self) -> Self {
        let mut backup = self.clone();
        backup.journal.clear();
        backup.topics.clear();
        backup
    }

    /// Comes in the place of `lost`, and it is said that it was restored.
    pub(crate) fn restored_after(mut self, lost: &Self, now: Timestamp) -> Self {
        // The clock gives the real one a new epoch, and random bits its ids.
        self.epoch = ClusterEpoch(lost.epoch.0 + 1);
        self.ids = lost.ids;
        self.restored_at = Some(now);
        self.pass_by_leaders(BEYOND);
        for node in self.nodes.values_mut() {
            node.session_epoch += BEYOND;
            node.connected = false;
            // Until its first hello: counted, not timed, since the clock may be set meanwhile.
            node.connected_since = None;
            node.offline_since = None;
        }
        self
    }

    /// Whether a node that was there may still come back with forgotten work.
    pub(super) fn awaits_nodes(&self) -> bool {
        let may_come =
            |node: &NodeRow| node.instance.is_some() && node.offline_since.is_none() && node.connected_since.is_none();
        self.restored_at.is_some() && self.nodes.values().any(may_come)
    }

    /// Whether a node that has not said hello since a restore may have a process of a task that was submitted then.
    pub(super) fn may_be_forgotten(&self, submitted: Timestamp, wait: chrono::TimeDelta, now: Timestamp) -> bool {
        let may_have = |node: &NodeRow| {
            node.instance.is_some()
                && node.connected_since.is_none()
                && node.offline_since.is_none_or(|since| since + wait > now)
        };
        self.restored_at.is_some_and(|at| submitted < at) && self.nodes.values().any(may_have)
    }

    /// When the database was restored, unless this node has said hello since.
    pub(super) fn forgotten_since(&self, last_hello: Option<Timestamp>) -> Option<Timestamp> {
        self.restored_at.filter(|_| last_hello.is_none())
    }

    pub(crate) fn is_old(&self, fence: Fence) -> bool {
        fence.epoch() != self.epoch
    }

    /// Nobody knows it since a restore.
    pub(super) fn is_orphan(&self, held: Held) -> bool {
        self.is_old(held.fence) && !self.attempts.contains_key(&held.attempt)
    }
}
