//! A database that was restored from a backup has forgotten what happened since; the nodes have not.

use crate::StoreError;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::str::FromStr;

/// What came of [`declare_restored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Fences are given in this epoch from now on.
    Epoch(i32),
    /// So many connections of services are open: nothing was changed.
    InUse(i64),
}

/// Begins a new epoch after a restore, so that no fence is given twice and what was leased since the backup is known by its fence.
/// Nothing is placed until every node that was there has said hello, or is offline, and exclusive tasks wait for as long as a process
/// of theirs may be alive anywhere. Harmless to repeat.
///
/// The epoch comes from the clock too, in steps of ten minutes: a second restore of one backup must not repeat the first one's.
pub async fn declare_restored(url: &str) -> Result<Restored, StoreError> {
    // A connection of its own and by another name: those of services are counted.
    let options = PgConnectOptions::from_str(url).map_err(StoreError::BadUrl)?.application_name("unidesk migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    let mut transaction = connection.begin().await?;
    let others = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'unidesk'"#
    )
    .fetch_one(&mut *transaction)
    .await?;
    if others > 0 {
        return Ok(Restored::InUse(others));
    }
    let epoch = sqlx::query_scalar!(
        "UPDATE cluster SET restored_at = now(),
                epoch = GREATEST(epoch + 1, (extract(epoch FROM now() - timestamptz '2026-01-01 00:00:00Z') / 600)::integer) RETURNING epoch"
    )
    .fetch_one(&mut *transaction)
    .await?;
    // Numbers that a process frozen since before the restore may still hold are passed by. And what the backup says of a node's
    // absence is of then: it gets its full time to come back. What was revoked by then stays away.
    sqlx::query!("UPDATE leader SET epoch = epoch + 4294967296").execute(&mut *transaction).await?;
    sqlx::query!(
        "UPDATE node_live SET session_epoch = session_epoch + 4294967296, connected = false, connected_since = NULL,
                offline_at_ms = NULL, offline_since = CASE WHEN (SELECT admission = 'revoked' FROM nodes WHERE id = node_id) THEN offline_since END"
    )
    .execute(&mut *transaction)
    .await?;
    // Of exclusive work any node may have a process that was forgotten, also one that this database has never heard of. All of them have
    // ended by themselves when nobody has renewed their leases for as long as those are.
    sqlx::query!(
        "INSERT INTO exclusive_waits AS w (task_id, replace_after_ms, offline_after_ms)
         SELECT t.id, (t.spec->'on_node_loss'->>'replace_after_ms')::bigint,
                GREATEST(c.offline_after_ms, (SELECT max(offline_after_ms) FROM attempts WHERE reserved AND offline_after_ms IS NOT NULL))
         FROM tasks t CROSS JOIN cluster c WHERE (t.spec->'on_node_loss'->>'exclusive')::boolean
         ON CONFLICT (task_id) DO UPDATE SET offline_after_ms = GREATEST(w.offline_after_ms, excluded.offline_after_ms), until_ms = NULL"
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Restored::Epoch(epoch))
}
