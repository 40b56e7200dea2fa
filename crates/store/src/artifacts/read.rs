//! One artifact, by whatever names it.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
};
use chrono::{DateTime, Utc};
use domain::{
    artifact::{ArtifactKind, ArtifactRef, ArtifactState, Sha256Digest},
    ids::{ArtifactId, AttemptId, ProjectId, TaskId},
    principal::Scope,
};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactView {
    pub id: ArtifactId,
    pub project: ProjectId,
    pub project_slug: String,
    pub name: String,
    pub version: Option<u32>,
    pub kind: ArtifactKind,
    pub state: ArtifactState,
    pub size: Option<u64>,
    pub sha256: Option<Sha256Digest>,
    pub object: Option<Uuid>,
    pub media_type: String,
    pub file_name: String,
    pub labels: BTreeMap<String, String>,
    pub pinned: bool,
    pub attempt: Option<AttemptId>,
    /// The task that goes on from it, if it is a checkpoint.
    pub checkpoint_of: Option<TaskId>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub ready_at: Option<DateTime<Utc>>,
    /// While it is uploaded: the bytes that the store has.
    pub stored_bytes: Option<u64>,
    /// While it is uploaded.
    pub part_size: Option<u64>,
    /// While it is uploaded, where parts may differ in size.
    pub least_part: Option<u64>,
}

pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) project_id: Uuid,
    pub(super) slug: String,
    pub(super) name: String,
    pub(super) version: Option<i32>,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) size: Option<i64>,
    pub(super) sha256: Option<Vec<u8>>,
    pub(super) object_id: Option<Uuid>,
    pub(super) media_type: String,
    pub(super) file_name: String,
    pub(super) labels: JsonText,
    pub(super) pinned: bool,
    pub(super) attempt_id: Option<Uuid>,
    pub(super) checkpoint_of: Option<Uuid>,
    pub(super) created_by_name: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) ready_at: Option<DateTime<Utc>>,
    pub(super) stored_bytes: Option<i64>,
    pub(super) part_size: Option<i64>,
    pub(super) least_part: Option<i64>,
}

/// Every column of a [`Record`], of the artifacts that the rest of the statement says.
macro_rules! select_artifacts {
    ($which:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::artifacts::read::Record,
            r#"SELECT a.id, a.project_id, p.slug, a.name, a.version, a.kind, a.state, a.size, a.sha256, a.object_id, a.media_type, a.file_name,
                      a.labels AS "labels: crate::json::JsonText", a.pinned, a.attempt_id, a.checkpoint_of, a.created_by_name, a.created_at, a.ready_at,
                      u.stored_bytes AS "stored_bytes?", u.part_size AS "part_size?", u.least_part
               FROM artifacts a JOIN projects p ON p.id = a.project_id LEFT JOIN artifact_uploads u ON u.artifact_id = a.id "# + $which
            $(, $argument)*
        )
    };
}
pub(super) use select_artifacts;

impl Store {
    /// The artifact of this name. A name and a checksum are looked up in `project`, an id wherever the scope reaches. Only what is ready is the
    /// newest or has a checksum; a version may be corrupt, and an id be in any state.
    pub async fn find_artifact(
        &self,
        scope: Scope,
        project: ProjectId,
        name: &ArtifactRef,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let (project, pool) = (project.as_uuid(), self.pool_for(1));
        let found = match name {
            ArtifactRef::Latest(name) => {
                select_artifacts!(
                    "WHERE a.project_id = $1 AND a.name = $2 AND a.state = 'ready' ORDER BY a.version DESC LIMIT 1",
                    project,
                    name
                )
                .fetch_optional(pool)
                .await?
            }
            ArtifactRef::Version(name, version) => {
                // No artifact has a version that is no i32.
                let Ok(version) = i32::try_from(*version) else { return Ok(None) };
                select_artifacts!(
                    "WHERE a.project_id = $1 AND a.name = $2 AND a.version = $3 AND a.state IN ('ready', 'corrupt')",
                    project,
                    name,
                    version
                )
                .fetch_optional(pool)
                .await?
            }
            ArtifactRef::Digest(digest) => {
                select_artifacts!(
                    "WHERE a.project_id = $1 AND a.sha256 = $2 AND a.state = 'ready' ORDER BY a.id DESC LIMIT 1",
                    project,
                    &digest.0[..]
                )
                .fetch_optional(pool)
                .await?
            }
            ArtifactRef::Id(id) => {
                select_artifacts!(
                    "WHERE a.id = $1 AND ($2::uuid IS NULL OR a.project_id = $2)",
                    id.as_uuid(),
                    scope.project().map(ProjectId::as_uuid)
                )
                .fetch_optional(pool)
                .await?
            }
        };
        found.map(view).transpose()
    }

    /// The object store's key of an object's bytes. None: they were dropped.
    pub async fn object_key(&self, object: Uuid) -> Result<Option<String>, StoreError> {
        let key = sqlx::query_scalar!("SELECT key FROM artifact_objects WHERE id = $1", object);
        Ok(key.fetch_optional(self.pool_for(1)).await?)
    }
}

pub(super) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<Option<ArtifactView>, StoreError> {
    select_artifacts!("WHERE a.id = $1", id).fetch_optional(connection).await?.map(view).transpose()
}

pub(super) fn view(record: Record) -> Result<ArtifactView, StoreError> {
    Ok(ArtifactView {
        id: ArtifactId::from_uuid(record.id),
        project: ProjectId::from_uuid(record.project_id),
        project_slug: record.slug,
        name: record.name,
        version: record.version.map(i32::unsigned_abs),
        kind: ArtifactKind::parse(&record.kind).ok_or_else(|| no_word(&record.kind))?,
        state: state(&record.state)?,
        size: record.size.map(i64::unsigned_abs),
        sha256: record.sha256.as_deref().map(digest).transpose()?,
        object: record.object_id,
        media_type: record.media_type,
        file_name: record.file_name,
        labels: read_json(record.labels)?,
        pinned: record.pinned,
        attempt: record.attempt_id.map(AttemptId::from_uuid),
        checkpoint_of: record.checkpoint_of.map(TaskId::from_uuid),
        created_by: record.created_by_name,
        created_at: record.created_at,
        ready_at: record.ready_at,
        stored_bytes: record.stored_bytes.map(i64::unsigned_abs),
        part_size: record.part_size.map(i64::unsigned_abs),
        least_part: record.least_part.map(i64::unsigned_abs),
    })
}

pub(super) fn state(text: &str) -> Result<ArtifactState, StoreError> {
    ArtifactState::parse(text).ok_or_else(|| no_word(text))
}

pub(crate) fn digest(bytes: &[u8]) -> Result<Sha256Digest, StoreError> {
    bytes.try_into().map(Sha256Digest).map_err(|_| StoreError::Corrupt("a checksum has not 32 bytes".to_owned()))
}

fn no_word(text: &str) -> StoreError {
    StoreError::Corrupt(format!("{text:?} is no kind and no state of an artifact"))
}
