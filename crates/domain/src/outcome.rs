//! How an attempt ended: the facts of the exit, and the one word for it.

use crate::{Timestamp, is_default};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why an attempt did not succeed. `class` says whose fault it is, and so which retry budget it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    ExitNonzero,
    Timeout,
    QueueTimeout,
    OutOfMemory,
    BuildFailed,
    SourceUnavailable,
    InputUnavailable,
    OutputFailed,
    NodeLost,
    NodeError,
    Rejected,
    Poison,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The user's own: retried only as the spec says.
    User,
    /// The platform's or the machine's: retried elsewhere without touching the user's budget.
    Infrastructure,
    /// The end, whoever is at fault.
    Final,
}

impl FailureKind {
    pub const ALL: [FailureKind; 13] = [
        Self::ExitNonzero,
        Self::Timeout,
        Self::QueueTimeout,
        Self::OutOfMemory,
        Self::BuildFailed,
        Self::SourceUnavailable,
        Self::InputUnavailable,
        Self::OutputFailed,
        Self::NodeLost,
        Self::NodeError,
        Self::Rejected,
        Self::Poison,
        Self::Cancelled,
    ];

    pub fn class(self) -> FailureClass {
        match self {
            Self::ExitNonzero
            | Self::Timeout
            | Self::OutOfMemory
            | Self::BuildFailed
            | Self::SourceUnavailable
            | Self::InputUnavailable
            | Self::OutputFailed => FailureClass::User,
            Self::NodeLost | Self::NodeError | Self::Rejected => FailureClass::Infrastructure,
            Self::QueueTimeout | Self::Poison | Self::Cancelled => FailureClass::Final,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExitNonzero => "exit_nonzero",
            Self::Timeout => "timeout",
            Self::QueueTimeout => "queue_timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::BuildFailed => "build_failed",
            Self::SourceUnavailable => "source_unavailable",
            Self::InputUnavailable => "input_unavailable",
            Self::OutputFailed => "output_failed",
            Self::NodeLost => "node_lost",
            Self::NodeError => "node_error",
            Self::Rejected => "rejected",
            Self::Poison => "poison",
            Self::Cancelled => "cancelled",
        }
    }
}
impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for FailureKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("{text:?} is no failure kind"))
    }
}

/// What is known about the user's process after it ended. Times are the node's own and are shown, never compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFacts {
    /// The process's exit code, 128 + signal when a signal ended it. None when it never started.
    pub code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    /// Killed by the kernel or the watcher at its own memory limit.
    #[serde(default)]
    pub oom: bool,
    /// Stopped by the agent because its timeout had passed.
    #[serde(default)]
    pub timed_out: bool,
    /// Stopped by the agent because a cancel was asked for.
    #[serde(default)]
    pub cancelled: bool,
    #[serde(default)]
    pub duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<Timestamp>,
    /// Why the user's program never began, in words, where the code alone would leave people guessing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_started: Option<String>,
    /// How many outputs are to be stored after this end. Until all of them are, the end does not stand without its node.
    #[serde(skip_serializing_if = "is_default", default)]
    pub outputs_due: u32,
}

impl ExitFacts {
    /// The one word for this exit; None is success. What stopped it counts before how it went down: a process
    /// that was stopped for its timeout and then exited 0 has timed out.
    pub fn failure(&self) -> Option<FailureKind> {
        if self.cancelled {
            Some(FailureKind::Cancelled)
        } else if self.oom && self.code != Some(0) {
            Some(FailureKind::OutOfMemory)
        } else if self.timed_out {
            Some(FailureKind::Timeout)
        } else if self.code == Some(0) && self.signal.is_none() {
            None
        } else {
            Some(FailureKind::ExitNonzero)
        }
    }
}

/// The end of an attempt as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// None is success.
    #[serde(skip_serializing_if = "is_default", default)]
    pub failure: Option<FailureKind>,
    /// One sentence for a person: what happened, with the evidence.
    #[serde(skip_serializing_if = "is_default", default)]
    pub message: String,
    /// Absent when the user's process never started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<ExitFacts>,
    /// The node was stopped on purpose (`unidesk up` ended, a drain): charged to no retry budget.
    #[serde(skip_serializing_if = "is_default", default)]
    pub planned_stop: bool,
    /// Bytes the log has in all streams, and whether all of them were handed over.
    #[serde(skip_serializing_if = "is_default", default)]
    pub log: LogTotals,
}

impl Ending {
    pub fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            failure: Some(kind),
            message: message.into(),
            exit: None,
            planned_stop: false,
            log: LogTotals::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTotals {
    pub bytes: u64,
    /// False when output was discarded at the log limit or lost.
    pub complete: bool,
}

impl Default for LogTotals {
    fn default() -> Self {
        Self { bytes: 0, complete: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stopped_a_process_counts_before_how_it_went_down() {
        let exited = |code, signal| ExitFacts { code: Some(code), signal, ..ExitFacts::default() };
        assert_eq!(exited(0, None).failure(), None);
        assert_eq!(exited(3, None).failure(), Some(FailureKind::ExitNonzero));
        assert_eq!(exited(139, Some(11)).failure(), Some(FailureKind::ExitNonzero));
        assert_eq!(ExitFacts { oom: true, ..exited(137, Some(9)) }.failure(), Some(FailureKind::OutOfMemory));
        // A child was killed at the limit, and the parent coped.
        assert_eq!(ExitFacts { oom: true, ..exited(0, None) }.failure(), None);
        assert_eq!(ExitFacts { timed_out: true, ..exited(0, None) }.failure(), Some(FailureKind::Timeout));
        assert_eq!(
            ExitFacts { cancelled: true, timed_out: true, ..exited(143, Some(15)) }.failure(),
            Some(FailureKind::Cancelled)
        );
        assert_eq!(ExitFacts::default().failure(), Some(FailureKind::ExitNonzero));
    }

    #[test]
    fn every_kind_reads_back_from_its_word() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }
}
