//! Removal, whose first half is here: from now on nobody can name it. The second, the deletion of its bytes, is in `garbage.rs`.

use super::{
    checkpoints::is_live,
    garbage,
    parts::{delete_parts, lock_upload},
    pins::{PassedOver, live_readers},
    read::{ArtifactView, by_id, state},
};
use crate::{Store, StoreError};
use domain::{
    artifact::{ArtifactEvent, ArtifactState},
    ids::{ArtifactId, AttemptId, TaskId},
    principal::Origin,
};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// What became of a wish to remove.
#[derive(Clone, Debug, PartialEq)]
pub enum RemovedArtifact {
    /// It is expired, now or since before.
    Removed(ArtifactView),
    /// Tasks that have not ended read it, or keep it as a checkpoint: some of them. Nothing was changed.
    InUse {
        artifact: ArtifactView,
        tasks: Vec<TaskId>,
    },
    NotFound,
}

/// Looked at by one statement: each costs some paths through an index.
const UPLOADS_AT_ONCE: i64 = 50;

impl Store {
    /// Expires an artifact, unless a task that has not ended reads it or keeps it as a checkpoint. Safe to repeat. What was uploaded of it is deleted after `grace`.
    pub async fn remove_artifact(
        &self,
        artifact: ArtifactId,
        grace: Duration,
        origin: &Origin,
    ) -> Result<RemovedArtifact, StoreError> {
        let id = artifact.as_uuid();
        let passed = self.forget_ended_readers(artifact).await?;
        let mut transaction = self.begin_for(1).await?;
        let expiry = expire(&mut transaction, id, &passed, None, grace).await?;
        let Some(found) = by_id(&mut transaction, id).await? else { return Ok(RemovedArtifact::NotFound) };
        match expiry {
            Expiry::InUse(tasks) => return Ok(RemovedArtifact::InUse { artifact: found, tasks }),
            Expiry::Nothing => {}
            Expiry::Done => {
                let detail = json!({ "name": found.name, "version": found.version });
                let project = Some(found.project);
                self.write_audit(&mut transaction, project, origin, "artifact.remove", &id.to_string(), &detail)
                    .await?;
            }
        }
        transaction.commit().await?;
        Ok(RemovedArtifact::Removed(found))
    }

    /// Gives up uploads that nobody went on with for so long. How many: at most `limit`.
    pub async fn expire_idle_uploads(&self, idle: Duration, grace: Duration, limit: i64) -> Result<u64, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT artifact_id FROM artifact_uploads WHERE touched_at < now() - make_interval(secs => $1) ORDER BY touched_at LIMIT $2",
            idle.as_secs_f64(),
            limit
        )
        .fetch_all(self.pool_for(1))
        .await?;
        let mut expired = 0;
        for id in found {
            let mut transaction = self.begin_for(1).await?;
            if expire(&mut transaction, id, &PassedOver::default(), Some(idle), grace).await? == Expiry::Done {
                transaction.commit().await?;
                expired += 1;
            }
        }
        Ok(expired)
    }

    /// Gives up uploads of attempts that have ended: nothing of theirs becomes ready any more. How many.
    pub async fn expire_uploads_of_ended_attempts(&self, grace: Duration) -> Result<u64, StoreError> {
        let (mut after, mut expired) = ((Uuid::nil(), Uuid::nil()), 0);
        loop {
            let found = sqlx::query!(
                r#"SELECT u.attempt_id AS "attempt!", u.artifact_id,
                          NOT EXISTS (SELECT FROM attempts a WHERE a.id = u.attempt_id AND a.ended_at IS NULL) AS "is_over!"
                   FROM artifact_uploads u WHERE u.attempt_id IS NOT NULL AND (u.attempt_id, u.artifact_id) > ($1, $2)
                   ORDER BY u.attempt_id, u.artifact_id LIMIT $3"#,
                after.0,
                after.1,
                UPLOADS_AT_ONCE
            )
            .fetch_all(self.pool_for(1))
            .await?;
            let is_end = (found.len() as i64) < UPLOADS_AT_ONCE;
            after = found.last().map_or(after, |last| (last.attempt, last.artifact_id));
            for upload in found.into_iter().filter(|upload| upload.is_over) {
                let mut transaction = self.begin_for(1).await?;
                if expire(&mut transaction, upload.artifact_id, &PassedOver::default(), None, grace).await?
                    == Expiry::Done
                {
                    transaction.commit().await?;
                    tracing::debug!(attempt.id = %AttemptId::from_uuid(upload.attempt), "an upload of an attempt that has ended is given up");
                    expired += 1;
                }
            }
            if is_end {
                return Ok(expired);
            }
        }
    }
}

/// Whoever removes a version holds this, so that rules which keep the newest see which those are.
pub(super) async fn lock_name(connection: &mut PgConnection, project: Uuid, name: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "SELECT newest FROM artifact_names WHERE project_id = $1 AND name = $2 FOR NO KEY UPDATE",
        project,
        name
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    Done,
    /// It is not there, or was expired before, or somebody went on with it within the time of `idle`.
    Nothing,
    /// Some of the tasks that have not ended and read it, or keep it.
    InUse(Vec<TaskId>),
}

/// `passed`: the readers of a ready artifact that were passed over before.
pub(super) async fn expire(
    connection: &mut PgConnection,
    id: Uuid,
    passed: &PassedOver,
    idle: Option<Duration>,
    grace: Duration,
) -> Result<Expiry, StoreError> {
    expire_but_for(connection, id, None, passed, idle, grace).await
}

/// As [`expire`], of a checkpoint that its task does without: whether that one lives does not matter.
pub(super) async fn expire_checkpoint(
    connection: &mut PgConnection,
    id: Uuid,
    task: TaskId,
    passed: &PassedOver,
    grace: Duration,
) -> Result<Expiry, StoreError> {
    expire_but_for(connection, id, Some(task.as_uuid()), passed, None, grace).await
}

async fn expire_but_for(
    connection: &mut PgConnection,
    id: Uuid,
    given_up_by: Option<Uuid>,
    passed: &PassedOver,
    idle: Option<Duration>,
    grace: Duration,
) -> Result<Expiry, StoreError> {
    let row = sqlx::query!(
        "SELECT project_id, name, state, checkpoint_of FROM artifacts WHERE id = $1 FOR NO KEY UPDATE",
        id
    );
    let Some(row) = row.fetch_optional(&mut *connection).await? else { return Ok(Expiry::Nothing) };
    let before = state(&row.state)?;
    let Some(next) = before.next(ArtifactEvent::Removed) else { return Ok(Expiry::Nothing) };
    // Under the lock: whoever makes a task that reads it has locked it, too. What is corrupt is of no use to a task.
    if before == ArtifactState::Ready {
        let mut readers = live_readers(connection, id, passed).await?;
        // One that is run again after this look goes on from what there is then.
        if let Some(keeper) = row.checkpoint_of.filter(|keeper| Some(*keeper) != given_up_by)
            && is_live(connection, keeper).await?
        {
            readers.insert(0, TaskId::from_uuid(keeper));
        }
        if !readers.is_empty() {
            return Ok(Expiry::InUse(readers));
        }
    }
    lock_name(connection, row.project_id, &row.name).await?;
    let upload = lock_upload(connection, id).await?;
    if idle.is_some_and(|idle| upload.as_ref().is_none_or(|(_, untouched)| *untouched < idle)) {
        return Ok(Expiry::Nothing);
    }
    let is_dropped = upload.is_some();
    if let Some((place, _)) = upload {
        garbage::add(connection, &place.key, place.upload_id.as_deref(), Some(id), grace).await?;
        delete_parts(connection, id, place.newest_part).await?;
        sqlx::query!("DELETE FROM artifact_uploads WHERE artifact_id = $1", id).execute(&mut *connection).await?;
    }
    sqlx::query!(
        "UPDATE artifacts SET state = $2, expired_at = now(), is_dropped = $3, idempotency_key = NULL WHERE id = $1",
        id,
        next.as_str(),
        is_dropped
    )
    .execute(connection)
    .await?;
    Ok(Expiry::Done)
}
