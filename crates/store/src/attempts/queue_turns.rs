//! What decides whose turn it is in the queue, beside its heads: who has how much, and what has waited for long.

use crate::{
    Store, StoreError,
    attempts::queue_heads::{QueueHeads, leave_out_held_back},
};
use domain::{
    ids::{NodeId, ProjectId, TaskId},
    placement::Head,
    spec::Needs,
    task::TaskState,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// Urgencies of one class among which old tasks are looked for, the least urgent first.
const URGENCIES: i32 = 64;
/// Old tasks of one class and urgency in one look.
const OLD_OF_EACH: i64 = 4;
/// Old tasks in one look.
const OLD_TOGETHER: i64 = 2_048;

impl Store {
    /// How many tasks of each of these projects are on a node, or on their way there.
    pub async fn live_tasks(&self, projects: &BTreeSet<ProjectId>) -> Result<BTreeMap<ProjectId, u64>, StoreError> {
        let ids: Vec<Uuid> = projects.iter().map(|project| project.as_uuid()).collect();
        let states: Vec<String> =
            TaskState::ALL.iter().filter(|it| it.is_on_a_node()).map(ToString::to_string).collect();
        let mut live: BTreeMap<ProjectId, u64> = projects.iter().map(|project| (*project, 0)).collect();
        let rows = sqlx::query!(
            r#"SELECT project_id AS "project_id!", sum(tasks)::bigint AS "tasks!" FROM (
                 SELECT project_id, tasks FROM task_counts WHERE project_id = ANY($1) AND state = ANY($2)
                 UNION ALL SELECT project_id, change FROM task_count_changes WHERE project_id = ANY($1) AND state = ANY($2)) AS c
               GROUP BY project_id"#,
            &ids,
            &states
        )
        .fetch_all(&self.pool)
        .await?;
        live.extend(rows.into_iter().map(|row| (ProjectId::from_uuid(row.project_id), row.tasks.max(0) as u64)));
        Ok(live)
    }

    /// Adds to `found` the oldest tasks of every urgency of these classes that have waited for so long: a look at the beginning of a
    /// class sees its most urgent ones only. Work here grows with the classes and their urgencies, not with what waits.
    pub async fn add_old_heads(
        &self,
        found: &mut QueueHeads,
        classes: &[i64],
        waited: Duration,
        needs: &BTreeMap<i64, Arc<Needs>>,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        // Urgencies are walked from the end of the class, where no entries of what was placed lie in the way.
        let rows = sqlx::query!(
            r#"WITH RECURSIVE urgencies AS (
                 SELECT c.class, 1 AS number,
                        (SELECT s.priority FROM task_state s WHERE s.queued AND s.class = c.class
                         ORDER BY s.class DESC, s.priority, s.queued_at DESC, s.task_id DESC LIMIT 1) AS priority
                 FROM UNNEST($1::bigint[]) AS c(class)
                 UNION ALL
                 SELECT u.class, u.number + 1,
                        (SELECT s.priority FROM task_state s WHERE s.queued AND s.class = u.class AND s.priority > u.priority
                         ORDER BY s.class DESC, s.priority, s.queued_at DESC, s.task_id DESC LIMIT 1)
                 FROM urgencies u WHERE u.priority IS NOT NULL AND u.number < $2
               )
               SELECT u.class AS "class!", u.priority AS "priority!", h.task_id AS "task_id!", h.queued_at AS "queued_at!", h.project_id AS "project_id!",
                      h.avoid_node, (SELECT t.warm_keys FROM tasks t WHERE t.id = h.task_id) AS warm_keys
               FROM urgencies u CROSS JOIN LATERAL (
                 SELECT s.task_id, s.queued_at, s.project_id, s.avoid_node FROM task_state s
                 WHERE s.queued AND s.class = u.class AND s.priority = u.priority AND s.queued_at <= now() - make_interval(secs => $3)
                   AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                 ORDER BY s.queued_at, s.task_id LIMIT $4
               ) h WHERE u.priority IS NOT NULL LIMIT $5"#,
            classes,
            URGENCIES,
            waited.as_secs_f64(),
            OLD_OF_EACH,
            OLD_TOGETHER
        )
        .fetch_all(&mut *connection)
        .await?;
        let seen: BTreeSet<TaskId> = found.heads.iter().map(|head| head.task).collect();
        let mut heads = Vec::new();
        for row in rows {
            let task = TaskId::from_uuid(row.task_id);
            let Some(needs) = needs.get(&row.class).filter(|_| !seen.contains(&task)) else { continue };
            heads.push(Head {
                task,
                project: ProjectId::from_uuid(row.project_id),
                class: row.class,
                needs: needs.clone(),
                priority: row.priority,
                queued_at: row.queued_at,
                avoid_node: row.avoid_node.map(NodeId::from_uuid),
                warm_keys: row.warm_keys.unwrap_or_default().into_iter().collect(),
            });
        }
        leave_out_held_back(&mut connection, &mut heads).await?;
        found.old = heads.iter().map(|head| head.task).collect();
        found.heads.extend(heads);
        Ok(())
    }
}
