//! Routes of tasks.

use crate::{
    Client, ClientError,
    follow::{Decoded, Followed, follow, follow_after},
    sse::Message,
};
use api_types::{
    access::AttemptCredential,
    event::{Begin, EventsQuery, TaskEvent},
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

    /// A credential for the files of the attempt that the task has now, for at most 15 minutes: a [`Client`] with it as its token moves them. An admin's.
    pub async fn attempt_credential(&self, id: TaskId) -> Result<AttemptCredential, ClientError> {
        self.act(&format!("/tasks/{id}/credentials"), &json!({})).await
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

    /// The events of all tasks that this caller may see: after `since` (a cursor of an earlier item), else as the query says. A cursor
    /// that the server does not know is refused.
    pub fn events(
        &self,
        query: &EventsQuery,
        since: Option<&str>,
    ) -> impl Stream<Item = Result<Followed<FeedItem>, ClientError>> + Send + use<> {
        let from = match query.from {
            Begin::Beginning => "beginning",
            Begin::Now => "now",
        };
        let path = format!("/events?follow={}&from={from}", query.follow);
        follow_after(self, &path, since.map(str::to_owned), decode_feed)
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

/// One item of the events of all tasks, with the place after it.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedItem {
    /// The reader stands here; nothing was told yet.
    Here {
        cursor: String,
    },
    Event {
        cursor: String,
        event: Box<TaskEvent>,
    },
    /// This was all so far.
    End {
        cursor: String,
    },
}

fn decode_feed(message: Message) -> Decoded<FeedItem> {
    let cursor = message.id.clone().unwrap_or_default();
    match message.event.as_str() {
        "here" => Decoded::Item(FeedItem::Here { cursor }),
        "end" => Decoded::Last(Some(FeedItem::End { cursor })),
        _ => match decode_event(message) {
            Decoded::Item(event) => Decoded::Item(FeedItem::Event { cursor, event: Box::new(event) }),
            Decoded::Last(_) | Decoded::Skip => Decoded::Skip,
            Decoded::Wrong(what) => Decoded::Wrong(what),
        },
    }
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
