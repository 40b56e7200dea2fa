//! What is counted.

use crate::{Backup, Kind};
use chrono::{DateTime, Utc};
use metrics::{describe_counter, describe_gauge};
use std::time::Duration;

fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp() as f64
}

/// As the directory has it, so that a service that was started anew says the same.
pub(crate) fn of(kind: Kind, all: &[Backup]) {
    let mut of_kind = all.iter().filter(|one| one.kind == kind);
    if let Some(newest) = of_kind.clone().next() {
        let at = newest.record.as_ref().map_or(newest.at, |record| record.finished_at);
        metrics::gauge!("unidesk_backup_last_success_timestamp_seconds", "kind" => kind.as_str()).set(seconds(at));
        metrics::gauge!("unidesk_backup_size_bytes", "kind" => kind.as_str()).set(newest.bytes as f64);
    }
    if let Some(verified) = of_kind.find_map(|one| one.verified().filter(|verified| verified.broken.is_empty())) {
        metrics::gauge!("unidesk_backup_last_verified_timestamp_seconds", "kind" => kind.as_str())
            .set(seconds(verified.at));
    }
}

pub(crate) fn took(kind: Kind, duration: Duration) {
    metrics::gauge!("unidesk_backup_duration_seconds", "kind" => kind.as_str()).set(duration.as_secs_f64());
}

pub(crate) fn failed(kind: Kind) {
    metrics::counter!("unidesk_backup_failures_total", "kind" => kind.as_str()).increment(1);
}

pub(crate) fn wal_behind(behind: Duration) {
    metrics::gauge!("unidesk_backup_wal_behind_seconds").set(behind.as_secs_f64());
}

/// With counters at zero, so that an alarm on what never happened has something to look at.
pub(crate) fn begin() {
    describe_gauge!(
        "unidesk_backup_last_success_timestamp_seconds",
        "When the newest backup of this kind was finished"
    );
    describe_gauge!(
        "unidesk_backup_last_verified_timestamp_seconds",
        "When a backup of this kind was last restored and found clean"
    );
    describe_gauge!("unidesk_backup_size_bytes", "Size of the newest backup of this kind");
    describe_gauge!("unidesk_backup_duration_seconds", "How long the newest backup of this kind took to make");
    describe_gauge!("unidesk_backup_wal_behind_seconds", "How much of the newest past a restore would lack, at most");
    describe_counter!("unidesk_backup_failures_total", "Backups that failed");
    for kind in Kind::ALL {
        metrics::counter!("unidesk_backup_failures_total", "kind" => kind.as_str()).increment(0);
    }
}
