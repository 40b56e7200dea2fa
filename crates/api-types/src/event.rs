//! A task's history, as `GET /tasks/{id}/events` streams it (SSE, resumable by `Last-Event-ID`).

use chrono::{DateTime, Utc};
use domain::{ids::TaskId, task::TaskState};
use serde::{Deserialize, Serialize};

/// The query of `GET /events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// False: an `end` follows what has happened so far; its SSE `id` is the place to go on from.
    #[serde(default = "yes")]
    pub follow: bool,
    /// Where a reader without `Last-Event-ID` begins: with the first event that is kept, or with what happens from now on.
    #[serde(default)]
    pub from: Begin,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    Beginning,
    #[default]
    Now,
}

fn yes() -> bool {
    true
}

/// The `data` of an event. Its SSE `id` is `seq`, its SSE `event` the word in `event.event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEvent {
    pub seq: i64,
    pub task: TaskId,
    pub at: DateTime<Utc>,
    /// Of the task after this event. Named apart in JSON, since some events have a `state` of their own beside it.
    #[serde(rename = "task_state")]
    pub state: TaskState,
    #[serde(flatten)]
    pub event: domain::lifecycle::Event,
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        attempt::AttemptState,
        ids::{AttemptId, TaskId},
        lifecycle::Event,
        outcome::FailureKind,
    };

    #[test]
    fn an_event_with_a_state_of_its_own_reads_back() {
        for event in [
            Event::Submitted,
            Event::Ended {
                attempt: AttemptId::from_uuid(uuid::Uuid::from_u128(2)),
                state: AttemptState::Lost,
                failure: Some(FailureKind::NodeLost),
                message: "gone".into(),
            },
            Event::Finished { state: TaskState::Failed, failure: None },
        ] {
            let sent = TaskEvent {
                seq: 7,
                task: TaskId::from_uuid(uuid::Uuid::from_u128(1)),
                at: DateTime::UNIX_EPOCH,
                state: TaskState::Pending,
                event,
            };
            let json = serde_json::to_string(&sent).expect("an event is JSON");
            assert_eq!(serde_json::from_str::<TaskEvent>(&json).expect(&json), sent);
        }
    }
}
