//! Tasks and their attempts. A task's body on submission is free JSON, checked by `domain::spec::parse_spec`.

use crate::artifact::{TaskArtifact, TaskCheckpoint};
use chrono::{DateTime, Utc};
use domain::{
    attempt::AttemptState,
    ids::{AttemptId, NodeId, ProjectId, TaskId},
    outcome::{ExitFacts, FailureKind},
    spec::TaskSpec,
    task::TaskState,
};
use serde::{Deserialize, Serialize};

/// A task as `GET /tasks/{id}` shows it. `attempts` is left out in lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub name: String,
    pub state: TaskState,
    /// `succeeded` or the failure kind; null while it lives.
    pub outcome: Option<String>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// One sentence on how it ended, or what it waits for.
    pub message: String,
    pub project: String,
    pub project_id: ProjectId,
    /// The name of the key that submitted it.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Running time of the last attempt.
    pub duration_ms: Option<u64>,
    pub cpu_ms: Option<u64>,
    pub peak_memory_bytes: Option<u64>,
    /// Name of the last attempt's node.
    pub node: Option<String>,
    /// Number of the last attempt; 0 before the first.
    pub attempt: u32,
    pub cancel_requested: bool,
    /// Something that is not the task's state: `node_offline`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub condition: Option<String>,
    /// While its node is offline: from then on another node may have the task.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replaceable_at: Option<DateTime<Utc>>,
    pub log: TaskLog,
    /// Commits, trees, image, driver: what exactly ran.
    pub image: Option<Image>,
    /// In `GET /tasks/{id}` only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spec: Option<TaskSpec>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempts: Option<Vec<Attempt>>,
    /// In `GET /tasks/{id}` only: its outputs that are ready, those of the newest attempt first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub artifacts: Vec<TaskArtifact>,
    /// In `GET /tasks/{id}` only, of a task that keeps checkpoints.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoint: Option<TaskCheckpoint>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<domain::fault::Fault>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskLog {
    /// Of stdout, stderr and the build; not of the agent's own lines.
    pub bytes: u64,
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub tag: String,
    pub digest: Option<String>,
    /// It was there already: nothing was built.
    pub warm: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: AttemptId,
    pub number: u32,
    pub state: AttemptState,
    pub node_id: NodeId,
    pub node: String,
    pub fence: i64,
    /// Resources are still held on the node.
    pub reserved: bool,
    pub placed_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    pub preparing_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub exited_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub failure: Option<FailureKind>,
    pub message: String,
    pub exit: Option<ExitFacts>,
    /// As the executor recorded it.
    pub provenance: Option<serde_json::Value>,
}

/// The body of `POST /tasks:batch`: up to 10,000 task bodies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitBatch {
    pub tasks: Vec<serde_json::Value>,
}

/// An answer per item of `POST /tasks:batch`, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchAnswer {
    pub items: Vec<BatchItem>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BatchItem {
    Accepted { index: usize, id: TaskId, replayed: bool },
    Refused { index: usize, problem: Box<crate::Problem> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPage {
    pub tasks: Vec<Task>,
    /// Of all tasks that the filter finds, and of those, the live ones.
    pub found: u64,
    pub live: u64,
    /// They were not counted to the end: there are at least so many.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub counts_are_minimum: bool,
    /// Only this says whether there are more: a page may have fewer tasks than were asked for, even none.
    pub next_cursor: Option<String>,
}

/// Filters of `GET /tasks`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskQuery {
    /// One or more states, comma-separated.
    pub state: Option<String>,
    pub project: Option<String>,
    /// Name or id of a node.
    pub node: Option<String>,
    /// Exact, or with `*` at the end.
    pub name: Option<String>,
    /// `key=value` of the metadata.
    pub label: Option<String>,
    /// The ending of an id, 6 or more hex digits.
    pub id_suffix: Option<String>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}
