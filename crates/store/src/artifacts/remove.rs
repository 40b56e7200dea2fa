//! Removal, whose first half is here: from now on nobody can name it. The second, the deletion of its bytes, is in `garbage.rs`.

use super::{
    garbage,
    parts::{delete_parts, lock_upload},
    read::{ArtifactView, by_id, state},
};
use crate::{Store, StoreError};
use domain::{artifact::ArtifactEvent, ids::ArtifactId, principal::Origin};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

impl Store {
    /// Expires an artifact. Safe to repeat. What was uploaded of it is deleted after `grace`. None: there is none.
    pub async fn remove_artifact(
        &self,
        artifact: ArtifactId,
        grace: Duration,
        origin: &Origin,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let id = artifact.as_uuid();
        let mut transaction = self.begin_for(1).await?;
        let is_new = expire(&mut transaction, id, None, grace).await?;
        let Some(removed) = by_id(&mut transaction, id).await? else { return Ok(None) };
        if is_new {
            let detail = json!({ "name": removed.name, "version": removed.version });
            self.write_audit(
                &mut transaction,
                Some(removed.project),
                origin,
                "artifact.remove",
                &id.to_string(),
                &detail,
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(Some(removed))
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
            if expire(&mut transaction, id, Some(idle), grace).await? {
                transaction.commit().await?;
                expired += 1;
            }
        }
        Ok(expired)
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

/// False: it is not there, or was expired before, or somebody went on with it within the time of `idle`.
pub(super) async fn expire(
    connection: &mut PgConnection,
    id: Uuid,
    idle: Option<Duration>,
    grace: Duration,
) -> Result<bool, StoreError> {
    let row = sqlx::query!("SELECT project_id, name, state FROM artifacts WHERE id = $1 FOR NO KEY UPDATE", id);
    let Some(row) = row.fetch_optional(&mut *connection).await? else { return Ok(false) };
    let Some(next) = state(&row.state)?.next(ArtifactEvent::Removed) else { return Ok(false) };
    lock_name(connection, row.project_id, &row.name).await?;
    let upload = lock_upload(connection, id).await?;
    if idle.is_some_and(|idle| upload.as_ref().is_none_or(|(_, untouched)| *untouched < idle)) {
        return Ok(false);
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
    Ok(true)
}
