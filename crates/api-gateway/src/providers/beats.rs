//! Heartbeats of all nodes of this gateway, written in one statement per round trip on a connection of their own; and this
//! gateway's own sign of life, the same way.

use domain::{node::NodeMetrics, sweep::ABSENT_AFTER_MS};
use service_kit::{Pass, Service};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use store::{SessionKey, Store, in_time};
use tokio::sync::{Notify, mpsc};

const PER_STATEMENT: usize = 512;
/// Heartbeats wait for others for this part of the time between two of a node's: ten thousand nodes beat one after the other, and
/// a statement for each or two of them costs more than all else that idle nodes do. At most 250 ms.
const GATHERED: u32 = 60;
const GATHER_AT_MOST: Duration = Duration::from_millis(250);
const PRESENT_EVERY: Duration = Duration::from_secs(2);

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
        let present = store.clone();
        service.repeat("presence", PRESENT_EVERY, Arc::new(Notify::new()), move || {
            let store = present.clone();
            async move { store.renew_presence(ABSENT_AFTER_MS).await.map(|()| Pass::Idle) }
        });
        service.spawn_until_stopped("heartbeats", write(service.clone(), store, beats));
        Self { queue }
    }

    pub(super) fn record(&self, key: SessionKey, metrics: NodeMetrics, answer: Answer) {
        let _ = self.queue.send(Beat { key, metrics, answer });
    }
}

async fn write(service: Service, store: Store, mut queue: mpsc::UnboundedReceiver<Beat>) {
    let gather = (store.heartbeat_every() / GATHERED).min(GATHER_AT_MOST);
    let mut waiting: Vec<Beat> = Vec::new();
    while queue.recv_many(&mut waiting, PER_STATEMENT).await > 0 {
        if waiting.len() < PER_STATEMENT {
            tokio::time::sleep(gather).await;
            while waiting.len() < PER_STATEMENT
                && let Ok(beat) = queue.try_recv()
            {
                waiting.push(beat);
            }
        }
        // One row of a node can be written once per statement: the newest counts.
        let mut latest: BTreeMap<SessionKey, NodeMetrics> = BTreeMap::new();
        let mut answers: BTreeMap<SessionKey, Vec<Answer>> = BTreeMap::new();
        for Beat { key, metrics, answer } in waiting.drain(..) {
            latest.insert(key, metrics);
            answers.entry(key).or_default().push(answer);
        }
        let beats: Vec<(SessionKey, NodeMetrics)> = latest.into_iter().collect();
        match in_time(store.heartbeat(&beats)).await {
            Ok(counted) => {
                for answer in counted.iter().filter_map(|key| answers.remove(key)).flatten() {
                    answer(true);
                }
                for (key, metrics) in beats {
                    // Tasks are locked for these: no other node's heartbeat waits for that.
                    if let Some(answers) = answers.remove(&key) {
                        service.spawn_until_stopped("offline node", let_back_in(store.clone(), key, metrics, answers));
                    }
                }
            }
            // Not answered: what the node has not heard did not happen. Its next one comes in a moment.
            Err(error) => {
                tracing::debug!(%error, "heartbeats could not be written");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Answered only when the node's tasks are no more to be replaced: an agent that was answered keeps exclusive work alive.
async fn let_back_in(store: Store, key: SessionKey, metrics: NodeMetrics, answers: Vec<Answer>) {
    match in_time(store.end_offline(key, &metrics)).await {
        Ok(counts) => {
            if counts {
                tracing::info!(node.id = %key.node, session = key.epoch, "a node that was called offline is heard again");
            }
            answers.into_iter().for_each(|answer| answer(counts));
        }
        Err(error) => tracing::debug!(%error, "a node could not be let back in; its next heartbeat is"),
    }
}

#[cfg(test)]
mod tests;
