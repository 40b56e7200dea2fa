//! The state of the platform in figures, for whoever watches it: read every few seconds, so each statement reads little. Tasks come from the
//! counters that triggers keep, what waits from the first entry of each kind in the queue's index.

use crate::{FEW, Store, StoreError, figures::seconds_between, rows::word};
use domain::{spec::PRIORITIES, task::TaskState};
use std::collections::BTreeMap;

/// Kinds of waiting tasks that are looked at: a kind is what equal needs and priority have in common.
const KINDS: i64 = 2_000;
/// Waiting tasks that are counted. Of more, each kind's count ends at its share.
const COUNTED: i64 = 50_000;
/// What the projects are called together that are not told apart.
const OTHERS: &str = "other";

/// What waits with priorities of this size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    pub tasks: u64,
    /// Since the longest waiting was submitted.
    pub oldest_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// By project and state. The busiest projects by name, the rest as `other`.
    pub tasks: BTreeMap<(String, TaskState), u64>,
    /// By the word for their priority; every word is there.
    pub waiting: BTreeMap<&'static str, Waiting>,
    /// By what they are good for now: new (never heard), ready, cordoned, draining, drained, disconnected, offline.
    pub nodes: BTreeMap<String, u64>,
    pub database_bytes: u64,
}

impl Store {
    /// `projects`: so many are told apart.
    pub async fn census(&self, projects: usize) -> Result<Census, StoreError> {
        Ok(Census {
            tasks: self.tasks_by_project(projects).await?,
            waiting: self.waiting().await?,
            nodes: self.nodes_by_state().await?,
            database_bytes: self.database_bytes().await?,
        })
    }

    async fn tasks_by_project(&self, projects: usize) -> Result<BTreeMap<(String, TaskState), u64>, StoreError> {
        sqlx::query!(
            r#"WITH counted AS (
                 SELECT project_id, state, sum(tasks)::bigint AS tasks FROM (
                   SELECT project_id, state, tasks FROM task_counts
                   UNION ALL SELECT project_id, state, change FROM task_count_changes) AS c
                 GROUP BY project_id, state HAVING sum(tasks) > 0
               ), busiest AS (
                 SELECT project_id FROM counted GROUP BY project_id
                 ORDER BY sum(tasks) FILTER (WHERE state NOT IN ('succeeded', 'failed', 'cancelled')) DESC NULLS LAST, sum(tasks) DESC, project_id
                 LIMIT $1
               ), named AS (
                 SELECT COALESCE((SELECT p.slug FROM projects p WHERE p.id = c.project_id AND c.project_id IN (SELECT project_id FROM busiest)), $2) AS project,
                        c.state, c.tasks FROM counted c
               )
               SELECT project AS "project!", state AS "state!", sum(tasks)::bigint AS "tasks!" FROM named GROUP BY project, state"#,
            projects as i64,
            OTHERS
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| Ok(((row.project, word(&row.state)?), row.tasks as u64)))
        .collect()
    }

    /// Steps from kind to kind through the queue's index, as a look of the scheduler does.
    async fn waiting(&self) -> Result<BTreeMap<&'static str, Waiting>, StoreError> {
        let kinds = sqlx::query!(
            r#"WITH RECURSIVE kinds AS (
                 (SELECT class, priority, queued_at FROM task_state WHERE queued ORDER BY class, priority DESC, queued_at, task_id LIMIT 1)
                 UNION ALL
                 SELECT n.class, n.priority, n.queued_at FROM kinds k CROSS JOIN LATERAL (
                   SELECT * FROM (
                     (SELECT class, priority, queued_at FROM task_state WHERE queued AND class = k.class AND priority < k.priority
                      ORDER BY priority DESC, queued_at, task_id LIMIT 1)
                     UNION ALL
                     (SELECT class, priority, queued_at FROM task_state WHERE queued AND class > k.class
                      ORDER BY class, priority DESC, queued_at, task_id LIMIT 1)) AS next LIMIT 1) AS n
               ), looked_at AS MATERIALIZED (SELECT * FROM kinds LIMIT $1)
               SELECT l.priority AS "priority!", l.queued_at AS "oldest!", now() AS "at!",
                      (SELECT count(*) FROM (
                         SELECT FROM task_state s WHERE s.queued AND s.class = l.class AND s.priority = l.priority
                         LIMIT GREATEST($2 / (SELECT count(*) FROM looked_at), 1)) AS of_kind) AS "tasks!"
               FROM looked_at l"#,
            KINDS,
            COUNTED
        )
        // Where plans know no bitmap: an index that is walked in order learns what is not queued any more, a bitmap of it never does.
        .fetch_all(self.pool_for(FEW))
        .await?;
        let mut waiting: BTreeMap<&'static str, Waiting> =
            PRIORITIES.iter().map(|(word, _)| (*word, Waiting::default())).collect();
        for kind in kinds {
            let of_word = waiting.entry(priority_word(kind.priority)).or_default();
            of_word.tasks += kind.tasks as u64;
            of_word.oldest_s = of_word.oldest_s.max(seconds_between(kind.oldest, kind.at));
        }
        Ok(waiting)
    }

    async fn nodes_by_state(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let states = sqlx::query!(
            r#"SELECT state AS "state!", count(*) AS "nodes!" FROM (
                 SELECT CASE WHEN l.beat_at IS NULL THEN 'new'
                             WHEN l.offline_since IS NOT NULL THEN 'offline'
                             WHEN NOT l.connected OR l.beat_at NOT BETWEEN now() - make_interval(secs => $1) AND now() + interval '5 seconds' THEN 'disconnected'
                             WHEN n.admission <> 'open' THEN n.admission
                             WHEN (SELECT f.record ->> 'cordon' IS NOT NULL FROM node_faults f WHERE f.node_id = n.id) THEN 'cordoned'
                             ELSE 'ready' END AS state
                 FROM nodes n CROSS JOIN LATERAL (SELECT * FROM node_live WHERE node_id = n.id OFFSET 0) l
                 WHERE n.admission <> 'revoked' AND n.id > '00000000-0000-0000-0000-000000000000') AS s
               GROUP BY state"#,
            self.silence_s()
        )
        .fetch_all(&self.pool)
        .await?;
        let all = ["new", "ready", "cordoned", "draining", "drained", "disconnected", "offline"];
        let mut nodes: BTreeMap<String, u64> = all.map(|state| (state.to_owned(), 0)).into();
        nodes.extend(states.into_iter().map(|row| (row.state, row.nodes as u64)));
        Ok(nodes)
    }

    async fn database_bytes(&self) -> Result<u64, StoreError> {
        let bytes = sqlx::query_scalar!(r#"SELECT pg_database_size(current_database()) AS "bytes!""#)
            .fetch_one(&self.pool)
            .await?;
        Ok(bytes.unsigned_abs())
    }
}

/// The word whose number is nearest from below; below the lowest, that.
fn priority_word(priority: i32) -> &'static str {
    let lowest = PRIORITIES.last().map_or("low", |(word, _)| word);
    PRIORITIES.iter().find(|(_, number)| priority >= *number).map_or(lowest, |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_has_the_word_of_the_nearest_below() {
        let words = [
            (i32::MAX, "urgent"),
            (100, "urgent"),
            (99, "high"),
            (50, "high"),
            (1, "normal"),
            (0, "normal"),
            (-1, "low"),
            (i32::MIN, "low"),
        ];
        for (priority, word) in words {
            assert_eq!(priority_word(priority), word, "{priority}");
        }
    }
}
