//! The agent's one connection to the platform: dialled out, redialled for ever.

mod log_pump;
mod session;
mod websocket;

pub use websocket::{Dialled, dial};

use crate::{
    Sources,
    executor::Registry,
    resources::Meter,
    runtime::{Handle, boot_millis},
};
use domain::{
    backoff,
    ids::InstanceId,
    node::{Condition, NodeFacts, NodeMetrics},
};
use protocol::{Refused, transport::TransportError};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BACKOFF_BASE_MS: u64 = 1_000;
/// The longest pause between two dials, unless `provider.toml` says otherwise.
pub(crate) const BACKOFF_CAP_MS: u64 = 30_000;
/// Only a session that held so long starts the backoff anew: a server that drops everybody at once is not to be hammered.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A token that is not taken may be taken later (a person mends it), but there is no hurry.
const REFUSED_WAIT: Duration = Duration::from_secs(300);

/// What a session needs of the agent.
#[derive(Clone)]
pub struct Link {
    pub url: String,
    pub token: String,
    /// The longest pause between two dials.
    pub reconnect_cap_ms: u64,
    pub instance: InstanceId,
    pub facts: watch::Receiver<NodeFacts>,
    pub registry: Registry,
    /// Cached repositories are warm too.
    pub sources: Sources,
    pub handle: Handle,
    pub meter: Arc<Mutex<Meter>>,
    /// The node's name, as the server calls it: told in the welcome.
    pub name: watch::Sender<String>,
    /// Whether a session is open.
    pub connected: watch::Sender<bool>,
    /// The agent is going down: it takes nothing new.
    pub stopping: watch::Receiver<bool>,
}

/// Why a session ended, and so when to come back.
#[derive(Debug)]
enum SessionEnd {
    Lost(TransportError),
    /// The server said no, and perhaps when to come back.
    Refused(Refused),
    /// The door was not opened: the token, most likely.
    Unauthorised(String),
    /// The server is there and busy.
    RetryAfter(Duration),
}

impl Link {
    /// Connects and reconnects until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut failures: u32 = 0;
        // Answers in a row that the server is busy.
        let mut busy: u32 = 0;
        loop {
            let began = boot_millis();
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = session::run(&self) => end,
            };
            self.connected.send_replace(false);
            self.handle.session_closed();
            busy = if matches!(end, SessionEnd::RetryAfter(_)) { busy.saturating_add(1) } else { 0 };
            if busy == 0 {
                failures = failures_after(failures, Duration::from_millis(boot_millis().saturating_sub(began)));
            }
            let jittered = Duration::from_millis(backoff::delay_ms(
                if busy == 0 { failures } else { busy },
                BACKOFF_BASE_MS,
                self.reconnect_cap_ms,
                rand::random(),
            ));
            let wait = match &end {
                SessionEnd::Lost(error) => {
                    tracing::warn!(error = %service_kit::lifecycle::Chain(error), again_in_ms = jittered.as_millis() as u64, "not connected; work goes on");
                    jittered
                }
                SessionEnd::Refused(refused) => {
                    let wait = refused.retry_after_ms.map_or(REFUSED_WAIT, Duration::from_millis);
                    tracing::error!(reason = %refused.detail, again_in_s = wait.as_secs(), "the server refused this node");
                    wait
                }
                SessionEnd::Unauthorised(detail) => {
                    tracing::error!(reason = %detail, again_in_s = REFUSED_WAIT.as_secs(), "the server does not take this node's token; make a new one with `unidesk node-token create`");
                    REFUSED_WAIT
                }
                // The server gave this node a turn of its own: what failed before it makes the node no later.
                SessionEnd::RetryAfter(after) => {
                    let wait = *after + jittered;
                    tracing::info!(again_in_ms = wait.as_millis() as u64, "the server is busy; work goes on");
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// What a heartbeat says.
    async fn metrics(&self) -> NodeMetrics {
        let (mut conditions, mut warm) = crate::runtime::conditions(&self.registry).await;
        if *self.stopping.borrow() {
            conditions.insert(Condition::Stopping);
        }
        conditions.extend(self.handle.disk_condition().await);
        warm.extend(self.sources.warm_keys());
        let sampled = self.meter.lock().unwrap_or_else(PoisonError::into_inner).sample();
        NodeMetrics { live_attempts: *self.handle.live.borrow() as u32, conditions, warm, ..sampled }
    }
}

/// Failures in a row, after a session that lasted so long.
fn failures_after(failures: u32, lasted: Duration) -> u32 {
    if lasted >= HEALTHY_AFTER { 1 } else { failures.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_dials_for_ever_ever_more_slowly_and_begins_anew_only_after_a_healthy_minute() {
        let longest = |failures| backoff::delay_ms(failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, 1.0);
        let shortest = |failures| backoff::delay_ms(failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, 0.0);
        let mut failures = 0;
        let mut waits = Vec::new();
        for _ in 0..100_000 {
            failures = failures_after(failures, Duration::from_secs(59));
            waits.push(longest(failures));
        }
        assert_eq!(waits[..6], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
        assert!(waits[6..].iter().all(|wait| *wait == 30_000), "no wait is longer, and there is no last one");
        assert_eq!((shortest(1), shortest(u32::MAX), longest(u32::MAX)), (0, 0, 30_000), "drawn from all of it");
        assert_eq!(longest(failures_after(failures, Duration::from_secs(60))), 1_000);
    }
}
