//! Work on nodes that are away: queues what may be replaced, and gives up what a node can't have any more.

use crate::{
    Leadership, Store, StoreError, Topic, leader,
    rows::{load_attempts, lock_tasks, now, save_attempts, save_tasks},
};
use domain::{
    Timestamp,
    attempt::AttemptRow,
    ids::{AttemptId, NodeId},
    lifecycle::{self, CancelVerdict},
};
use uuid::Uuid;

impl Store {
    /// Queues tasks whose node had been offline at `as_of` for longer than their `replace_after`, at most `limit`. Returns how many.
    /// State and fence stay: the old attempt may still come back before the new one is leased. A task that is to be cancelled waits
    /// for nobody: it ends, since its node may never confirm.
    ///
    /// `as_of` is when the sweep looked at the database's clock: a step since then is not yet added to the deadlines.
    pub async fn queue_replaceable(
        &self,
        leadership: &Leadership,
        as_of: Timestamp,
        limit: i64,
    ) -> Result<usize, StoreError> {
        let mut transaction = self.pool.begin().await?;
        leader::require(&mut transaction, leadership).await?;
        // The nodes' rows are locked as when a node comes back: whichever of the two is first, the other one sees it.
        let due = sqlx::query_scalar!(
            r#"SELECT a.task_id FROM attempts a JOIN node_live l ON l.node_id = a.node_id JOIN task_state s ON s.task_id = a.task_id JOIN tasks t ON t.id = a.task_id
               WHERE a.reserved AND a.ended_at IS NULL AND s.live_attempt_id = a.id AND l.offline_since IS NOT NULL
                 AND (s.cancel_requested OR NOT s.queued AND
                      l.offline_since + ((t.spec->'on_node_loss'->>'replace_after_ms')::bigint * interval '1 millisecond') <= $2)
               ORDER BY a.task_id LIMIT $1 FOR SHARE OF l"#,
            limit,
            as_of
        )
        .fetch_all(&mut *transaction)
        .await?;
        let tasks = lock_tasks(&mut transaction, &due).await?;
        let unwanted: Vec<Uuid> = tasks
            .iter()
            .filter(|task| task.cancel_requested)
            .filter_map(|task| task.live)
            .map(AttemptId::as_uuid)
            .collect();
        let mut unwanted = load_attempts(&mut transaction, &unwanted).await?;
        let at = now(&mut transaction).await?;
        let mut changed = Vec::new();
        for mut task in tasks {
            let events = if task.cancel_requested {
                let attempt = unwanted.iter_mut().find(|attempt| task.live == Some(attempt.id));
                match lifecycle::cancel(&mut task, attempt, true, at) {
                    CancelVerdict::Cancelled(events) => Some(events),
                    CancelVerdict::Requested(_) | CancelVerdict::Repeated | CancelVerdict::AlreadyEnded => None,
                }
            } else {
                lifecycle::allow_replacement(&mut task)
            };
            changed.extend(events.map(|events| (task, events)));
        }
        save_attempts(&mut transaction, &unwanted).await?;
        save_tasks(&mut transaction, &changed).await?;
        transaction.commit().await?;
        if !changed.is_empty() {
            self.wakeups.publish(changed.iter().map(|(task, _)| Topic::Task(task.id)).chain([Topic::Queue]));
        }
        Ok(changed.len())
    }
}

/// Gives up attempts that their node does not have any more: live ones are placed again, and none holds resources there.
pub(crate) async fn give_up(
    connection: &mut sqlx::PgConnection,
    node: NodeId,
    attempts: &[Uuid],
    because: &str,
) -> Result<Vec<Topic>, StoreError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let task_ids = sqlx::query_scalar!(
        "SELECT DISTINCT task_id FROM attempts WHERE id = ANY($1) AND node_id = $2",
        attempts,
        node.as_uuid()
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut tasks = lock_tasks(&mut *connection, &task_ids).await?;
    let mut rows: Vec<AttemptRow> = load_attempts(&mut *connection, attempts).await?;
    let at = now(&mut *connection).await?;
    let mut changed = Vec::new();
    for attempt in &mut rows {
        attempt.reserved = false;
        if let Some(place) = tasks.iter().position(|task| task.id == attempt.task && task.live == Some(attempt.id))
            && let Some(events) = lifecycle::give_up(&mut tasks[place], attempt, because, at)
        {
            changed.push((tasks.swap_remove(place), events));
        }
    }
    save_attempts(&mut *connection, &rows).await?;
    save_tasks(&mut *connection, &changed).await?;
    let ended = rows.iter().map(|attempt: &AttemptRow| attempt.id).collect::<Vec<AttemptId>>();
    Ok(changed
        .iter()
        .map(|(task, _)| Topic::Task(task.id))
        .chain(ended.into_iter().map(Topic::Log))
        .chain([Topic::Queue])
        .collect())
}
