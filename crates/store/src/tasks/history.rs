//! A task's history, in the order in which it was committed.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
    rows::word,
};
use domain::{Timestamp, ids::TaskId, lifecycle::Event, principal::Scope, task::TaskState};

/// One statement's transitions.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    pub seq: i64,
    pub task: TaskId,
    pub at: Timestamp,
    /// Of the task after it.
    pub state: TaskState,
    pub events: Vec<Event>,
}

/// A row of `task_events`.
pub(super) struct EventRecord {
    pub(super) id: i64,
    pub(super) task_id: uuid::Uuid,
    pub(super) at: Timestamp,
    pub(super) state: String,
    pub(super) events: JsonText,
}

impl EventRecord {
    pub(super) fn into_row(self) -> Result<EventRow, StoreError> {
        Ok(EventRow {
            seq: self.id,
            task: TaskId::from_uuid(self.task_id),
            at: self.at,
            state: word(&self.state)?,
            events: read_json(self.events)?,
        })
    }
}

impl Store {
    /// Entries after `seq`, oldest first, at most `limit`. Entries of one task are written under its row's lock, so none appears
    /// later with a smaller number.
    pub async fn task_history(
        &self,
        scope: Scope,
        task: TaskId,
        after_seq: i64,
        limit: i64,
    ) -> Result<Vec<EventRow>, StoreError> {
        sqlx::query_as!(
            EventRecord,
            r#"SELECT id, task_id, at, state, events AS "events: JsonText" FROM task_events
             WHERE task_id = $1 AND id > $2 AND ($3::uuid IS NULL OR project_id = $3) ORDER BY id LIMIT $4"#,
            task.as_uuid(),
            after_seq,
            scope.project().map(|project| project.as_uuid()),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(EventRecord::into_row)
        .collect()
    }
}
