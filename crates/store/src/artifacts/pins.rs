//! What tasks read: names are looked up once, at submission, and what they meant stays for as long as a task that has not ended reads it.
//!
//! An artifact's row is the lock: whoever makes or retries a task that reads it holds it shared, whoever removes it holds it alone.

use super::read::digest;
use crate::{Store, StoreError};
use domain::{
    artifact::{ArtifactKind, ArtifactRef},
    ids::{ArtifactId, ProjectId, TaskId},
    spec::PinnedArtifact,
};
use sqlx::PgConnection;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Names that one statement looks up: as many as a task may have.
const NAMES_AT_ONCE: usize = 64;
/// Readers that are looked at together.
const READERS_AT_ONCE: i64 = 50;
/// What was forgotten costs a buffer each, at most: so many slices are looked at again by one statement.
const SLICES_PASSED_AT_ONCE: usize = 8;
/// Of the tasks that read an artifact so many are named.
const READERS_NAMED: i64 = 5;

impl Store {
    /// What these names mean now, each in its project: of all that are ready. One answer each, in their order.
    pub async fn pin_inputs(
        &self,
        wanted: &[(ProjectId, ArtifactRef)],
    ) -> Result<Vec<Option<PinnedArtifact>>, StoreError> {
        let mut pinned = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(NAMES_AT_ONCE) {
            let mut found: Vec<Option<PinnedArtifact>> = vec![None; some.len()];
            macro_rules! column {
                ($name:pat => $value:expr) => {
                    some.iter().map(|(_, name)| if let $name = name { Some($value) } else { None }).collect::<Vec<_>>()
                };
            }
            // No artifact has a version that is no i32.
            let version = |version: u32| i32::try_from(version).unwrap_or(i32::MAX);
            let rows = sqlx::query!(
                r#"SELECT w.place AS "place!", a.id AS "id!", a.name AS "name!", a.version AS "version!", a.kind AS "kind!", a.size AS "size!",
                          a.sha256 AS "sha256!"
                   FROM UNNEST($1::uuid[], $2::text[], $3::int[], $4::bytea[], $5::uuid[]) WITH ORDINALITY AS w(project_id, name, version, sha256, id, place)
                   CROSS JOIN LATERAL (
                     (SELECT id, name, version, kind, size, sha256 FROM artifacts
                      WHERE w.version IS NULL AND project_id = w.project_id AND name = w.name AND state = 'ready' ORDER BY version DESC LIMIT 1)
                     UNION ALL
                     (SELECT id, name, version, kind, size, sha256 FROM artifacts
                      WHERE project_id = w.project_id AND name = w.name AND version = w.version AND state = 'ready')
                     UNION ALL
                     (SELECT id, name, version, kind, size, sha256 FROM artifacts
                      WHERE project_id = w.project_id AND sha256 = w.sha256 AND state = 'ready' ORDER BY id DESC LIMIT 1)
                     UNION ALL
                     (SELECT id, name, version, kind, size, sha256 FROM artifacts WHERE id = w.id AND project_id = w.project_id AND state = 'ready')) a"#,
                &some.iter().map(|(project, _)| project.as_uuid()).collect::<Vec<_>>(),
                &column!(ArtifactRef::Latest(name) | ArtifactRef::Version(name, _) => name.clone()) as &[Option<String>],
                &column!(ArtifactRef::Version(_, number) => version(*number)) as &[Option<i32>],
                &column!(ArtifactRef::Digest(digest) => digest.0.to_vec()) as &[Option<Vec<u8>>],
                &column!(ArtifactRef::Id(id) => id.as_uuid()) as &[Option<Uuid>],
            )
            .fetch_all(self.pool_for(some.len()))
            .await?;
            for row in rows {
                let kind = ArtifactKind::parse(&row.kind)
                    .ok_or_else(|| StoreError::Corrupt(format!("{:?} is no kind of an artifact", row.kind)))?;
                let place = usize::try_from(row.place - 1).ok().and_then(|place| found.get_mut(place));
                if let Some(place) = place {
                    *place = Some(PinnedArtifact {
                        id: ArtifactId::from_uuid(row.id),
                        name: row.name,
                        version: row.version.unsigned_abs(),
                        kind,
                        size: row.size.unsigned_abs(),
                        sha256: digest(&row.sha256)?,
                    });
                }
            }
            pinned.extend(found);
        }
        Ok(pinned)
    }

    /// Forgets which tasks read an artifact that have ended: there may be many of them, and one that is run again says so itself.
    pub(super) async fn forget_ended_readers(&self, artifact: ArtifactId) -> Result<PassedOver, StoreError> {
        let (artifact, mut after) = (artifact.as_uuid(), Uuid::nil());
        let (mut passed, mut looked_at) = (PassedOver::default(), 0_usize);
        loop {
            let some = sqlx::query!(
                r#"SELECT i.task_id, EXISTS (SELECT FROM task_state s WHERE s.task_id = i.task_id AND s.ended_at IS NULL) AS "lives!"
                   FROM task_inputs i WHERE i.artifact_id = $1 AND i.task_id > $2 ORDER BY i.task_id LIMIT $3"#,
                artifact,
                after,
                READERS_AT_ONCE
            )
            .fetch_all(self.pool_for(1))
            .await?;
            let is_end = (some.len() as i64) < READERS_AT_ONCE;
            after = some.last().map_or(after, |last| last.task_id);
            let ended: Vec<Uuid> = some.iter().filter(|reader| !reader.lives).map(|reader| reader.task_id).collect();
            if !ended.is_empty() {
                // One that is run again at this moment is locked, and stays.
                sqlx::query!(
                    "WITH over AS (SELECT task_id FROM task_state WHERE task_id = ANY($2) AND ended_at IS NOT NULL ORDER BY task_id FOR SHARE SKIP LOCKED)
                     DELETE FROM task_inputs WHERE artifact_id = $1 AND task_id = ANY(ARRAY(SELECT task_id FROM over))",
                    artifact,
                    &ended
                )
                .execute(self.pool_for(1))
                .await?;
            }
            // Those that live are enough to know that it stays.
            if is_end || some.len() - ended.len() >= READERS_NAMED as usize {
                return Ok(passed);
            }
            looked_at += 1;
            if looked_at % SLICES_PASSED_AT_ONCE == 0 {
                passed.0.push(after);
            }
        }
    }
}

/// Up to where the readers of an artifact were looked at, slice by slice. Who looks at them again does it in the same slices: what was forgotten
/// is still in the index for a while, and one statement would walk over all of it.
#[derive(Debug, Default)]
pub(super) struct PassedOver(Vec<Uuid>);

/// Of these artifacts those that are ready, held until the end of the transaction.
pub(crate) async fn hold_ready(
    connection: &mut PgConnection,
    artifacts: &BTreeSet<Uuid>,
) -> Result<BTreeSet<Uuid>, StoreError> {
    let ids: Vec<Uuid> = artifacts.iter().copied().collect();
    let ready = sqlx::query_scalar!(
        "SELECT id FROM artifacts WHERE id = ANY($1) AND state = 'ready' ORDER BY id FOR SHARE",
        &ids
    );
    Ok(ready.fetch_all(connection).await?.into_iter().collect())
}

/// Writes down what tasks read. What they read is held by this transaction.
pub(crate) async fn note_readers(connection: &mut PgConnection, readers: &[(Uuid, TaskId)]) -> Result<(), StoreError> {
    if readers.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO task_inputs (artifact_id, task_id) SELECT * FROM UNNEST($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING",
        &readers.iter().map(|(artifact, _)| *artifact).collect::<Vec<_>>(),
        &readers.iter().map(|(_, task)| task.as_uuid()).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Some of the tasks that have not ended and read this artifact, whose row is locked.
pub(super) async fn live_readers(
    connection: &mut PgConnection,
    artifact: Uuid,
    passed: &PassedOver,
) -> Result<Vec<TaskId>, StoreError> {
    let (mut readers, mut after) = (Vec::new(), Uuid::nil());
    for to in passed.0.iter().copied().chain([Uuid::max()]) {
        let some = sqlx::query_scalar!(
            "SELECT i.task_id FROM task_inputs i JOIN task_state s ON s.task_id = i.task_id
             WHERE i.artifact_id = $1 AND i.task_id > $2 AND i.task_id <= $3 AND s.ended_at IS NULL ORDER BY i.task_id LIMIT $4",
            artifact,
            after,
            to,
            READERS_NAMED - readers.len() as i64
        );
        readers.extend(some.fetch_all(&mut *connection).await?.into_iter().map(TaskId::from_uuid));
        if readers.len() as i64 >= READERS_NAMED {
            break;
        }
        after = to;
    }
    Ok(readers)
}
