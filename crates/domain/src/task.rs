//! A task's state, and its hot row: the few fields that scheduling changes.

use crate::{
    Timestamp,
    ids::{AttemptId, Fence, NodeId, ProjectId, TaskId},
    outcome::FailureKind,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Validated, durable, waiting.
    Pending,
    /// Leased to a node; the lease was committed before the message left.
    Assigned,
    /// Its node fetches the source and builds the environment.
    Preparing,
    /// The user's process is alive.
    Running,
    /// The process has ended and its exit facts are committed; log tail and outputs are on their way.
    Finishing,
    Succeeded,
    Failed,
    Cancelled,
}

impl TaskState {
    pub const ALL: [TaskState; 8] = [
        Self::Pending,
        Self::Assigned,
        Self::Preparing,
        Self::Running,
        Self::Finishing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Or on its way there.
    pub fn is_on_a_node(self) -> bool {
        matches!(self, Self::Assigned | Self::Preparing | Self::Running | Self::Finishing)
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for TaskState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| format!("{text:?} is no task state"))
    }
}

/// The row of a task that changes. At most one attempt is live, since there is one place to name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    pub id: TaskId,
    pub project: ProjectId,
    /// Two processes of it may never live at once. As its spec says; it never changes.
    pub exclusive: bool,
    pub state: TaskState,
    /// Waits for a placement: a pending task, or one whose offline node may be replaced.
    pub queued: bool,
    /// The attempt that may act for this task.
    pub live: Option<AttemptId>,
    pub fence: Fence,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts that ended by the user's own fault.
    pub user_failures: u32,
    /// Consecutive attempts that ended by the platform's or a machine's fault after less than ten minutes of running.
    pub infra_failures: u32,
    /// Whole-node losses and drains so far.
    pub node_losses: u32,
    pub cancel_requested: bool,
    /// Not placed before this moment: backoff after a failure.
    pub not_before: Option<Timestamp>,
    /// Tried last, and best avoided.
    pub avoid_node: Option<NodeId>,
    /// The node that went down while the task ran there, soon after its start. A second one, and the task is held for poison.
    pub died_with: Option<NodeId>,
    /// How the task ended when it did not succeed.
    pub failure: Option<FailureKind>,
    pub exit_code: Option<i32>,
    /// One sentence on how it ended.
    pub message: String,
    pub ended_at: Option<Timestamp>,
}

impl TaskRow {
    /// A task as it is right after its submission.
    pub fn submitted(id: TaskId, project: ProjectId) -> Self {
        Self {
            id,
            project,
            exclusive: false,
            state: TaskState::Pending,
            queued: true,
            live: None,
            fence: Fence::NONE,
            attempts: 0,
            user_failures: 0,
            infra_failures: 0,
            node_losses: 0,
            cancel_requested: false,
            not_before: None,
            avoid_node: None,
            died_with: None,
            failure: None,
            exit_code: None,
            message: String::new(),
            ended_at: None,
        }
    }
}
