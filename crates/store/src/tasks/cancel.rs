//! Cancels a task: at once where nothing runs, else by its node.

use crate::{
    Store, StoreError, Topic,
    rows::{load_attempts, lock_tasks, now, save_attempts, save_tasks},
};
use domain::{
    ids::TaskId,
    lifecycle::{self, CancelVerdict},
    principal::{Origin, Scope},
    task::TaskState,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It has ended as cancelled.
    Done,
    /// Its node is told; the state follows.
    Requested,
    AlreadyEnded(TaskState),
    NotFound,
}

impl Store {
    /// Once this answered `Done` or `Requested`, no success is recorded for the task. Safe to repeat.
    pub async fn cancel_task(&self, scope: Scope, task: TaskId, origin: &Origin) -> Result<Cancelled, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(mut row) = lock_tasks(&mut transaction, &[task.as_uuid()]).await?.pop() else {
            return Ok(Cancelled::NotFound);
        };
        if scope.project().is_some_and(|project| project != row.project) {
            return Ok(Cancelled::NotFound);
        }
        let live: Vec<_> = row.live.map(|live| live.as_uuid()).into_iter().collect();
        let mut attempt = load_attempts(&mut transaction, &live).await?.pop();
        let node_is_offline = match &attempt {
            Some(attempt) => sqlx::query_scalar!(
                r#"SELECT (l.offline_since IS NOT NULL OR n.admission = 'revoked') AS "gone!" FROM node_live l JOIN nodes n ON n.id = l.node_id WHERE l.node_id = $1"#,
                attempt.node.as_uuid()
            )
            .fetch_optional(&mut *transaction)
            .await?
            .unwrap_or(true),
            None => false,
        };
        let at = now(&mut transaction).await?;
        let (answer, events) = match lifecycle::cancel(&mut row, attempt.as_mut(), node_is_offline, at) {
            CancelVerdict::AlreadyEnded => return Ok(Cancelled::AlreadyEnded(row.state)),
            CancelVerdict::Repeated => return Ok(Cancelled::Requested),
            CancelVerdict::Cancelled(events) => (Cancelled::Done, events),
            CancelVerdict::Requested(events) => (Cancelled::Requested, events),
        };
        if let Some(attempt) = &attempt {
            save_attempts(&mut transaction, std::slice::from_ref(attempt)).await?;
        }
        let project = row.project;
        save_tasks(&mut transaction, &[(row, events)]).await?;
        self.write_audit(
            &mut transaction,
            Some(project),
            origin,
            "task.cancel",
            &task.to_string(),
            &serde_json::json!({}),
        )
        .await?;
        transaction.commit().await?;
        self.wakeups.publish(attempt.map(|attempt| Topic::Node(attempt.node)).into_iter().chain([Topic::Task(task)]));
        Ok(answer)
    }
}
