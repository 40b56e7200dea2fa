//! Deletes what has ended long ago, with all rows that belong to it.

use crate::{Store, StoreError, logs::packs::forget_archived, rows::now};
use chrono::TimeDelta;
use domain::ids::TaskId;
use std::collections::BTreeSet;
use uuid::Uuid;

/// One step of a walk over all tasks, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredTasks {
    pub deleted: u64,
    /// Where the next step begins; None: the walk is over.
    pub next: Option<TaskId>,
}

/// Ids that one statement looks for.
const SOUGHT_AT_ONCE: usize = 100;

impl Store {
    /// Of these tasks, which were all accepted once, those that were deleted since.
    pub async fn deleted_of(&self, tasks: &[TaskId]) -> Result<BTreeSet<TaskId>, StoreError> {
        if tasks.is_empty() {
            return Ok(BTreeSet::new());
        }
        let last = sqlx::query_scalar!("SELECT tasks_expired_to FROM cluster").fetch_one(&self.pool).await?;
        let Some(last) = last else { return Ok(BTreeSet::new()) };
        let old: Vec<Uuid> = tasks.iter().map(|task| task.as_uuid()).filter(|task| *task <= last).collect();
        let mut deleted = BTreeSet::new();
        for old in old.chunks(SOUGHT_AT_ONCE) {
            let gone = sqlx::query_scalar!(
                r#"SELECT w.id AS "id!" FROM UNNEST($1::uuid[]) AS w(id) WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = w.id)"#,
                old
            )
            .fetch_all(&self.pool)
            .await?;
            deleted.extend(gone.into_iter().map(TaskId::from_uuid));
        }
        Ok(deleted)
    }

    /// Of the next `limit` tasks after `after`, deletes those that ended longer ago than `age`, by the database's clock, and hold nothing:
    /// no attempt of theirs may still run or be unreleased anywhere, and no exclusive wait counts for them. With state, attempts, history
    /// and logs; idempotency keys go by their own age. Whoever runs such a task again at this moment wins, or finds it gone. Safe to
    /// repeat, and while others do the same.
    pub async fn expire_tasks(
        &self,
        age: TimeDelta,
        after: Option<TaskId>,
        limit: i64,
    ) -> Result<ExpiredTasks, StoreError> {
        let mut transaction = self.begin().await?;
        let before = now(&mut transaction).await? - age;
        // Ids begin with the time of their making, and nothing ends before it was made.
        let made_before = Uuid::from_u128(u128::from(before.timestamp_millis().max(0).unsigned_abs()) << 80);
        let old = sqlx::query_scalar!(
            "SELECT id FROM tasks WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3",
            after.map_or(Uuid::nil(), TaskId::as_uuid),
            made_before,
            limit
        )
        .fetch_all(&mut *transaction)
        .await?;
        let next = if (old.len() as i64) < limit { None } else { old.last().copied().map(TaskId::from_uuid) };
        // Locked as by everyone who changes a task. One that is locked is being changed: another walk looks at it again.
        let due = sqlx::query_scalar!(
            "SELECT s.task_id FROM task_state s WHERE s.task_id = ANY($1) AND s.ended_at < $2
               AND NOT EXISTS (SELECT FROM attempts a WHERE a.task_id = s.task_id AND (a.reserved OR a.ended_at IS NULL))
               AND NOT EXISTS (SELECT FROM exclusive_waits w WHERE w.task_id = s.task_id)
             ORDER BY s.task_id FOR UPDATE OF s SKIP LOCKED",
            &old,
            before
        )
        .fetch_all(&mut *transaction)
        .await?;
        if due.is_empty() {
            return Ok(ExpiredTasks { deleted: 0, next });
        }
        let attempts = sqlx::query_scalar!("DELETE FROM attempts WHERE task_id = ANY($1) RETURNING id", &due)
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query!("DELETE FROM log_chunks WHERE attempt_id = ANY($1)", &attempts).execute(&mut *transaction).await?;
        forget_archived(&mut transaction, &attempts).await?;
        sqlx::query!(
            "WITH heads AS (DELETE FROM log_heads WHERE attempt_id = ANY($2)),
                  rejected AS (DELETE FROM rejected_reports WHERE attempt_id = ANY($2)),
                  inputs AS (DELETE FROM task_inputs WHERE task_id = ANY($1)),
                  history AS (DELETE FROM task_events WHERE task_id = ANY($1)),
                  hot AS (DELETE FROM task_state WHERE task_id = ANY($1)),
                  cold AS (DELETE FROM tasks WHERE id = ANY($1))
             UPDATE cluster SET tasks_expired_to = GREATEST(tasks_expired_to, $3)
             WHERE tasks_expired_to IS NULL OR tasks_expired_to < $3",
            &due,
            &attempts,
            due.last().copied(),
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(ExpiredTasks { deleted: due.len() as u64, next })
    }
}
