//! What happens by itself: silence is noticed, what waited too long ends, what is old is forgotten. Each loop is an idempotent pass,
//! so replicas may all run it; who ends leases is one leader.

use crate::Config;
use chrono::TimeDelta;
use service_kit::{Pass, Service};
use std::{sync::Arc, time::Duration};
use store::{LeaderRole, Leadership, Store, StoreError};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(600);
const BATCH: i64 = 1_000;
/// They are promised for a day.
const KEYS_KEPT: TimeDelta = TimeDelta::days(7);

pub(crate) fn start(service: &Service, config: &Config, store: Store) {
    let sweeper = Arc::new(Mutex::new(Sweeper::new(store.clone(), config.offline_after_s)));
    let (last, stop) = (sweeper.clone(), service.stopping().clone());
    service.repeat("sweep", SWEEP_EVERY, never(), move || {
        let sweeper = sweeper.clone();
        async move { sweeper.lock().await.pass().await }
    });
    service.spawn("resign", async move {
        stop.cancelled().await;
        last.lock().await.resign().await;
    });
    let (queue, drains) = (store.clone(), store.clone());
    service.repeat("queue timeouts", SWEEP_EVERY, never(), move || expire_queued(queue.clone()));
    service.repeat("drains", SWEEP_EVERY, never(), move || finish_drains(drains.clone()));
    service.repeat("forget", FORGET_EVERY, never(), move || forget_keys(store.clone()));
}

/// Nothing rings: the timer is enough.
fn never() -> Arc<Notify> {
    Arc::new(Notify::new())
}

struct Sweeper {
    store: Store,
    holder: Uuid,
    leadership: Option<Leadership>,
    /// It stops: a pass that comes after this must not lead again.
    has_resigned: bool,
    offline_after_s: i32,
}

impl Sweeper {
    fn new(store: Store, offline_after_s: i32) -> Self {
        Self { store, holder: Uuid::new_v4(), leadership: None, has_resigned: false, offline_after_s }
    }

    async fn pass(&mut self) -> Result<Pass, StoreError> {
        if self.has_resigned {
            return Ok(Pass::Idle);
        }
        let known = self.leadership;
        self.leadership = self.store.lead(LeaderRole::Sweeper, self.holder, known).await?;
        let Some(leadership) = self.leadership else { return Ok(Pass::Idle) };
        if known.is_none_or(|known| known.epoch != leadership.epoch) {
            tracing::info!(epoch = leadership.epoch, "sweeps from now on");
        }
        match self.sweep(&leadership).await {
            // Taken over since: no fault, the other one sweeps.
            Err(StoreError::NotLeader) => {
                self.leadership = None;
                Ok(Pass::Idle)
            }
            done => done,
        }
    }

    async fn sweep(&self, leadership: &Leadership) -> Result<Pass, StoreError> {
        for (node, name) in self.store.mark_offline(leadership, self.offline_after_s).await? {
            tracing::warn!(node.id = %node, node.name = name, silent_s = self.offline_after_s, "a node is offline");
        }
        let queued = self.store.queue_replaceable(leadership, BATCH).await?;
        Ok(if queued as i64 >= BATCH { Pass::More } else { Pass::Idle })
    }

    /// So that a standby need not wait. Failing is fine: it waits, then.
    async fn resign(&mut self) {
        self.has_resigned = true;
        if let Some(leadership) = self.leadership.take()
            && let Err(error) = self.store.resign(&leadership).await
        {
            tracing::debug!(%error, "the sweep was not handed over");
        }
    }
}

async fn expire_queued(store: Store) -> Result<Pass, StoreError> {
    let ended = store.expire_queued(BATCH).await?;
    Ok(if ended as i64 >= BATCH { Pass::More } else { Pass::Idle })
}

async fn finish_drains(store: Store) -> Result<Pass, StoreError> {
    store.finish_drains().await?;
    Ok(Pass::Idle)
}

async fn forget_keys(store: Store) -> Result<Pass, StoreError> {
    store.expire_idempotency_keys(KEYS_KEPT).await?;
    Ok(Pass::Idle)
}
