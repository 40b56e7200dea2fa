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

impl Store {
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
