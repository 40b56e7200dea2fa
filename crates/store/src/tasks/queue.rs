//! The queue seen from the side: a task's place in it, and tasks whose wait is over.

use crate::{
    Store, StoreError, Topic,
    rows::{lock_tasks, now, save_tasks},
};
use domain::{ids::TaskId, lifecycle, quantity::show_duration_ms};

impl Store {
    /// Waiting tasks that come before this one. Counts at most 10,000.
    pub async fn tasks_before(&self, task: TaskId) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (
                 SELECT 1 FROM task_state o, task_state t
                 WHERE t.task_id = $1 AND o.queued AND (o.priority > t.priority OR o.priority = t.priority AND (o.queued_at, o.task_id) < (t.queued_at, t.task_id))
                 LIMIT 10000) AS before"#,
            task.as_uuid()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count as u64)
    }

    /// Ends tasks whose queue timeout has passed, up to `limit`. Returns how many; fewer than the limit: none is left.
    pub async fn expire_queued(&self, limit: i64) -> Result<usize, StoreError> {
        let mut transaction = self.begin().await?;
        let due = sqlx::query!(
            r#"SELECT s.task_id, (t.spec->>'queue_timeout_ms')::bigint AS timeout_ms FROM task_state s JOIN tasks t ON t.id = s.task_id
               WHERE s.queued AND s.queue_expires_at <= now() AND s.state = 'pending' ORDER BY s.queue_expires_at LIMIT $1"#,
            limit
        )
        .fetch_all(&mut *transaction)
        .await?;
        if due.is_empty() {
            return Ok(0);
        }
        let ids: Vec<_> = due.iter().map(|row| row.task_id).collect();
        let at = now(&mut transaction).await?;
        let mut changed = Vec::new();
        for mut row in lock_tasks(&mut transaction, &ids).await? {
            let timeout_ms = due.iter().find(|d| d.task_id == row.id.as_uuid()).and_then(|d| d.timeout_ms).unwrap_or(0);
            if row.queued
                && let Some(events) = lifecycle::expire_in_queue(&mut row, &show_duration_ms(timeout_ms as u64), at)
            {
                changed.push((row, events));
            }
        }
        save_tasks(&mut transaction, &changed).await?;
        transaction.commit().await?;
        self.wakeups.publish(changed.iter().map(|(row, _)| Topic::Task(row.id)));
        Ok(ids.len())
    }
}
