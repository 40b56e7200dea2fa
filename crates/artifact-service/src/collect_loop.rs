//! What is deleted: uploads that nobody goes on with, checkpoints of tasks that have ended, objects that no artifact has any more, packs of logs that nobody has any more, and what the
//! store has begun and we forgot.

use crate::{ObjectStore, ObjectStoreError, Times, checkpoints::Walk};
use service_kit::{Pass, Service};
use std::{sync::Arc, time::Duration};
use store::{Garbage, Store, StoreError};
use tokio::sync::Notify;

const AT_ONCE: i64 = 50;
const UPLOADS_EVERY: Duration = Duration::from_secs(3_600);

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the database")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Objects(#[from] ObjectStoreError),
}

pub(crate) fn start(service: &Service, times: Times, store: Store, objects: ObjectStore) {
    let ensured = objects.clone();
    service.spawn_until_stopped("bucket", async move {
        if let Err(error) = ensured.ensure_bucket().await {
            tracing::warn!(%error, "whether the bucket is there is not known; uploads will say if it is not");
        }
    });
    let (lists, ruled, aborts) = ((store.clone(), objects.clone()), store.clone(), (store, objects));
    service.repeat("artifact rules", times.rules_every, Arc::new(Notify::new()), move || {
        let store = ruled.clone();
        async move { crate::rules::apply(&store, times).await }
    });
    let walk = Walk::default();
    service.repeat("artifacts", times.collect_every, Arc::new(Notify::new()), move || {
        let ((store, objects), walk) = (lists.clone(), walk.clone());
        async move { collect(&store, &objects, times, &walk).await }
    });
    service.repeat("uploads", UPLOADS_EVERY.min(times.stray), Arc::new(Notify::new()), move || {
        let (store, objects) = aborts.clone();
        async move { abort_unknown(&store, &objects, times).await }
    });
}

/// One pass over all that is due. Safe to repeat at any point: the list forgets a key only after the object store has.
async fn collect(store: &Store, objects: &ObjectStore, times: Times, checkpoints: &Walk) -> Result<Pass, Trouble> {
    let given_up = store.expire_idle_uploads(times.idle_upload, times.grace, AT_ONCE).await?;
    store.expire_uploads_of_ended_attempts(times.grace).await?;
    checkpoints.go_on(store, times).await?;
    let dropped = store.drop_unused_objects(times.grace, AT_ONCE).await?;
    let empty = store.drop_empty_packs(times.grace, AT_ONCE).await?;
    let due = store.due_garbage(AT_ONCE).await?;
    let deleted = due.len() as i64;
    for garbage in due {
        delete(store, objects, garbage).await?;
    }
    metrics::counter!("unidesk_artifact_objects_deleted_total").increment(deleted.unsigned_abs());
    let is_full = [given_up, dropped, empty, deleted.unsigned_abs()].iter().any(|done| *done as i64 >= AT_ONCE);
    Ok(if is_full { Pass::More } else { Pass::Idle })
}

async fn delete(store: &Store, objects: &ObjectStore, garbage: Garbage) -> Result<(), Trouble> {
    if let Some(upload_id) = &garbage.upload_id {
        objects.abort(&garbage.key, upload_id).await?;
    }
    // Also where there was an upload: it may have been put together before it was given up.
    objects.delete(&garbage.key).await?;
    Ok(store.garbage_gone(&garbage.key).await?)
}

/// Uploads that were begun, and whose name was lost with the process that began them.
async fn abort_unknown(store: &Store, objects: &ObjectStore, times: Times) -> Result<Pass, Trouble> {
    let before = chrono::Utc::now().timestamp() - times.stray.as_secs() as i64;
    for upload in objects.begun_uploads().await? {
        if upload.begun_at <= before && !store.is_known_upload(&upload.key, &upload.upload_id).await? {
            objects.abort(&upload.key, &upload.upload_id).await?;
        }
    }
    Ok(Pass::Idle)
}
