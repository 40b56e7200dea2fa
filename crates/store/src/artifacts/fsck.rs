//! What the check of the object store asks, in bounded bites.

use super::{
    garbage,
    read::{digest, state},
};
use crate::{Store, StoreError};
use domain::{
    artifact::{ArtifactEvent, Sha256Digest},
    ids::ProjectId,
    principal::Origin,
};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactObject {
    pub id: Uuid,
    pub project: ProjectId,
    pub key: String,
    pub size: u64,
    pub sha256: Sha256Digest,
    pub is_corrupt: bool,
}

impl Store {
    /// The next objects after this one, in the order of their ids.
    pub async fn objects_after(&self, after: Uuid, limit: i64) -> Result<Vec<ArtifactObject>, StoreError> {
        sqlx::query!(
            r#"SELECT id, project_id, key, size, sha256, corrupt_at IS NOT NULL AS "is_corrupt!" FROM artifact_objects WHERE id > $1 ORDER BY id LIMIT $2"#,
            after,
            limit
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(ArtifactObject {
                id: row.id,
                project: ProjectId::from_uuid(row.project_id),
                key: row.key,
                size: row.size.unsigned_abs(),
                sha256: digest(&row.sha256)?,
                is_corrupt: row.is_corrupt,
            })
        })
        .collect()
    }

    /// The object that a project has with this content, as far as is known.
    pub async fn object_with_content(
        &self,
        project: ProjectId,
        sha256: Sha256Digest,
        parts_digest: Sha256Digest,
    ) -> Result<Option<ArtifactObject>, StoreError> {
        let row = sqlx::query!(
            "SELECT id, key, size FROM artifact_objects WHERE project_id = $1 AND sha256 = $2 AND parts_digest = $3 AND corrupt_at IS NULL",
            project.as_uuid(),
            &sha256.0[..],
            &parts_digest.0[..]
        )
        .fetch_optional(self.pool_for(1))
        .await?;
        Ok(row.map(|row| ArtifactObject {
            id: row.id,
            project,
            key: row.key,
            size: row.size.unsigned_abs(),
            sha256,
            is_corrupt: false,
        }))
    }

    /// Some artifacts whose bytes these are, as people name them.
    pub async fn artifacts_of_object(&self, object: Uuid) -> Result<Vec<String>, StoreError> {
        let names = sqlx::query_scalar!(
            r#"SELECT name || '@' || version AS "name!" FROM artifacts WHERE object_id = $1 AND state IN ('ready', 'corrupt') ORDER BY id LIMIT 20"#,
            object
        );
        Ok(names.fetch_all(&self.pool).await?)
    }

    /// Which of these keys anything here knows of: an object, a pack of logs, an upload, or the list of what is deleted.
    pub async fn known_keys(&self, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let mut known = BTreeSet::new();
        for some in keys.chunks(50) {
            let found = sqlx::query_scalar!(
                r#"SELECT k.key AS "key!" FROM unnest($1::text[]) AS k(key)
                   WHERE EXISTS (SELECT FROM artifact_objects o WHERE o.key = k.key) OR EXISTS (SELECT FROM artifact_uploads u WHERE u.key = k.key)
                      OR EXISTS (SELECT FROM log_packs p WHERE p.key = k.key)
                      OR EXISTS (SELECT FROM artifact_garbage g WHERE g.key = k.key)"#,
                some
            );
            known.extend(found.fetch_all(&self.pool).await?);
        }
        Ok(known)
    }

    /// Whether a multipart upload of the object store is one of ours that goes on, or waits for its end.
    pub async fn is_known_upload(&self, key: &str, upload_id: &str) -> Result<bool, StoreError> {
        let known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM artifact_uploads WHERE upload_id = $2) OR EXISTS (SELECT FROM artifact_garbage WHERE key = $1 AND upload_id = $2) AS "known!""#,
            key,
            upload_id
        );
        Ok(known.fetch_one(self.pool_for(1)).await?)
    }

    /// The bytes of an object are not what they were: its artifacts are corrupt, and nobody shares it any more. How many there are. Safe to repeat.
    pub async fn mark_corrupt(&self, object: &ArtifactObject, why: &str, origin: &Origin) -> Result<u64, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        sqlx::query!("UPDATE artifact_objects SET corrupt_at = COALESCE(corrupt_at, now()) WHERE id = $1", object.id)
            .execute(&mut *transaction)
            .await?;
        let artifacts = sqlx::query!(
            "SELECT id, state FROM artifacts WHERE object_id = $1 ORDER BY id FOR NO KEY UPDATE",
            object.id
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut marked = 0;
        for artifact in artifacts {
            if let Some(next) = state(&artifact.state)?.next(ArtifactEvent::FoundCorrupt) {
                sqlx::query!("UPDATE artifacts SET state = $2 WHERE id = $1", artifact.id, next.as_str())
                    .execute(&mut *transaction)
                    .await?;
                marked += 1;
            }
        }
        if marked > 0 {
            let detail = json!({ "why": why, "artifacts": marked });
            let project = Some(object.project);
            self.write_audit(&mut transaction, project, origin, "artifact.corrupt", &object.id.to_string(), &detail)
                .await?;
        }
        transaction.commit().await?;
        Ok(marked)
    }

    /// Puts a key that nothing here knows of on the list of what is deleted.
    pub async fn drop_stray(&self, key: &str, grace: Duration) -> Result<(), StoreError> {
        let mut transaction = self.begin_for(1).await?;
        garbage::add(&mut transaction, key, None, None, grace).await?;
        transaction.commit().await?;
        Ok(())
    }
}
