//! Heartbeats of all nodes of this gateway, written in one statement per round trip on a connection of their own.

use domain::node::NodeMetrics;
use service_kit::Service;
use std::time::Duration;
use store::{SessionKey, Store};
use tokio::sync::mpsc;

const PER_STATEMENT: usize = 512;

type Answer = Box<dyn FnOnce(bool) + Send>;
struct Beat {
    key: SessionKey,
    metrics: NodeMetrics,
    /// Called once it is committed, with whether it counted.
    answer: Answer,
}

#[derive(Clone)]
pub(super) struct Beats {
    queue: mpsc::UnboundedSender<Beat>,
}

impl Beats {
    pub(super) fn start(service: &Service, store: Store) -> Self {
        let (queue, beats) = mpsc::unbounded_channel();
        service.spawn_until_stopped("heartbeats", write(store, beats));
        Self { queue }
    }

    pub(super) fn record(&self, key: SessionKey, metrics: NodeMetrics, answer: Answer) {
        let _ = self.queue.send(Beat { key, metrics, answer });
    }
}

async fn write(store: Store, mut queue: mpsc::UnboundedReceiver<Beat>) {
    let mut waiting: Vec<Beat> = Vec::new();
    while queue.recv_many(&mut waiting, PER_STATEMENT).await > 0 {
        // One row of a node can be written once per statement: the newest counts.
        let mut latest: std::collections::BTreeMap<SessionKey, NodeMetrics> = std::collections::BTreeMap::new();
        for beat in &waiting {
            latest.insert(beat.key, beat.metrics.clone());
        }
        let beats: Vec<(SessionKey, NodeMetrics)> = latest.into_iter().collect();
        match store.heartbeat(&beats).await {
            Ok(counted) => waiting.drain(..).for_each(|beat| (beat.answer)(counted.contains(&beat.key))),
            // Not answered: what the node has not heard did not happen. Its next one comes in a moment.
            Err(error) => {
                tracing::debug!(%error, "heartbeats could not be written");
                waiting.clear();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
