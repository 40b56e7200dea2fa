//! The end of an upload: the one moment in which an artifact gets its version and becomes ready.

use super::{
    common::recorded,
    garbage,
    parts::{Part, delete_parts, lock_upload},
    read::{ArtifactView, by_id, state},
};
use crate::{Store, StoreError};
use domain::{
    artifact::{ArtifactEvent, ArtifactState, Sha256Digest},
    ids::{ArtifactId, AttemptId, ProjectId},
    principal::Origin,
};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// What the object store has, as it was just looked up there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub key: String,
    pub size: u64,
    pub sha256: Sha256Digest,
    pub parts_digest: Sha256Digest,
    /// Of which it was put together.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CompletedArtifact {
    /// It is ready, now or since the same call of before.
    Ready(ArtifactView),
    /// The upload is over, and this is not how it ended: it was given up, or ended with other bytes.
    Ended(ArtifactView),
    /// It was begun anew under another key meanwhile.
    Restarted,
    NotFound,
}

impl Store {
    /// Makes an artifact ready, with the next version of its name. Safe to repeat. Content that the project has already is kept once: the second copy
    /// is deleted after `grace`. What an attempt leaves only its node completes ([`Store::complete_output`], [`Store::complete_checkpoint`]).
    ///
    /// The caller has seen the object: the row must never be there without it.
    pub async fn complete_artifact(
        &self,
        artifact: ArtifactId,
        stored: &StoredObject,
        grace: Duration,
        origin: &Origin,
    ) -> Result<CompletedArtifact, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let completed = self.complete(&mut transaction, artifact, None, stored, grace, origin).await?;
        transaction.commit().await?;
        Ok(completed)
    }

    /// The part of it that is the same for whoever completes. `of`: the attempt that must have left it; None: none must have.
    pub(super) async fn complete(
        &self,
        connection: &mut PgConnection,
        artifact: ArtifactId,
        of: Option<AttemptId>,
        stored: &StoredObject,
        grace: Duration,
        origin: &Origin,
    ) -> Result<CompletedArtifact, StoreError> {
        let id = artifact.as_uuid();
        let row = sqlx::query!(
            "SELECT project_id, name, state, size, sha256, attempt_id FROM artifacts WHERE id = $1 FOR NO KEY UPDATE",
            id
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(CompletedArtifact::NotFound) };
        let next = state(&row.state)?.next(ArtifactEvent::Completed);
        let Some(next) = next.filter(|_| row.attempt_id == of.map(AttemptId::as_uuid)) else {
            let Some(found) = by_id(connection, id).await? else { return Ok(CompletedArtifact::NotFound) };
            let is_same = found.state == ArtifactState::Ready
                && (found.size, found.sha256) == (Some(stored.size), Some(stored.sha256));
            return Ok(if is_same { CompletedArtifact::Ready(found) } else { CompletedArtifact::Ended(found) });
        };
        let upload = lock_upload(connection, id).await?.filter(|(place, _)| place.key == stored.key);
        let Some((place, _)) = upload else { return Ok(CompletedArtifact::Restarted) };
        let project = ProjectId::from_uuid(row.project_id);
        let object = find_or_make_object(connection, project, stored, grace).await?;
        let version = sqlx::query_scalar!(
            "INSERT INTO artifact_names (project_id, name, newest) VALUES ($1, $2, 1)
             ON CONFLICT (project_id, name) DO UPDATE SET newest = artifact_names.newest + 1 RETURNING newest",
            row.project_id,
            row.name
        )
        .fetch_one(&mut *connection)
        .await?;
        sqlx::query!(
            "UPDATE artifacts SET state = $2, version = $3, size = $4, sha256 = $5, object_id = $6, ready_at = now() WHERE id = $1",
            id,
            next.as_str(),
            version,
            stored.size as i64,
            &stored.sha256.0[..],
            object
        )
        .execute(&mut *connection)
        .await?;
        delete_parts(connection, id, place.newest_part).await?;
        sqlx::query!("DELETE FROM artifact_uploads WHERE artifact_id = $1", id).execute(&mut *connection).await?;
        let mut detail = json!({ "name": row.name, "version": version, "size": stored.size, "sha256": stored.sha256 });
        if let Some(attempt) = of {
            detail["attempt"] = json!(attempt);
        }
        self.write_audit(connection, Some(project), origin, "artifact.put", &id.to_string(), &detail).await?;
        let ready = by_id(connection, id).await?;
        Ok(ready.map_or(CompletedArtifact::NotFound, CompletedArtifact::Ready))
    }
}

/// The object with this content, locked: whoever drops what nobody needs waits, and then sees that somebody does.
async fn find_or_make_object(
    connection: &mut PgConnection,
    project: ProjectId,
    stored: &StoredObject,
    grace: Duration,
) -> Result<Uuid, StoreError> {
    let object = sqlx::query!(
        "INSERT INTO artifact_objects (id, project_id, sha256, parts_digest, size, key, parts) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (project_id, sha256, parts_digest) WHERE corrupt_at IS NULL
         DO UPDATE SET parts = COALESCE(artifact_objects.parts, excluded.parts) RETURNING id, key",
        Uuid::now_v7(),
        project.as_uuid(),
        &stored.sha256.0[..],
        &stored.parts_digest.0[..],
        stored.size as i64,
        stored.key,
        recorded(&stored.parts)
    )
    .fetch_one(&mut *connection)
    .await?;
    if object.key != stored.key {
        garbage::add(connection, &stored.key, None, None, grace).await?;
    }
    Ok(object.id)
}
