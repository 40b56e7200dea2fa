//! One execution of a task on one node: its state, its row, and the total function that moves it.

use crate::{
    Timestamp,
    ids::{AttemptId, Fence, Held, NodeId, TaskId},
    outcome::{Ending, ExitFacts},
    resources::Reservation,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    Assigned,
    Preparing,
    Running,
    Finishing,
    Succeeded,
    Failed,
    Cancelled,
    /// Replaced, or given up with its node.
    Lost,
}

impl AttemptState {
    pub const ALL: [AttemptState; 8] = [
        Self::Assigned,
        Self::Preparing,
        Self::Running,
        Self::Finishing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
    ];

    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Lost)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}
impl fmt::Display for AttemptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for AttemptState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no attempt state"))
    }
}

/// What a node says about an attempt. Each kind is idempotent by (attempt, fence, kind).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "Said")]
pub enum Report {
    /// The assignment is on the node's disk.
    Accepted,
    /// Source and environment are being prepared.
    Preparing,
    /// Everything the process needs is there: what ran, recorded for ever.
    Prepared { provenance: serde_json::Value },
    /// The user's process is alive.
    Started,
    /// It has ended; the facts count from here on, whatever becomes of the log.
    Exited { exit: ExitFacts },
    /// Nothing more will come of this attempt.
    Ended { ending: Ending },
    /// Container, processes and trees are gone: the resources are free.
    Released,
}

/// The fields of all kinds: what comes five times for every task is read straight into them, where a tagged enum goes through a tree.
#[derive(Deserialize)]
struct Said {
    kind: Kind,
    #[serde(default)]
    provenance: serde_json::Value,
    exit: Option<ExitFacts>,
    ending: Option<Ending>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Accepted,
    Preparing,
    Prepared,
    Started,
    Exited,
    Ended,
    Released,
}

impl TryFrom<Said> for Report {
    type Error = &'static str;
    fn try_from(said: Said) -> Result<Self, &'static str> {
        Ok(match said.kind {
            Kind::Accepted => Self::Accepted,
            Kind::Preparing => Self::Preparing,
            Kind::Prepared => Self::Prepared { provenance: said.provenance },
            Kind::Started => Self::Started,
            Kind::Exited => Self::Exited { exit: said.exit.ok_or("an exit without its facts")? },
            Kind::Ended => Self::Ended { ending: said.ending.ok_or("an end without what it was")? },
            Kind::Released => Self::Released,
        })
    }
}

impl Report {
    /// The stable word for this kind, also its key in idempotency.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Prepared { .. } => "prepared",
            Self::Started => "started",
            Self::Exited { .. } => "exited",
            Self::Ended { .. } => "ended",
            Self::Released => "released",
        }
    }
}

/// An attempt's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    pub id: AttemptId,
    pub task: TaskId,
    /// 1 for the first attempt of its task.
    pub number: u32,
    pub node: NodeId,
    pub fence: Fence,
    pub state: AttemptState,
    pub reservation: Reservation,
    /// The node has not yet said that the reservation is free.
    pub reserved: bool,
    pub placed_at: Timestamp,
    pub accepted_at: Option<Timestamp>,
    pub preparing_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub exited_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub exit: Option<ExitFacts>,
    pub ending: Option<Ending>,
    pub provenance: Option<serde_json::Value>,
    /// How many of its outputs are ready.
    pub outputs_stored: u32,
}

impl AttemptRow {
    pub fn held(&self) -> Held {
        Held { attempt: self.id, fence: self.fence }
    }

    /// Not all that it is to leave is stored: the rest is on its node only.
    pub fn lacks_outputs(&self) -> bool {
        self.exit.as_ref().is_some_and(|exit| self.outputs_stored < exit.outputs_due)
    }

    /// It was sent ahead, and its node has not begun with it.
    pub fn only_waited(&self) -> bool {
        self.reservation.ahead && self.preparing_at.is_none() && self.started_at.is_none() && self.exit.is_none()
    }

    /// It waits on its node, which has it, until there is room.
    pub fn waits_there(&self) -> bool {
        self.state == AttemptState::Assigned && self.accepted_at.is_some() && self.only_waited()
    }
}

/// What a report does to an attempt that still holds its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    MoveTo(AttemptState),
    /// A repeat, or nothing that changes the state.
    Stay,
}

/// Moves an attempt that still holds its task. Total: a node that lost a message, or that was restarted, may skip states forward
/// (its later report implies the earlier ones), and repeats change nothing. A terminal state never changes again.
pub fn next(state: AttemptState, report: &Report, cancel_requested: bool) -> Step {
    use {AttemptState as In, Report as On, Step::MoveTo, Step::Stay};
    match (state, report) {
        (In::Succeeded | In::Failed | In::Cancelled | In::Lost, _) => Stay,
        // Only the reservation is concerned.
        (In::Assigned | In::Preparing | In::Running | In::Finishing, On::Released) => Stay,
        (In::Assigned | In::Preparing | In::Running | In::Finishing, On::Accepted) => Stay,
        (In::Assigned, On::Preparing | On::Prepared { .. }) => MoveTo(In::Preparing),
        (In::Preparing | In::Running | In::Finishing, On::Preparing | On::Prepared { .. }) => Stay,
        (In::Assigned | In::Preparing, On::Started) => MoveTo(In::Running),
        (In::Running | In::Finishing, On::Started) => Stay,
        (In::Assigned | In::Preparing | In::Running, On::Exited { .. }) => MoveTo(In::Finishing),
        (In::Finishing, On::Exited { .. }) => Stay,
        (In::Assigned | In::Preparing | In::Running | In::Finishing, On::Ended { ending }) => {
            MoveTo(ended_state(ending, cancel_requested))
        }
    }
}

/// No success is accepted once a cancel was answered.
pub(crate) fn ended_state(ending: &Ending, cancel_requested: bool) -> AttemptState {
    use crate::outcome::FailureKind;
    match ending.failure {
        _ if cancel_requested => AttemptState::Cancelled,
        Some(FailureKind::Cancelled) => AttemptState::Cancelled,
        Some(_) => AttemptState::Failed,
        None => AttemptState::Succeeded,
    }
}
