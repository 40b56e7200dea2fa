//! How much of the disk logs may take while the server has not acknowledged them: per attempt, per node, and never the last of it.

use nix::sys::statvfs::statvfs;
use serde::Deserialize;
use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// So much of the disk is left to results and records, or an eighth of a small one.
pub(super) const RESERVED_BYTES: u64 = 16 << 20;

/// Bounds of the spool. Over them the middle of a log goes, and a gap says how much.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolLimits {
    /// Of one attempt's log; 64 MiB by default.
    pub attempt_bytes: u64,
    /// Of all logs of this node; 1 GiB by default. An eighth of its own bound is left to each log all the same.
    pub node_bytes: u64,
    /// How long a writer is held while the server is connected and slow, in seconds; 5 by default.
    #[serde(rename = "patience_s", deserialize_with = "seconds")]
    pub patience: Duration,
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { attempt_bytes: 64 << 20, node_bytes: 1 << 30, patience: Duration::from_secs(5) }
    }
}

/// Shared by the logs of a node.
#[derive(Debug, Default)]
pub struct Room {
    limits: SpoolLimits,
    used_bytes: AtomicU64,
    is_connected: AtomicBool,
}

impl Room {
    pub fn new(limits: SpoolLimits) -> Self {
        Self { limits, ..Self::default() }
    }
    pub fn limits(&self) -> &SpoolLimits {
        &self.limits
    }
    /// A server is there that may acknowledge what waits.
    pub fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }
    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }
    pub(super) fn take(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    /// A log that took `before` takes `after` now.
    pub(super) fn changed(&self, before: u64, after: u64) {
        // Wraps around to what a subtraction gives.
        self.used_bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
    /// A log that takes `own` may not grow.
    pub(super) fn is_full(&self, own: u64) -> bool {
        self.is_full_with(own, own)
    }
    /// As [`Room::is_full`], where `counted` of `own` is in the node's sum.
    pub(super) fn is_full_with(&self, own: u64, counted: u64) -> bool {
        let all = self.used_bytes.load(Ordering::Relaxed).wrapping_add(own).wrapping_sub(counted);
        own >= self.limits.attempt_bytes || all >= self.limits.node_bytes && own >= self.limits.attempt_bytes / 8
    }
    /// So many bytes more leave the reserve alone. A disk that can't be asked is asked by writing to it.
    pub(super) fn has_disk(&self, dir: &Path, bytes: u64) -> bool {
        // Before the first byte there is no such directory yet.
        let disk = statvfs(dir).or_else(|error| dir.parent().map_or(Err(error), statvfs));
        disk.map_or(true, |disk| {
            let reserved = RESERVED_BYTES.min(disk.blocks() * disk.fragment_size() / 8);
            disk.blocks_available() * disk.fragment_size() >= reserved + bytes
        })
    }
}
