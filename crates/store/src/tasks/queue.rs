//! The queue seen from the side: a task's place in it, and tasks whose wait is over.

use crate::{
    Store, StoreError, Topic,
    rows::{lock_tasks, now, save_tasks},
};
use domain::{ids::TaskId, lifecycle, quantity::show_duration_ms};

/// A task's place in the queue is told exactly up to here.
pub const PLACES_COUNTED: u64 = 1_000;
/// Places that one statement counts. Each may lie on a page of its own.
const PLACES_AT_ONCE: usize = 200;
/// Classes that one statement counts, each by two paths through the index.
const CLASSES_COUNTED_AT_ONCE: usize = 25;
/// Classes that one statement finds.
const CLASSES_AT_ONCE: usize = 80;

impl Store {
    /// Waiting tasks that come before this one by priority and age, whatever turns their projects take, counted to one more than [`PLACES_COUNTED`].
    ///
    /// Counted from the task's own place towards the front, class by class: what was placed lately leaves its entries at the front, and
    /// whoever waits behind many never comes there.
    pub async fn tasks_before(&self, task: TaskId) -> Result<u64, StoreError> {
        let Some(own) = sqlx::query!("SELECT priority, queued_at FROM task_state WHERE task_id = $1", task.as_uuid())
            .fetch_optional(&self.pool)
            .await?
        else {
            return Ok(0);
        };
        let most = PLACES_COUNTED + 1;
        let (mut count, mut below) = (0, i64::MAX);
        loop {
            let classes = self.waiting_classes_below(below).await?;
            let mut left = &classes[..];
            // The place before which the first class that is left goes on.
            let mut from = (own.priority, own.queued_at, task.as_uuid());
            while !left.is_empty() {
                let first = &left[..left.len().min(if from.2 == task.as_uuid() { CLASSES_COUNTED_AT_ONCE } else { 1 })];
                let rows = sqlx::query!(
                    r#"SELECT c.class AS "class!", o.priority AS "priority!", o.queued_at AS "queued_at!", o.task_id AS "task_id!"
                       FROM UNNEST($1::bigint[]) AS c(class) CROSS JOIN LATERAL (
                         (SELECT priority, queued_at, task_id FROM task_state
                          WHERE queued AND class = c.class AND priority = $2 AND (queued_at, task_id) < ($3, $4)
                          ORDER BY priority, queued_at DESC, task_id DESC LIMIT $5)
                         UNION ALL
                         (SELECT priority, queued_at, task_id FROM task_state WHERE queued AND class = c.class AND priority > $2
                          ORDER BY priority, queued_at DESC, task_id DESC LIMIT $5)) AS o
                       LIMIT $5"#,
                    first,
                    from.0,
                    from.1,
                    from.2,
                    PLACES_AT_ONCE as i64
                )
                .fetch_all(&self.pool)
                .await?;
                count += rows.len() as u64;
                if count >= most {
                    return Ok(most);
                }
                match rows.last().filter(|_| rows.len() == PLACES_AT_ONCE) {
                    // The others of these classes were counted to their end.
                    Some(last) => {
                        let at = left.iter().position(|class| *class == last.class).unwrap_or(0);
                        left = &left[at..];
                        from = (last.priority, last.queued_at, last.task_id);
                    }
                    None => {
                        left = &left[first.len()..];
                        from = (own.priority, own.queued_at, task.as_uuid());
                    }
                }
            }
            match classes.last().filter(|_| classes.len() == CLASSES_AT_ONCE) {
                Some(last) => below = *last,
                None => return Ok(count),
            }
        }
    }

    /// Classes of which something waits, the highest number first. Each is found by its last task: entries of what was placed are not
    /// there but at its front.
    async fn waiting_classes_below(&self, below: i64) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"WITH RECURSIVE classes AS (
                 SELECT $1::bigint AS class
                 UNION ALL
                 SELECT (SELECT s.class FROM task_state s WHERE s.queued AND s.class < c.class
                         ORDER BY s.class DESC, s.priority, s.queued_at DESC, s.task_id DESC LIMIT 1)
                 FROM classes c WHERE c.class IS NOT NULL
               ) SELECT class AS "class!" FROM classes WHERE class < $1 LIMIT $2"#,
            below,
            CLASSES_AT_ONCE as i64
        )
        .fetch_all(&self.pool)
        .await?)
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
