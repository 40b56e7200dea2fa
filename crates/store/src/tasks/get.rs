//! Reads tasks for people: the cold and the hot row, the last attempt, the names.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
    rows::{AttemptRecord, word},
    tasks::list::reversed_ending,
};
use domain::{
    Timestamp,
    attempt::AttemptRow,
    ids::{ProjectId, TaskId},
    outcome::{Ending, ExitFacts, FailureKind},
    principal::Scope,
    spec::TaskSpec,
    task::TaskState,
};

/// Tasks that one statement shows: each costs eight paths through an index, about 28 pages in all.
const VIEWS_AT_ONCE: usize = 16;
/// Attempts of one task that one statement reads, with the names of their nodes.
const ATTEMPTS_AT_ONCE: usize = 100;
/// The last ones are shown.
const MOST_ATTEMPTS: usize = 200;

/// A task as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    pub id: TaskId,
    pub project: ProjectId,
    pub project_slug: String,
    pub name: String,
    /// Name of the key that submitted it.
    pub created_by: String,
    pub created_at: Timestamp,
    pub state: TaskState,
    pub queued: bool,
    pub failure: Option<FailureKind>,
    pub exit_code: Option<i32>,
    pub message: String,
    pub cancel_requested: bool,
    pub not_before: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts that ended by the user's own fault, infrastructure failures in a row, and nodes lost or drained.
    pub user_failures: u32,
    pub infra_failures: u32,
    pub node_losses: u32,
    pub node: Option<String>,
    pub node_offline: bool,
    /// From when on another node may have the task, if its own stays offline.
    pub replaceable_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub exit: Option<ExitFacts>,
    pub ending: Option<Ending>,
    pub provenance: Option<serde_json::Value>,
    /// Bytes of stdout, stderr and the build that are stored.
    pub log_bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskDetail {
    pub view: TaskView,
    pub spec: TaskSpec,
    pub attempts: Vec<AttemptView>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttemptView {
    pub row: AttemptRow,
    pub node_name: String,
}

pub(crate) struct ViewRecord {
    pub(crate) id: uuid::Uuid,
    pub(crate) project_id: uuid::Uuid,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
    pub(crate) state: String,
    pub(crate) queued: bool,
    pub(crate) failure: Option<String>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) message: String,
    pub(crate) cancel_requested: bool,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) attempts: i32,
    pub(crate) user_failures: i32,
    pub(crate) infra_failures: i32,
    pub(crate) node_losses: i32,
    pub(crate) node: Option<String>,
    pub(crate) node_offline: Option<bool>,
    pub(crate) replaceable_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) exit: Option<JsonText>,
    pub(crate) ending: Option<JsonText>,
    pub(crate) provenance: Option<JsonText>,
    pub(crate) log_bytes: Option<i64>,
}

impl ViewRecord {
    pub(crate) fn into_view(self) -> Result<TaskView, StoreError> {
        Ok(TaskView {
            id: TaskId::from_uuid(self.id),
            project: ProjectId::from_uuid(self.project_id),
            project_slug: self.slug,
            name: self.name,
            created_by: self.created_by,
            created_at: self.created_at,
            state: word(&self.state)?,
            queued: self.queued,
            failure: self.failure.as_deref().map(word).transpose()?,
            exit_code: self.exit_code,
            message: self.message,
            cancel_requested: self.cancel_requested,
            not_before: self.not_before,
            ended_at: self.ended_at,
            attempts: self.attempts as u32,
            user_failures: self.user_failures as u32,
            infra_failures: self.infra_failures as u32,
            node_losses: self.node_losses as u32,
            node: self.node,
            node_offline: self.node_offline.unwrap_or(false),
            replaceable_at: self.replaceable_at,
            started_at: self.started_at,
            exit: self.exit.map(read_json).transpose()?,
            ending: self.ending.map(read_json).transpose()?,
            provenance: self.provenance.map(read_json).transpose()?,
            log_bytes: self.log_bytes.unwrap_or(0) as u64,
        })
    }
}

impl Store {
    /// None: there is no such task in this scope.
    pub async fn get_task(&self, scope: Scope, task: TaskId) -> Result<Option<TaskDetail>, StoreError> {
        let Some(view) = self.task_views(scope, &[task]).await?.pop() else { return Ok(None) };
        let spec = sqlx::query_scalar!(r#"SELECT spec AS "spec: JsonText" FROM tasks WHERE id = $1"#, task.as_uuid())
            .fetch_one(&self.pool)
            .await?;
        let mut rows = Vec::new();
        let mut before = i32::MAX;
        loop {
            let read = sqlx::query!(
                r#"SELECT a.id, a.task_id, a.number, a.node_id, a.fence, a.state, a.reservation AS "reservation: JsonText", a.reserved, a.placed_at,
                          a.accepted_at, a.preparing_at, a.started_at, a.exited_at, a.ended_at, a.exit AS "exit: JsonText",
                          a.ending AS "ending: JsonText", a.provenance AS "provenance: JsonText", a.outputs_stored, n.name AS node_name
                   FROM attempts a JOIN nodes n ON n.id = a.node_id WHERE a.task_id = $1 AND a.number < $2 ORDER BY a.number DESC LIMIT $3"#,
                task.as_uuid(),
                before,
                ATTEMPTS_AT_ONCE as i64
            )
            .fetch_all(&self.pool)
            .await?;
            let are_all = read.len() < ATTEMPTS_AT_ONCE;
            rows.extend(read);
            match rows.last().filter(|_| !are_all && rows.len() < MOST_ATTEMPTS) {
                Some(last) => before = last.number,
                None => break,
            }
        }
        let mut attempts = Vec::with_capacity(rows.len());
        for r in rows.into_iter().rev() {
            let row = AttemptRecord {
                id: r.id,
                task_id: r.task_id,
                number: r.number,
                node_id: r.node_id,
                fence: r.fence,
                state: r.state,
                reservation: r.reservation,
                reserved: r.reserved,
                placed_at: r.placed_at,
                accepted_at: r.accepted_at,
                preparing_at: r.preparing_at,
                started_at: r.started_at,
                exited_at: r.exited_at,
                ended_at: r.ended_at,
                exit: r.exit,
                ending: r.ending,
                provenance: r.provenance,
                outputs_stored: r.outputs_stored,
            };
            attempts.push(AttemptView { row: row.into_row()?, node_name: r.node_name });
        }
        Ok(Some(TaskDetail { view, spec: read_json(spec)?, attempts }))
    }

    /// Views of the named tasks that this scope sees, in the order of the names. Of each as it is at one moment; a long list is not read
    /// in one.
    pub(crate) async fn task_views(&self, scope: Scope, tasks: &[TaskId]) -> Result<Vec<TaskView>, StoreError> {
        let ids: Vec<uuid::Uuid> = tasks.iter().map(|task| task.as_uuid()).collect();
        let mut views = Vec::with_capacity(ids.len());
        for ids in ids.chunks(VIEWS_AT_ONCE) {
            let records = sqlx::query_as!(
                ViewRecord,
                r#"SELECT t.id, t.project_id, p.slug, t.name, COALESCE(k.name, 'unknown') AS "created_by!", t.created_at, s.state, s.queued, s.failure,
                          s.exit_code, s.message, s.cancel_requested, s.not_before, s.ended_at, s.attempts, s.user_failures, s.infra_failures, s.node_losses,
                          n.name AS "node?", (l.offline_since IS NOT NULL) AS node_offline,
                          l.offline_since + COALESCE((t.spec->'on_node_loss'->>'replace_after_ms')::bigint, 0) * interval '1 millisecond' AS replaceable_at,
                          a.started_at AS "started_at?", a.exit AS "exit?: JsonText", a.ending AS "ending?: JsonText",
                          a.provenance AS "provenance?: JsonText", h.next_offsets[1] + h.next_offsets[2] + h.next_offsets[3] AS log_bytes
                   FROM UNNEST($1::uuid[]) WITH ORDINALITY AS w(id, place)
                   JOIN tasks t ON t.id = w.id JOIN task_state s ON s.task_id = t.id JOIN projects p ON p.id = t.project_id
                   LEFT JOIN api_keys k ON k.id = t.created_by
                   LEFT JOIN attempts a ON a.task_id = t.id AND a.number = s.attempts
                   LEFT JOIN nodes n ON n.id = a.node_id LEFT JOIN node_live l ON l.node_id = a.node_id LEFT JOIN log_heads h ON h.attempt_id = a.id
                   WHERE $2::uuid IS NULL OR t.project_id = $2 ORDER BY w.place"#,
                ids,
                scope.project().map(|project| project.as_uuid()),
            )
            .fetch_all(&self.pool)
            .await?;
            for record in records {
                views.push(record.into_view()?);
            }
        }
        Ok(views)
    }

    /// Ids that end with these hex digits, newest first, at most ten.
    pub async fn tasks_by_ending(&self, scope: Scope, ending: &str) -> Result<Vec<TaskId>, StoreError> {
        let reversed = reversed_ending(ending);
        let ids = sqlx::query_scalar!(
            "SELECT id FROM tasks WHERE reverse(right(id::text, 8)) ~>=~ left($1, 8) AND reverse(right(id::text, 8)) ~<~ (left($1, 8) || 'g')
               AND starts_with(reverse(replace(id::text, '-', '')), $1) AND ($2::uuid IS NULL OR project_id = $2) ORDER BY id DESC LIMIT 10",
            reversed,
            scope.project().map(|project| project.as_uuid()),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(TaskId::from_uuid).collect())
    }
}
