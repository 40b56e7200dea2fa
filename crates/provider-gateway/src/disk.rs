//! How full a disk may get: one rule for Docker's disk and for the agent's own.
//!
//! Owns: the marks, the order in which things go, and the words of a refusal. What goes is the business of those who keep it:
//! images in [`crate::container`], the git cache and scratch in [`crate::collector`].

use crate::executor::Failure;
use chrono::TimeDelta;
use domain::Timestamp;
use nix::sys::statvfs::statvfs;
use serde::Deserialize;
use std::path::Path;

/// Percent of a disk's bytes or of its inodes, whichever is higher.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watermarks {
    /// From here on what can be had again is collected; 85 by default,
    pub high_percent: u8,
    /// down to here; 75 by default.
    pub low_percent: u8,
    /// From here on work is refused; 92 by default.
    pub full_percent: u8,
    /// What was used within so many seconds stays as long as the disk is not full; 600 by default. It keeps a disk that is
    /// filled by others from costing every task its warm start.
    pub recent_s: u32,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 75, full_percent: 92, recent_s: 600 }
    }
}

/// Something that nobody uses now and that can be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle<T> {
    pub item: T,
    /// By this node's clock.
    pub last_used: Timestamp,
}

impl Watermarks {
    /// Errors: marks that would collect for ever, or refuse before anything is collected.
    pub fn check(&self) -> Result<(), String> {
        let Self { high_percent: high, low_percent: low, full_percent: full, .. } = self;
        if low < high && high <= full && *full <= 100 {
            return Ok(());
        }
        Err(format!(
            "the watermarks are low {low} %, high {high} % and full {full} %: low must be below high, and neither above full, which is at most 100"
        ))
    }
    pub fn is_high(&self, used_percent: u8) -> bool {
        used_percent >= self.high_percent
    }
    pub fn is_low(&self, used_percent: u8) -> bool {
        used_percent <= self.low_percent
    }
    pub fn is_full(&self, used_percent: u8) -> bool {
        used_percent >= self.full_percent
    }

    /// What may go from a disk that is so full, in this order: least recently used first.
    pub fn eviction_order<T: Ord>(&self, used_percent: u8, now: Timestamp, mut idle: Vec<Idle<T>>) -> Vec<T> {
        if !self.is_high(used_percent) {
            return Vec::new();
        }
        let recent = TimeDelta::seconds(self.recent_s.into());
        // A full disk refuses all work, which is worse than a cold start.
        let spares_recent = !self.is_full(used_percent);
        idle.retain(|idle| !spares_recent || now - idle.last_used >= recent);
        idle.sort_by(|a, b| (a.last_used, &a.item).cmp(&(b.last_used, &b.item)));
        idle.into_iter().map(|idle| idle.item).collect()
    }

    /// Refuses work on a full disk. `whose` stands in the sentence: `Docker's disk`.
    pub fn refuse_when_full(&self, path: &Path, whose: &str) -> Result<(), Failure> {
        match used_percent(path) {
            Some(used) if self.is_full(used) => Err(Failure::node(format!(
                "disk full: {used} % of {whose} is used, and this node takes no work from {} % on. Its caches are cleared by \
                 themselves; the rest is for the owner of the machine to look through.",
                self.full_percent
            ))),
            // A disk that can't be seen from here, such as Docker's from inside a container, refuses nothing.
            _ => Ok(()),
        }
    }
}

/// Percent of bytes or inodes in use as an ordinary user sees it, whichever is higher: of the file system that holds `path`.
/// None: it is not there.
pub fn used_percent(path: &Path) -> Option<u8> {
    let disk = statvfs(path).ok()?;
    let bytes = percent(disk.blocks(), disk.blocks_free(), disk.blocks_available());
    let inodes = percent(disk.files(), disk.files_free(), disk.files_available());
    u8::try_from(bytes.max(inodes)).ok()
}

/// Rounded up, as `df` does: 92 means that no more than 8 are left. What is reserved for root counts neither as used nor as free.
fn percent(all: u64, free: u64, available: u64) -> u64 {
    let used = all.saturating_sub(free);
    // A file system without a fixed number of inodes says 0 of all.
    (used * 100).checked_div(used + available).map_or(0, |_| (used * 100).div_ceil(used + available))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(minutes_ago: &[(char, i64)], now: Timestamp) -> Vec<Idle<char>> {
        let idle = |&(item, ago)| Idle { item, last_used: now - TimeDelta::minutes(ago) };
        minutes_ago.iter().map(idle).collect()
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_was_used_a_moment_ago_stays() {
        let (marks, now) = (Watermarks::default(), chrono::DateTime::UNIX_EPOCH);
        let all = idle(&[('b', 20), ('a', 20), ('d', 9), ('c', 10), ('e', 3_000)], now);
        assert_eq!(marks.eviction_order(85, now, all.clone()), ['e', 'a', 'b', 'c']);
        assert!(marks.eviction_order(84, now, all).is_empty());
    }

    #[test]
    fn a_full_disk_spares_nothing_that_is_idle() {
        let (marks, now) = (Watermarks::default(), chrono::DateTime::UNIX_EPOCH);
        // The last by a clock that was set back since.
        let all = idle(&[('a', 1), ('b', 0), ('c', 5), ('z', -60)], now);
        assert!(marks.eviction_order(91, now, all.clone()).is_empty());
        assert_eq!(marks.eviction_order(92, now, all), ['c', 'a', 'b', 'z']);
    }

    #[test]
    fn a_disk_is_as_full_as_df_says() {
        assert_eq!(percent(1_000, 540, 40), 92);
        assert_eq!(percent(1_000, 999, 999), 1);
        assert_eq!(percent(1_000, 0, 0), 100);
        assert_eq!(percent(0, 0, 0), 0);
        assert!(used_percent(Path::new("/")).is_some_and(|used| (1..=100).contains(&used)));
        assert_eq!(used_percent(Path::new("/not/there")), None);
    }

    #[test]
    fn marks_in_the_wrong_order_are_refused() {
        assert_eq!(Watermarks::default().check(), Ok(()));
        for (low, high, full) in [(85, 85, 92), (75, 93, 92), (75, 85, 101)] {
            let marks =
                Watermarks { low_percent: low, high_percent: high, full_percent: full, ..Watermarks::default() };
            assert!(marks.check().is_err(), "{marks:?}");
        }
    }
}
