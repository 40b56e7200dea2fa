//! The announcement of an upload.

use super::{
    outputs::Holder,
    read::{ArtifactView, by_id},
};
use crate::{RequestHash, Store, StoreError, json::write_json};
use domain::{
    artifact::{ArtifactKind, ArtifactState},
    ids::{ArtifactId, ProjectId, TaskId},
    principal::Principal,
};
use sqlx::PgConnection;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct NewArtifact {
    pub project: ProjectId,
    pub name: String,
    pub kind: ArtifactKind,
    pub size: Option<u64>,
    pub media_type: String,
    pub file_name: String,
    pub labels: BTreeMap<String, String>,
    pub pinned: bool,
    pub part_size: u64,
    /// Where parts may differ in size: the least of all but the last.
    pub least_part: Option<u64>,
    /// Where its bytes will be: chosen by the platform.
    pub key: String,
    /// A caller's key, and the hash of the request that it stands for.
    pub idempotency: Option<(Arc<str>, RequestHash)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reserved {
    New(ArtifactView),
    /// The same request was made before: the upload of then, however far it is.
    Replayed(ArtifactView),
    /// The key stands for another request.
    KeyReused {
        first: ArtifactId,
    },
}

impl Store {
    /// Announces an upload. Safe to repeat with an idempotency key; that of an upload that was given up may be used anew.
    pub async fn reserve_artifact(&self, new: &NewArtifact, by: &Principal) -> Result<Reserved, StoreError> {
        // Whoever was first may take it back between our two looks.
        for _ in 0..3 {
            if let Some(reserved) = self.try_to_reserve(new, by).await? {
                return Ok(reserved);
            }
        }
        Err(StoreError::Busy)
    }

    async fn try_to_reserve(&self, new: &NewArtifact, by: &Principal) -> Result<Option<Reserved>, StoreError> {
        let id = Uuid::now_v7();
        let (key, hash) = new.idempotency.as_ref().map(|(key, hash)| (&**key, &hash[..])).unzip();
        let mut transaction = self.begin_for(1).await?;
        if !insert(&mut transaction, id, new, (by.id.as_uuid(), &by.name), None).await? {
            let first = sqlx::query!(
                "SELECT id, request_hash FROM artifacts WHERE project_id = $1 AND idempotency_key = $2",
                new.project.as_uuid(),
                key
            )
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(first) = first else { return Ok(None) };
            if first.request_hash.as_deref() != hash {
                return Ok(Some(Reserved::KeyReused { first: ArtifactId::from_uuid(first.id) }));
            }
            return Ok(by_id(&mut transaction, first.id).await?.map(Reserved::Replayed));
        }
        let made = by_id(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(made.map(Reserved::New))
    }
}

/// What an attempt stores.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// Which of its task's outputs it is.
    Output(u32),
    /// Of this task.
    Checkpoint(TaskId),
}

/// Artifact and upload. `by`: its maker's id and name; `left`: which attempt stores it, and as what. False: its idempotency key is taken, and nothing
/// was written.
pub(super) async fn insert(
    connection: &mut PgConnection,
    id: Uuid,
    new: &NewArtifact,
    (maker, name): (Uuid, &str),
    left: Option<(Holder, Left)>,
) -> Result<bool, StoreError> {
    let (key, hash) = new.idempotency.as_ref().map(|(key, hash)| (&**key, &hash[..])).unzip();
    let attempt = left.map(|(who, _)| who.held.attempt.as_uuid());
    let (output, checkpoint_of) = match left {
        Some((_, Left::Output(index))) => (Some(index as i32), None),
        Some((_, Left::Checkpoint(task))) => (None, Some(task.as_uuid())),
        None => (None, None),
    };
    let inserted = sqlx::query!(
        "INSERT INTO artifacts (id, project_id, name, kind, state, size, media_type, file_name, labels, pinned, created_by, created_by_name, idempotency_key,
                                request_hash, attempt_id, fence, output_index, checkpoint_of)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING",
        id,
        new.project.as_uuid(),
        new.name,
        new.kind.as_str(),
        ArtifactState::Uploading.as_str(),
        new.size.map(|size| size as i64),
        new.media_type,
        new.file_name,
        write_json(&new.labels) as _,
        new.pinned,
        maker,
        name,
        key,
        hash,
        attempt,
        left.map(|(who, _)| who.held.fence.get()),
        output,
        checkpoint_of,
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO artifact_uploads (artifact_id, key, part_size, least_part, attempt_id) VALUES ($1, $2, $3, $4, $5)",
        id,
        new.key,
        new.part_size as i64,
        new.least_part.map(|least| least as i64),
        attempt
    )
    .execute(connection)
    .await?;
    Ok(true)
}
