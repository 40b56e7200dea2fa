//! The memory of the whole tree, looked at a few times a second: a limit for machines without cgroups of our own.

use crate::{sys, tree, tree::Process};
use std::{
    fs,
    time::{Duration, Instant},
};

pub(crate) struct Watch {
    limit_bytes: u64,
    period: Duration,
    next: Instant,
    pub(crate) peak_bytes: u64,
}

impl Watch {
    /// None when nothing is limited.
    pub(crate) fn new(limit_bytes: u64, period: Duration) -> Option<Self> {
        (limit_bytes > 0).then(|| Self { limit_bytes, period, next: Instant::now() + period, peak_bytes: 0 })
    }

    pub(crate) fn until_next(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks when it is time to. True: the tree is over its limit.
    pub(crate) fn is_exceeded(&mut self) -> bool {
        if Instant::now() < self.next {
            return false;
        }
        let tree = tree::descendants();
        let mut used: u64 = tree.iter().map(resident_bytes).sum();
        let mut period = self.period;
        if used > self.limit_bytes {
            // Pages that forked processes share were counted once for each. The fair count is dear, so it is only made here.
            used =
                tree.iter().map(|process| proportional_bytes(process).unwrap_or_else(|| resident_bytes(process))).sum();
            period = self.period * 2;
        }
        self.peak_bytes = self.peak_bytes.max(used);
        self.next = Instant::now() + period;
        used > self.limit_bytes
    }
}

fn resident_bytes(process: &Process) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", process.pid)).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * sys::page_bytes()
}

fn proportional_bytes(process: &Process) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How many processes the kernel has killed for lack of memory since boot.
pub(crate) fn kernel_kills() -> u64 {
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
}
