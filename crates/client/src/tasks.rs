//! Routes of tasks.

use crate::{
    Client, ClientError,
    follow::{Decoded, Followed, follow},
    sse::Message,
};
use api_types::{
    event::TaskEvent,
    task::{BatchAnswer, SubmitBatch, Task, TaskPage, TaskQuery},
    why::Why,
};
use domain::ids::TaskId;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;

impl Client {
    /// Submits one task. `key`: the same key again gives the same task; without one a fresh key guards this call's own tries.
    pub async fn submit(&self, body: &Value, key: Option<&str>) -> Result<Task, ClientError> {
        self.create("/tasks", body, key).await
    }

    /// Submits up to 10,000 tasks, with an answer per item.
    pub async fn submit_batch(&self, tasks: Vec<Value>, key: Option<&str>) -> Result<BatchAnswer, ClientError> {
        self.create("/tasks:batch", &SubmitBatch { tasks }, key).await
    }

    /// The task with its spec and attempts.
    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.get(&format!("/tasks/{id}"), &()).await
    }

    /// One page of the tasks that the filter finds.
    pub async fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, ClientError> {
        self.get("/tasks", query).await
    }

    /// Asks for the task's end; it may still be ending when this returns. Asking again changes nothing.
    pub async fn cancel(&self, id: TaskId) -> Result<Task, ClientError> {
        self.act(&format!("/tasks/{id}/cancel"), &json!({})).await
    }

    /// Queues an ended task once more, under its own id. Not repeated when the connection is cut in the middle.
    pub async fn retry(&self, id: TaskId) -> Result<Task, ClientError> {
        self.act_once(&format!("/tasks/{id}/retry"), &json!({})).await
    }

    /// Why it is pending, or what ended it.
    pub async fn why(&self, id: TaskId) -> Result<Why, ClientError> {
        self.get(&format!("/tasks/{id}/why"), &()).await
    }

    /// The task's history from its first event, and on until it has ended.
    pub fn follow_events(
        &self,
        id: TaskId,
    ) -> impl Stream<Item = Result<Followed<TaskEvent>, ClientError>> + Send + use<> {
        follow(self, &format!("/tasks/{id}/events"), decode_event)
    }

    /// The events of all tasks that this caller may see, from now on and without an end.
    pub fn follow_all_events(&self) -> impl Stream<Item = Result<Followed<TaskEvent>, ClientError>> + Send + use<> {
        follow(self, "/events", decode_feed)
    }

    /// Waits for the task's end, however often the connection is cut. Errors: what trying again can't mend.
    pub async fn wait(&self, id: TaskId) -> Result<Task, ClientError> {
        loop {
            let mut events = std::pin::pin!(self.follow_events(id));
            while let Some(item) = events.next().await {
                item?;
            }
            match self.task(id).await {
                Ok(task) if task.state.is_terminal() => return Ok(task),
                // Asked to run once more just now, or the server is away again.
                Ok(_) => {}
                Err(error) if error.is_passing() => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// The first message says where the reader stands; it goes on from there, though nothing has happened yet.
fn decode_feed(message: Message) -> Decoded<TaskEvent> {
    if message.event == "here" { Decoded::Skip } else { decode_event(message) }
}

fn decode_event(message: Message) -> Decoded<TaskEvent> {
    if message.event == "end" {
        return Decoded::Last(None);
    }
    match serde_json::from_str::<TaskEvent>(&message.data) {
        Ok(event) => Decoded::Item(event),
        Err(error) if error.to_string().starts_with("unknown variant") => Decoded::Skip,
        Err(error) => Decoded::Wrong(format!("an event of the task is not understood: {error}")),
    }
}
