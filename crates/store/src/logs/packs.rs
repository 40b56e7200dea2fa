//! Packs of archived logs as objects: what a check asks of them, and what becomes of those that nobody needs.

use crate::{Store, StoreError};
use domain::artifact::Sha256Digest;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPack {
    pub id: i32,
    pub key: String,
    pub size: u64,
    pub sha256: Sha256Digest,
    /// Of those that were put into it, so many are still somebody's.
    pub pieces: u64,
}

impl Store {
    /// The next packs after this one, in the order of their making.
    pub async fn packs_after(&self, after: i32, limit: i64) -> Result<Vec<LogPack>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, key, size, sha256, pieces FROM log_packs WHERE id > $1 ORDER BY id LIMIT $2",
            after,
            limit
        );
        let rows = rows.fetch_all(self.pool_for(1)).await?.into_iter();
        rows.map(|row| {
            Ok(LogPack {
                id: row.id,
                key: row.key,
                size: row.size as u64,
                sha256: crate::artifacts::read::digest(&row.sha256)?,
                pieces: row.pieces as u64,
            })
        })
        .collect()
    }

    /// Puts packs of which nothing is anybody's any more on the list of what is deleted, `grace` from now. How many: at most `limit`.
    pub async fn drop_empty_packs(&self, grace: Duration, limit: i64) -> Result<u64, StoreError> {
        let dropped = sqlx::query!(
            "WITH empty AS (DELETE FROM log_packs WHERE id IN (SELECT id FROM log_packs WHERE pieces = 0 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING key)
             INSERT INTO artifact_garbage (key, due_at) SELECT key, now() + make_interval(secs => $1) FROM empty ON CONFLICT DO NOTHING",
            grace.as_secs_f64(),
            limit
        );
        Ok(dropped.execute(self.pool_for(1)).await?.rows_affected())
    }
}

/// Forgets the archived logs of attempts that are deleted. Their chunks must be deleted by an earlier statement: whoever moves one of
/// them at this moment has finished then, so that its rows are seen here, or finds the chunk gone and moves nothing.
pub(crate) async fn forget_archived(connection: &mut PgConnection, attempts: &[Uuid]) -> Result<(), StoreError> {
    let packs = sqlx::query!(
        r#"WITH gone AS (DELETE FROM log_archive WHERE attempt_id = ANY($1) RETURNING pack_id)
           SELECT pack_id AS "pack_id!", count(*)::integer AS "pieces!" FROM gone GROUP BY pack_id ORDER BY pack_id"#,
        attempts
    );
    // One after the other in their order, so that two who delete never wait for each other in a circle.
    for pack in packs.fetch_all(&mut *connection).await? {
        sqlx::query!("UPDATE log_packs SET pieces = pieces - $2 WHERE id = $1", pack.pack_id, pack.pieces)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
