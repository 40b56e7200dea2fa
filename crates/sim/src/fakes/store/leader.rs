//! Leadership: one row a role, renewed by its holder, taken over when it was not renewed for 4 s, or by a clock of the future.

use super::{FakeStore, StoreError};
use domain::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Scheduler,
    Sweeper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) role: Role,
    pub(crate) holder: u64,
    pub(crate) epoch: i64,
    pub(crate) since: Timestamp,
}

#[derive(Clone)]
pub(super) struct LeaderRow {
    holder: u64,
    epoch: i64,
    renewed_at: Timestamp,
}

impl FakeStore {
    /// What was led before a restore is led no more.
    pub(super) fn pass_by_leaders(&mut self, by: i64) {
        self.leaders.values_mut().for_each(|row| row.epoch += by);
    }

    /// Sets the silence after which a node is offline. What was decided by another one and not written yet does not count.
    pub(crate) fn set_offline_after(&mut self, ms: u64) -> u64 {
        let was = std::mem::replace(&mut self.offline_after_ms, ms);
        if was != ms
            && let Some(row) = self.leaders.get_mut(&Role::Sweeper)
        {
            row.epoch += 1;
        }
        was
    }

    pub(crate) fn lead(
        &mut self,
        role: Role,
        holder: u64,
        known: Option<Leadership>,
        now: Timestamp,
    ) -> Option<Leadership> {
        let (stale_at, ahead_at) = (now - chrono::TimeDelta::seconds(4), now + chrono::TimeDelta::seconds(4));
        let row = self.leaders.entry(role).or_insert(LeaderRow { holder, epoch: 0, renewed_at: stale_at });
        let is_stale = row.renewed_at <= stale_at || row.renewed_at > ahead_at;
        if row.holder != holder && !is_stale {
            return None;
        }
        if row.holder != holder || is_stale {
            row.epoch += 1;
        }
        row.holder = holder;
        row.renewed_at = now;
        let since = known.filter(|known| known.epoch == row.epoch).map_or(now, |known| known.since);
        Some(Leadership { role, holder, epoch: row.epoch, since })
    }

    /// The epoch of whoever leads.
    pub(crate) fn leader_epoch(&self, role: Role) -> Option<i64> {
        self.leaders.get(&role).map(|row| row.epoch)
    }

    /// The first statement of every transaction that relies on a leadership.
    pub(crate) fn require(&mut self, leadership: &Leadership, now: Timestamp) -> Result<(), StoreError> {
        if self.planted.stale_leader_commits {
            return Ok(());
        }
        match self.leaders.get_mut(&leadership.role) {
            Some(row) if row.holder == leadership.holder && row.epoch == leadership.epoch => {
                row.renewed_at = now;
                Ok(())
            }
            _ => Err(StoreError::NotLeader),
        }
    }
}
