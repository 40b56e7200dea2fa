//! Which builds run now: what they read from the build cache must not be pruned under them. BuildKit keeps a build's context in
//! its cache, can't have it a second time, and counts it as unused between two steps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

#[derive(Default)]
pub(super) struct Builds {
    /// Shared by builds; a pruning of all the cache has it alone.
    gate: Arc<RwLock<()>>,
    began: Arc<Mutex<Began>>,
}

#[derive(Default)]
struct Began {
    last: u64,
    running: BTreeMap<u64, Instant>,
}

/// A build that runs.
pub(super) struct Running {
    number: u64,
    began: Arc<Mutex<Began>>,
    _gate: OwnedRwLockReadGuard<()>,
}

/// What may be pruned now.
pub(super) enum Prunable {
    /// Everything: no build begins while this is held.
    All(#[expect(dead_code, reason = "held, not read")] OwnedRwLockWriteGuard<()>),
    /// What was used by none of the builds that run: unused for this long.
    UnusedFor(Duration),
}

impl Builds {
    /// Waits while the whole cache is being pruned.
    pub(super) async fn begin(&self) -> Running {
        let gate = self.gate.clone().read_owned().await;
        let mut began = lock(&self.began);
        began.last += 1;
        let number = began.last;
        began.running.insert(number, Instant::now());
        Running { number, began: self.began.clone(), _gate: gate }
    }

    pub(super) fn prunable(&self) -> Prunable {
        if let Ok(alone) = self.gate.clone().try_write_owned() {
            return Prunable::All(alone);
        }
        let oldest = lock(&self.began).running.values().next().map(Instant::elapsed).unwrap_or_default();
        // The daemon counts by a clock of its own, and begins to count when its answer is on the way.
        Prunable::UnusedFor(oldest + Duration::from_secs(5))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.began).running.remove(&self.number);
    }
}

fn lock(began: &Mutex<Began>) -> MutexGuard<'_, Began> {
    began.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_running_build_may_have_used_is_not_prunable() {
        let builds = Builds::default();
        let first = builds.begin().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = builds.begin().await;
        let age = |prunable| match prunable {
            Prunable::UnusedFor(age) => age,
            Prunable::All(_) => Duration::ZERO,
        };
        let of_both = age(builds.prunable());
        assert!(of_both >= Duration::from_millis(5_020));
        drop(first);
        let of_second = age(builds.prunable());
        assert!(of_second >= Duration::from_secs(5) && of_second < of_both);
        drop(second);
        let all = builds.prunable();
        assert!(matches!(all, Prunable::All(_)));
        let mut third = std::pin::pin!(builds.begin());
        assert!(futures::poll!(&mut third).is_pending(), "it waits until the pruning is over");
        drop(all);
        third.await;
    }
}
