//! What keeps a second process of an exclusive task from starting while the first may still be alive.

use crate::StoreError;
use domain::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Those of `tasks` that must not be placed yet: they are exclusive, and an earlier attempt may have a process. It has none once its
/// node has released it, or has been offline for `replace_after`: then the node's own side has ended it. After a restore any node
/// that has not said hello yet may have an attempt that was forgotten.
pub(crate) async fn held_back(
    connection: &mut sqlx::PgConnection,
    tasks: &[Uuid],
) -> Result<BTreeSet<Uuid>, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"WITH exclusive AS (
             SELECT id, created_at, (spec->'on_node_loss'->>'replace_after_ms')::bigint * interval '1 millisecond' AS wait
             FROM tasks WHERE id = ANY($1) AND (spec->'on_node_loss'->>'exclusive')::boolean
           )
           SELECT t.id AS "id!" FROM exclusive t
           WHERE EXISTS (SELECT FROM attempts a JOIN node_live l ON l.node_id = a.node_id
                         WHERE a.task_id = t.id AND a.reserved AND (l.offline_since IS NULL OR l.offline_since + t.wait > now()))
              OR EXISTS (SELECT FROM cluster c, node_live l JOIN nodes n ON n.id = l.node_id
                         WHERE t.created_at < c.restored_at AND n.admission <> 'revoked' AND l.instance IS NOT NULL AND l.connected_since IS NULL
                           AND (l.offline_since IS NULL OR l.offline_since + t.wait > now()))"#,
        tasks
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// For the tasks of those of `attempts` that are exclusive: when a process of a node that nobody hears of any more has surely ended,
/// at the latest. By the silence that the lease was made from; a lower one that was set since has not reached the node.
pub(crate) async fn surely_ended(
    connection: &mut sqlx::PgConnection,
    attempts: &[Uuid],
) -> Result<BTreeMap<Uuid, Timestamp>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.id, max(now() + ((t.spec->'on_node_loss'->>'replace_after_ms')::bigint + COALESCE(a.offline_after_ms, c.offline_after_ms))
                                    * interval '1 millisecond') AS "at!"
           FROM attempts a JOIN tasks t ON t.id = a.task_id CROSS JOIN cluster c
           WHERE a.id = ANY($1) AND (t.spec->'on_node_loss'->>'exclusive')::boolean GROUP BY t.id"#,
        attempts
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.at)).collect())
}

/// At most one process of it may be alive.
pub(crate) async fn is_exclusive(connection: &mut sqlx::PgConnection, task: Uuid) -> Result<bool, StoreError> {
    let exclusive =
        sqlx::query_scalar!("SELECT (spec->'on_node_loss'->>'exclusive')::boolean FROM tasks WHERE id = $1", task)
            .fetch_optional(connection)
            .await?;
    Ok(exclusive.flatten() == Some(true))
}
