//! A database that was restored from a backup has forgotten what happened since; the nodes have not.

use sqlx::PgConnection;

/// Waits for every service to be between two operations, and holds them there until the transaction ends: in the order in which they
/// lock, so that none of them is in the way. For the beginning of a transaction.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // It reads all tasks, and waits for whatever the services have begun.
    for setting in ["statement_timeout = 0", "lock_timeout = '60s'", "enable_seqscan = on", "enable_hashjoin = on"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("SET LOCAL {setting}"))).execute(&mut *connection).await?;
    }
    sqlx::query("LOCK TABLE leader IN EXCLUSIVE MODE").execute(&mut *connection).await?;
    sqlx::query!("SELECT epoch FROM cluster FOR UPDATE").fetch_one(&mut *connection).await?;
    sqlx::query("LOCK TABLE node_live IN EXCLUSIVE MODE").execute(&mut *connection).await?;
    Ok(())
}

/// Begins a new epoch, above this one, so that no fence is given twice and what was leased since the backup is known by its fence.
/// Nothing is placed until every node that was there has said hello, or is offline, and exclusive tasks wait for as long as a process
/// of theirs may be alive anywhere. Services may be connected: they lead no more and their sessions are over, so they begin anew.
///
/// The epoch comes from the clock too, in steps of ten minutes: a second restore of one backup must not repeat the first one's.
pub(crate) async fn begin_epoch(connection: &mut PgConnection, above: i32) -> Result<i32, sqlx::Error> {
    let epoch = sqlx::query_scalar!(
        "UPDATE cluster SET restored_at = now(),
                epoch = GREATEST(epoch + 1, (extract(epoch FROM now() - timestamptz '2026-01-01 00:00:00Z') / 600)::integer, $1 + 1) RETURNING epoch",
        above
    )
    .fetch_one(&mut *connection)
    .await?;
    // Numbers that a process frozen since before the restore may still hold are passed by. And what the backup says of a node's
    // absence is of then: it gets its full time to come back. What was revoked by then stays away.
    sqlx::query!("UPDATE leader SET epoch = epoch + 4294967296").execute(&mut *connection).await?;
    sqlx::query!(
        "UPDATE node_live SET session_epoch = session_epoch + 4294967296, connected = false, connected_since = NULL,
                offline_at_ms = NULL, offline_since = CASE WHEN (SELECT admission = 'revoked' FROM nodes WHERE id = node_id) THEN offline_since END"
    )
    .execute(&mut *connection)
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
    .execute(&mut *connection)
    .await?;
    Ok(epoch)
}
