//! A backup, and what is done after its restore.

use super::{FakeStore, NodeRow, TaskRecord};
use domain::{
    Timestamp,
    ids::{ClusterEpoch, Fence, Held, TaskId},
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
        self.ids = lost.ids;
        self.begin_epoch_above(lost.epoch, now);
        self
    }

    pub(super) fn begin_epoch_above(&mut self, epoch: ClusterEpoch, now: Timestamp) {
        // The clock gives the real one a new epoch.
        self.epoch = ClusterEpoch(epoch.0 + 1);
        self.restored_at = Some(now);
        self.pass_by_leaders(BEYOND);
        for node in self.nodes.values_mut() {
            node.session_epoch += BEYOND;
            node.connected = false;
            // Until its first hello: counted, not timed, since the clock may be set meanwhile.
            node.connected_since = None;
            node.offline_since = None;
            node.offline_at_ms = None;
        }
        // Nodes that nobody remembers may have them, too.
        let longest_ms = self.leased_ms.values().copied().max().unwrap_or(0).max(self.offline_after_ms);
        let exclusive = |record: &&TaskRecord| record.spec.on_node_loss.exclusive;
        let tasks: Vec<TaskId> = self.tasks.values().filter(exclusive).map(|record| record.row.id).collect();
        tasks.into_iter().for_each(|task| self.wait_for(task, longest_ms));
    }

    /// Whether a node that was there may still come back with forgotten work.
    pub(super) fn awaits_nodes(&self) -> bool {
        let may_come =
            |node: &NodeRow| node.instance.is_some() && node.offline_since.is_none() && node.connected_since.is_none();
        self.restored_at.is_some() && self.nodes.values().any(may_come)
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
