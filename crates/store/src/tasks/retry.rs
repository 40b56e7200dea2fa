//! Runs an ended task once more, as a person asked.

use super::inputs::hold_inputs;
use crate::{
    Store, StoreError, Topic,
    rows::{lock_tasks, save_tasks},
};
use domain::{
    ids::TaskId,
    lifecycle,
    principal::{Origin, Scope},
    spec::Input,
    task::TaskState,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    Queued,
    NotEnded(TaskState),
    /// What it reads is not there any more.
    InputsGone(Vec<Input>),
    NotFound,
}

impl Store {
    pub async fn retry_task(&self, scope: Scope, task: TaskId, origin: &Origin) -> Result<Retried, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(mut row) = lock_tasks(&mut transaction, &[task.as_uuid()]).await?.pop() else {
            return Ok(Retried::NotFound);
        };
        if scope.project().is_some_and(|project| project != row.project) {
            return Ok(Retried::NotFound);
        }
        let Some(events) = lifecycle::retry_ended(&mut row) else { return Ok(Retried::NotEnded(row.state)) };
        let gone = hold_inputs(&mut transaction, task).await?;
        if !gone.is_empty() {
            return Ok(Retried::InputsGone(gone));
        }
        let project = row.project;
        save_tasks(&mut transaction, &[(row, events)]).await?;
        // Its place in the queue is that of a task submitted now.
        sqlx::query!("UPDATE task_state SET queued_at = now() WHERE task_id = $1", task.as_uuid())
            .execute(&mut *transaction)
            .await?;
        self.write_audit(
            &mut transaction,
            Some(project),
            origin,
            "task.retry",
            &task.to_string(),
            &serde_json::json!({}),
        )
        .await?;
        transaction.commit().await?;
        self.wakeups.publish([Topic::Queue, Topic::Task(task)]);
        Ok(Retried::Queued)
    }
}
