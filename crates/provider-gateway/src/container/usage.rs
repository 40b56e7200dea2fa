//! What a running container used: asked for now and then, since Docker forgets it at the end.

use super::docker::{Engine, QUICK};
use bollard::query_parameters::StatsOptionsBuilder;
use domain::outcome::ExitFacts;
use futures::StreamExt;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Rare enough to cost nothing, often enough to be worth showing.
const EVERY: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Usage(Mutex<Seen>);

#[derive(Clone, Copy, Default)]
struct Seen {
    cpu_ms: Option<u64>,
    peak_memory_bytes: Option<u64>,
}

impl Usage {
    /// Never ends; dropped when the container's output ends.
    pub(super) async fn watch(&self, engine: &Engine, container: &str) {
        let mut pause = FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = EVERY;
            let name = container.to_owned();
            let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
            let answer =
                engine.call(QUICK, |docker| async move { docker.stats(&name, Some(options)).next().await.transpose() });
            let Ok(Some(stats)) = answer.await else { continue };
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let nanos = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).filter(|nanos| *nanos > 0);
            seen.cpu_ms = nanos.map(|nanos| nanos / 1_000_000).max(seen.cpu_ms);
            // The kernel's own peak where it keeps one (cgroup v1), or else the highest that was seen.
            let memory = stats.memory_stats.and_then(|memory| memory.max_usage.max(memory.usage));
            seen.peak_memory_bytes = memory.filter(|bytes| *bytes > 0).max(seen.peak_memory_bytes);
        }
    }

    pub(super) fn add_to(&self, exit: &mut ExitFacts) {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exit.cpu_ms = seen.cpu_ms;
        exit.peak_memory_bytes = seen.peak_memory_bytes;
    }
}
