//! What happens by itself: silence is noticed, what waited too long ends, what is old is forgotten. Each loop is an idempotent pass,
//! so replicas may all run it; who ends leases is one leader.

use crate::{Config, figures, sweeper::Sweeper};
use chrono::TimeDelta;
use domain::ids::TaskId;
use service_kit::{Pass, Service};
use std::{sync::Arc, time::Duration};
use store::{Depth, Finding, Outcome, Store, StoreError};
use tokio::sync::{Mutex, Notify};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// As often as it is asked for.
const SHOW_EVERY: Duration = Duration::from_secs(15);
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// Reads every task's state.
const REPAIR_EVERY: Duration = Duration::from_secs(24 * 3_600);
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// Of the invariants that cost little.
const AUDIT_EVERY: Duration = Duration::from_secs(600);
const AUDIT_VIOLATIONS: &str = "unidesk_audit_violations";
const BATCH: i64 = 1_000;
/// They are promised for a day.
const KEYS_KEPT: TimeDelta = TimeDelta::days(7);
/// Of tasks that one transaction deletes with all that is theirs, logs too: it must not take seconds.
const DELETED_AT_ONCE: i64 = 200;

pub(crate) fn start(service: &Service, config: &Config, store: Store) {
    let leads = Arc::new(Notify::new());
    let sweeper = Arc::new(Mutex::new(Sweeper::new(store.clone(), config.offline_after(), leads.clone())));
    let (last, stop) = (sweeper.clone(), service.stopping().clone());
    let (shown, shows, config_of_shown) = (store.clone(), sweeper.clone(), config.clone());
    service.repeat("sweep", SWEEP_EVERY, never(), move || {
        let sweeper = sweeper.clone();
        async move { sweeper.lock().await.pass().await }
    });
    service.spawn("resign", async move {
        stop.cancelled().await;
        last.lock().await.resign().await;
        figures::hide();
    });
    service.repeat("figures", SHOW_EVERY, leads, move || {
        figures::show(shown.clone(), config_of_shown.clone(), shows.clone())
    });
    let (queue, drains, audited, counted) = (store.clone(), store.clone(), store.clone(), store.clone());
    let uncertain = store.clone();
    service.repeat("queue timeouts", SWEEP_EVERY, never(), move || expire_queued(queue.clone()));
    service.repeat("drains", SWEEP_EVERY, never(), move || finish_drains(drains.clone()));
    service.repeat("counts", COUNT_EVERY, never(), move || sum_up_counts(counted.clone()));
    service.repeat("repair of counts", REPAIR_EVERY, never(), move || repair_counts(uncertain.clone()));
    service.repeat("audit", AUDIT_EVERY, never(), move || audit(audited.clone()));
    if let Some(age) = config.task_retention {
        let (store, walk) = (store.clone(), Arc::new(Mutex::new(None)));
        // A walk over what has ended meanwhile: often enough that no tenth of the age is kept on top.
        let every = (age / 10).to_std().unwrap_or_default().clamp(SWEEP_EVERY, FORGET_EVERY);
        service.repeat("task retention", every, never(), move || expire_tasks(store.clone(), age, walk.clone()));
    }
    service.repeat("forget", FORGET_EVERY, never(), move || forget_keys(store.clone()));
}

/// `walk`: the last task that was looked at.
async fn expire_tasks(store: Store, age: TimeDelta, walk: Arc<Mutex<Option<TaskId>>>) -> Result<Pass, StoreError> {
    let mut walk = walk.lock().await;
    let step = store.expire_tasks(age, *walk, DELETED_AT_ONCE).await?;
    *walk = step.next;
    Ok(if step.next.is_some() { Pass::More } else { Pass::Idle })
}

/// Nothing rings: the timer is enough.
fn never() -> Arc<Notify> {
    Arc::new(Notify::new())
}

async fn expire_queued(store: Store) -> Result<Pass, StoreError> {
    let ended = store.expire_queued(BATCH).await?;
    Ok(if ended as i64 >= BATCH { Pass::More } else { Pass::Idle })
}

async fn finish_drains(store: Store) -> Result<Pass, StoreError> {
    store.finish_drains().await?;
    Ok(Pass::Idle)
}

async fn sum_up_counts(store: Store) -> Result<Pass, StoreError> {
    Ok(if store.sum_up_counts().await? { Pass::More } else { Pass::Idle })
}

async fn repair_counts(store: Store) -> Result<Pass, StoreError> {
    let wrong = store.repair_counts().await?;
    if wrong > 0 {
        tracing::error!(counters = wrong, "counters of tasks by state were wrong; they are right again");
    }
    Ok(Pass::Idle)
}

/// What should never be is an error in the log, with the rows: nobody looks at an audit that nobody asked for.
async fn audit(store: Store) -> Result<Pass, StoreError> {
    metrics::describe_gauge!(
        AUDIT_VIOLATIONS,
        "Rows that break this invariant, as last asked; NaN: it could not be asked"
    );
    for Finding { id, says, outcome } in store.audit(Depth::Living, Duration::from_secs(10)).await? {
        let violations = if matches!(outcome, Outcome::Unknown(_)) { f64::NAN } else { outcome.count() as f64 };
        metrics::gauge!(AUDIT_VIOLATIONS, "invariant" => id).set(violations);
        match &outcome {
            Outcome::Holds => {}
            Outcome::Broken { rows, .. } => {
                tracing::error!(
                    invariant = id,
                    says,
                    rows = outcome.count(),
                    first = rows.first(),
                    "an invariant is broken; unidesk audit shows all of it"
                );
            }
            Outcome::Unknown(because) => tracing::warn!(invariant = id, because, "an invariant was not looked at"),
        }
    }
    Ok(Pass::Idle)
}

async fn forget_keys(store: Store) -> Result<Pass, StoreError> {
    store.expire_idempotency_keys(KEYS_KEPT).await?;
    Ok(Pass::Idle)
}
