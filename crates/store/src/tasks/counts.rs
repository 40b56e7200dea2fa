//! How many tasks are in which state, without counting them: triggers on `task_state` write what each statement changed, and a reader
//! adds that to what was summed up before. Exact at every moment, whoever wrote.

use crate::{Store, StoreError, rows::word};
use domain::{ids::ProjectId, principal::Scope, task::TaskState};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Changes that are not worth a transaction yet: reading them costs a page or two.
const NOT_WORTH_IT: i64 = 256;
/// Changes that are summed up in one transaction.
const AT_ONCE: i64 = 20_000;
/// Only one sums up at a time; the others have nothing to do.
const LOCK: i64 = 0x7461_736b_7375_6d73;

/// Nor do two look for what is wrong: both would correct it.
const REPAIR_LOCK: i64 = LOCK + 1;
/// All tasks are counted, once.
const COUNTED_WITHIN: &str = "60s";

impl Store {
    /// Counts all tasks and corrects the counters that are wrong; returns how many were. For what should never be: a trigger that was
    /// disabled, rows that a hand changed. Safe while others write: what is counted and what the counters say are of one moment, and only
    /// the difference is added, as every change is. Safe to repeat. Reads all of `task_state`.
    ///
    /// Errors: `Unavailable` also when the count took longer than 60 s; nothing was done.
    pub async fn repair_counts(&self) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let is_ours = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_xact_lock($1) AND set_config('statement_timeout', $2, true) IS NOT NULL
                 AND set_config('enable_seqscan', 'on', true) IS NOT NULL AS "is_ours!""#,
            REPAIR_LOCK,
            COUNTED_WITHIN
        )
        .fetch_one(&mut *transaction)
        .await?;
        if !is_ours {
            return Ok(0);
        }
        let wrong = sqlx::query!(
            "INSERT INTO task_count_changes (project_id, state, change)
             SELECT project_id, state, sum(tasks) FROM (
               SELECT project_id, state, count(*) AS tasks FROM task_state GROUP BY project_id, state
               UNION ALL SELECT project_id, state, -tasks FROM task_counts
               UNION ALL SELECT project_id, state, -change FROM task_count_changes) AS all_of_them
             GROUP BY project_id, state HAVING sum(tasks) <> 0"
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(wrong)
    }

    /// Tasks by state, in this scope.
    pub async fn count_tasks(&self, scope: Scope) -> Result<Vec<(TaskState, u64)>, StoreError> {
        Ok(self.counts_of(scope.project().map(ProjectId::as_uuid)).await?.into_iter().collect())
    }

    /// Of one project, or of all of them. A state in which nothing is has no entry.
    pub(crate) async fn counts_of(&self, project: Option<Uuid>) -> Result<BTreeMap<TaskState, u64>, StoreError> {
        sqlx::query!(
            r#"SELECT state AS "state!", sum(tasks)::bigint AS "tasks!" FROM (
                 SELECT state, tasks FROM task_counts WHERE $1::uuid IS NULL OR project_id = $1
                 UNION ALL SELECT state, change FROM task_count_changes WHERE $1::uuid IS NULL OR project_id = $1) AS c
               GROUP BY state HAVING sum(tasks) > 0"#,
            project
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| Ok((word(&row.state)?, row.tasks as u64)))
        .collect()
    }

    /// Sums up what changed, so that readers have little to add. Returns whether there is more. Safe to repeat, and while others do
    /// the same: a change is summed up by the transaction that deletes it.
    pub async fn sum_up_counts(&self) -> Result<bool, StoreError> {
        let waiting = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (SELECT FROM task_count_changes LIMIT $1) AS c"#,
            NOT_WORTH_IT
        )
        .fetch_one(&self.pool)
        .await?;
        if waiting < NOT_WORTH_IT {
            return Ok(false);
        }
        let mut transaction = self.begin().await?;
        let is_ours = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "is_ours!""#, LOCK)
            .fetch_one(&mut *transaction)
            .await?;
        if !is_ours {
            return Ok(false);
        }
        let taken = sqlx::query_scalar!(
            r#"WITH taken AS (
                 DELETE FROM task_count_changes WHERE ctid = ANY (ARRAY(SELECT ctid FROM task_count_changes LIMIT $1))
                 RETURNING project_id, state, change
               ), summed AS (
                 INSERT INTO task_counts AS c SELECT project_id, state, sum(change) FROM taken GROUP BY project_id, state HAVING sum(change) <> 0
                 ON CONFLICT (project_id, state) DO UPDATE SET tasks = c.tasks + excluded.tasks
               )
               SELECT count(*) AS "count!" FROM taken"#,
            AT_ONCE
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        // Readers read all pages of the table, with what is deleted there.
        sqlx::query("VACUUM task_count_changes").execute(&self.pool).await?;
        Ok(taken == AT_ONCE)
    }
}
