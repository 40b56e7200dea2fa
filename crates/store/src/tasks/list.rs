//! Lists tasks: live ones first, then the newest, page by page.

use crate::{Store, StoreError, TaskView};
use domain::{ids::TaskId, principal::Scope, task::TaskState};
use uuid::Uuid;

/// Everything that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub states: Vec<TaskState>,
    pub project: Option<String>,
    /// Name or id of the last attempt's node.
    pub node: Option<String>,
    /// Exact, or the beginning when `name_is_prefix`.
    pub name: Option<String>,
    pub name_is_prefix: bool,
    /// A key of the metadata and its value.
    pub label: Option<(String, String)>,
    /// The end of an id.
    pub id_suffix: Option<String>,
}

/// Where a page ended: (was the last task live, its id).
pub type ListCursor = (bool, TaskId);

#[derive(Clone, Debug)]
pub struct TaskList {
    pub tasks: Vec<TaskView>,
    /// All that the filter finds, at most 100,000 counted.
    pub found: u64,
    pub live: u64,
    pub next: Option<ListCursor>,
}

impl Store {
    pub async fn list_tasks(
        &self,
        scope: Scope,
        filter: &TaskFilter,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<TaskList, StoreError> {
        let states: Option<Vec<String>> =
            (!filter.states.is_empty()).then(|| filter.states.iter().map(|state| state.as_str().to_owned()).collect());
        let label = filter.label.as_ref().map(|(key, value)| serde_json::json!({ key: value }));
        let name = filter
            .name
            .as_ref()
            .map(|name| if filter.name_is_prefix { escape_like(name) + "%" } else { escape_like(name) });
        let ending = filter.id_suffix.as_ref().map(|ending| {
            ending.chars().rev().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
        });
        let project = scope.project().map(|project| project.as_uuid());
        let rows = sqlx::query!(
            r#"SELECT t.id AS "id!", (s.ended_at IS NULL) AS "live!" FROM task_state s JOIN tasks t ON t.id = s.task_id
               WHERE ($1::uuid IS NULL OR t.project_id = $1)
                 AND ($2::text[] IS NULL OR s.state = ANY($2))
                 AND ($3::text IS NULL OR s.project_id = (SELECT id FROM projects WHERE slug = $3))
                 AND ($4::text IS NULL OR EXISTS (SELECT 1 FROM attempts a JOIN nodes n ON n.id = a.node_id
                                                  WHERE a.task_id = t.id AND a.number = s.attempts AND (n.name = $4 OR n.id::text = $4)))
                 AND ($5::text IS NULL OR t.name LIKE $5)
                 AND ($6::jsonb IS NULL OR t.metadata <> '{}' AND t.metadata @> $6)
                 AND ($7::text IS NULL OR reverse(right(t.id::text, 8)) LIKE left($7, 8) || '%' AND reverse(t.id::text) LIKE $7 || '%')
                 AND ($8::bool IS NULL OR (s.ended_at IS NULL, t.id) < ($8, $9::uuid))
               ORDER BY (s.ended_at IS NULL) DESC, t.id DESC LIMIT $10"#,
            project,
            states.as_deref(),
            filter.project,
            filter.node,
            name,
            label,
            ending,
            after.map(|(live, _)| live),
            after.map_or(Uuid::nil(), |(_, id)| id.as_uuid()),
            i64::from(limit) + 1,
        )
        .fetch_all(&self.pool)
        .await?;
        let counts = sqlx::query!(
            r#"SELECT count(*) AS "found!", count(*) FILTER (WHERE live) AS "live!" FROM (
                 SELECT s.ended_at IS NULL AS live FROM task_state s JOIN tasks t ON t.id = s.task_id
                 WHERE ($1::uuid IS NULL OR t.project_id = $1)
                   AND ($2::text[] IS NULL OR s.state = ANY($2))
                   AND ($3::text IS NULL OR s.project_id = (SELECT id FROM projects WHERE slug = $3))
                   AND ($4::text IS NULL OR EXISTS (SELECT 1 FROM attempts a JOIN nodes n ON n.id = a.node_id
                                                    WHERE a.task_id = t.id AND a.number = s.attempts AND (n.name = $4 OR n.id::text = $4)))
                   AND ($5::text IS NULL OR t.name LIKE $5)
                   AND ($6::jsonb IS NULL OR t.metadata <> '{}' AND t.metadata @> $6)
                   AND ($7::text IS NULL OR reverse(right(t.id::text, 8)) LIKE left($7, 8) || '%' AND reverse(t.id::text) LIKE $7 || '%')
                 LIMIT 100000) AS found"#,
            project,
            states.as_deref(),
            filter.project,
            filter.node,
            name,
            label,
            ending,
        )
        .fetch_one(&self.pool)
        .await?;
        let mut ids: Vec<(bool, TaskId)> = rows.into_iter().map(|row| (row.live, TaskId::from_uuid(row.id))).collect();
        let has_more = ids.len() > limit as usize;
        ids.truncate(limit as usize);
        let next = has_more.then(|| ids.last().copied()).flatten();
        let tasks = self.task_views(scope, &ids.iter().map(|(_, id)| *id).collect::<Vec<_>>()).await?;
        Ok(TaskList { tasks, found: counts.found as u64, live: counts.live as u64, next })
    }

    /// Tasks by state, in this scope.
    pub async fn count_tasks(&self, scope: Scope) -> Result<Vec<(TaskState, u64)>, StoreError> {
        sqlx::query!(
            r#"SELECT state, count(*) AS "count!" FROM task_state WHERE $1::uuid IS NULL OR project_id = $1 GROUP BY state"#,
            scope.project().map(|project| project.as_uuid())
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| Ok((crate::rows::word(&row.state)?, row.count as u64)))
        .collect()
    }
}

fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
