//! The agent's one connection to the platform: dialled out, redialled for ever.

mod gather;
mod log_pump;
mod session;
mod websocket;

pub(crate) use websocket::http_address;
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
    pub trust: trust::Trust,
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
        let mut tries = Tries::default();
        loop {
            let began = boot_millis();
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = session::run(&self) => end,
            };
            self.connected.send_replace(false);
            self.handle.session_closed();
            let lasted = Duration::from_millis(boot_millis().saturating_sub(began));
            let in_a_row = tries.count(matches!(end, SessionEnd::RetryAfter(_)), lasted);
            let jittered = Duration::from_millis(backoff::delay_ms(
                in_a_row,
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

/// What the pause before the next dial depends on.
#[derive(Default)]
struct Tries {
    failures: u32,
    /// Answers that the server is busy.
    busy: u32,
}

impl Tries {
    /// How often in a row that happened which just has. A server that is busy gives a turn of its own to each: what failed before makes
    /// nobody later, only being turned away again does.
    fn count(&mut self, is_busy: bool, lasted: Duration) -> u32 {
        if is_busy {
            self.busy = self.busy.saturating_add(1);
            return self.busy;
        }
        self.busy = 0;
        self.failures = if lasted >= HEALTHY_AFTER { 1 } else { self.failures.saturating_add(1) };
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_dials_for_ever_ever_more_slowly_and_begins_anew_only_after_a_healthy_minute() {
        let longest = |failures| backoff::delay_ms(failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, 1.0);
        let shortest = |failures| backoff::delay_ms(failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, 0.0);
        let mut tries = Tries::default();
        let mut waits = Vec::new();
        for _ in 0..100_000 {
            waits.push(longest(tries.count(false, Duration::from_secs(59))));
        }
        assert_eq!(waits[..6], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
        assert!(waits[6..].iter().all(|wait| *wait == 30_000), "no wait is longer, and there is no last one");
        assert_eq!((shortest(1), shortest(u32::MAX), longest(u32::MAX)), (0, 0, 30_000), "drawn from all of it");
        assert_eq!(longest(tries.count(false, Duration::from_secs(60))), 1_000);
    }

    #[test]
    fn a_server_that_is_busy_is_asked_again_in_the_turn_that_it_gave_whatever_failed_before() {
        let mut tries = Tries::default();
        let none = Duration::ZERO;
        assert_eq!([(); 4].map(|()| tries.count(false, none)), [1, 2, 3, 4]);
        assert_eq!(
            [(); 3].map(|()| tries.count(true, none)),
            [1, 2, 3],
            "turned away again and again, it comes more slowly"
        );
        assert_eq!(tries.count(false, none), 5);
        assert_eq!(tries.count(true, none), 1);
    }
}
