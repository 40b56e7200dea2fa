//! What keeps a second process of an exclusive task from starting while the first may still be alive.
//!
//! All of it is counted in `sweep.seen_ms`, the time that sweeps have measured: who sets the database's clock forward shortens no wait.

use crate::StoreError;
use domain::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Those of `tasks` that must not be placed yet: they are exclusive, and an earlier attempt may have a process. It has none once its
/// node has released it, or has been offline for `replace_after`: then the node's own side has ended it. Where nobody can ask the node,
/// a wait stands in `exclusive_waits` until a sweep finds that it is over.
pub(crate) async fn held_back(
    connection: &mut sqlx::PgConnection,
    tasks: &[Uuid],
) -> Result<BTreeSet<Uuid>, StoreError> {
    if tasks.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = sqlx::query_scalar!(
        r#"WITH exclusive AS (
             SELECT id, (spec->'on_node_loss'->>'replace_after_ms')::bigint AS wait_ms
             FROM tasks WHERE id = ANY($1) AND (spec->'on_node_loss'->>'exclusive')::boolean
           )
           SELECT t.id AS "id!" FROM exclusive t CROSS JOIN sweep s
           WHERE EXISTS (SELECT FROM attempts a JOIN node_live l ON l.node_id = a.node_id
                         WHERE a.task_id = t.id AND a.reserved IS NOT FALSE AND
                           (l.offline_since IS NULL OR l.offline_at_ms IS NULL OR l.offline_at_ms + t.wait_ms > s.seen_ms))
              OR EXISTS (SELECT FROM exclusive_waits w WHERE w.task_id = t.id)"#,
        tasks
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Has the tasks of those of `attempts` that are exclusive wait until a process of a node that nobody hears of any more has surely
/// ended: by the silence that its lease was made from, since a lower one that was set later has not reached the node. Returns when that
/// is, about, for people.
pub(crate) async fn wait_for(
    connection: &mut sqlx::PgConnection,
    attempts: &[Uuid],
) -> Result<BTreeMap<Uuid, Timestamp>, StoreError> {
    let rows = sqlx::query!(
        r#"INSERT INTO exclusive_waits AS w (task_id, replace_after_ms, offline_after_ms)
           SELECT t.id, (t.spec->'on_node_loss'->>'replace_after_ms')::bigint, max(COALESCE(a.offline_after_ms, c.offline_after_ms))
           FROM attempts a JOIN tasks t ON t.id = a.task_id CROSS JOIN cluster c
           WHERE a.id = ANY($1) AND (t.spec->'on_node_loss'->>'exclusive')::boolean GROUP BY t.id
           ON CONFLICT (task_id) DO UPDATE SET offline_after_ms = GREATEST(w.offline_after_ms, excluded.offline_after_ms), until_ms = NULL
           RETURNING task_id, now() + (w.replace_after_ms + w.offline_after_ms) * interval '1 millisecond' AS "at!""#,
        attempts
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.task_id, row.at)).collect())
}
