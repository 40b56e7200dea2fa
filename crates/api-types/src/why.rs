//! `GET /tasks/{id}/why`: why it is pending, or what ended it. The sentences are made on the server, so that CLI, API and
//! pages say the same.

use chrono::{DateTime, Utc};
use domain::{ids::TaskId, outcome::ExitFacts, task::TaskState};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub task: TaskId,
    pub name: String,
    pub state: TaskState,
    /// The answer in one sentence.
    pub summary: String,
    /// For a waiting task: each node counted once, under its first reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<Waiting>,
    /// For an ended one: what ended it, with the evidence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<Ended>,
    /// For a task that has not ended, and is not at its first attempt any more: what became of the earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub chain: Vec<Evidence>,
    /// `infrastructure failures in a row 2 of 5, own failures 0 of 0`, once something went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budgets: Option<String>,
    /// What would help, as commands or settings.
    #[serde(default)]
    pub hints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub since: DateTime<Utc>,
    /// `1 gpu with 24 GiB, 4 cpu, 16 GiB`.
    pub needs: String,
    pub nodes: u32,
    pub verdicts: Vec<Verdict>,
    /// Waiting tasks that are more urgent, or as urgent and older; counted up to 1,000. Projects take turns, so it may be placed sooner
    /// or later than that.
    pub before: u64,
    /// There are more than that.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub more_before: bool,
    /// Not tried before this moment: backoff after a failure.
    pub not_before: Option<DateTime<Utc>>,
    /// No node of this fleet could take it even when empty and well.
    pub never_fits: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub count: u32,
    /// A few words: `full now`, `no gpu`, `offline`.
    pub reason: String,
    /// It would fit if that passed.
    pub would_fit: bool,
    /// Up to five names.
    pub examples: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub outcome: String,
    pub node: Option<String>,
    pub attempt: u32,
    pub exit: Option<ExitFacts>,
    /// The chain of causes with times.
    pub evidence: Vec<Evidence>,
    /// The last lines of the log, as text.
    pub last_lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub at: DateTime<Utc>,
    pub what: String,
}
