//! What a user asked for, checked and normalised. Immutable once accepted.

mod data;
mod parse;
mod reader;

pub use data::{
    CHECKPOINTS_FEATURE, CHECKPOINTS_KEPT, Checkpoints, FEATURE as ARTIFACTS_FEATURE, Input, MOST_FILES, Matcher,
    Output, OutputOn, PinnedArtifact,
};
pub use parse::parse_spec;

use crate::{is_default, resources::Amounts, retry::RetryPolicy, source::Source};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A spec is at most so large as JSON.
pub const MAX_SPEC_BYTES: usize = 64 * 1024;
/// Log bytes kept of one attempt, all streams together, unless the spec says otherwise.
pub const DEFAULT_LOG_LIMIT_BYTES: u64 = 64 << 20;

/// As JSON it has only what is not as usual: it is written once and read three times for each task, mostly by programs. What older
/// agents can't do without is always there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub name: String,
    pub executor: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: Source,
    /// What to run. Empty: the image's own command.
    pub command: Command,
    /// For executors other than container and process; they check it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub payload: serde_json::Value,
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
    pub requirements: Requirements,
    /// Higher is more urgent. urgent 100, high 50, normal 0, low -50.
    pub priority: i32,
    /// Running time of one attempt; None: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout_ms: Option<u64>,
    /// How long it may wait for a node; None: for ever.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queue_timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    pub on_node_loss: OnNodeLoss,
    pub stop: Stop,
    pub network: Network,
    /// `uid`, `uid:gid` or a name of the image; None: the image's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: Option<String>,
    pub workdir: String,
    pub log_limit_bytes: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub outputs: Vec<Output>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoints: Option<Checkpoints>,
}

/// A program with its arguments, or one line for a shell. Only what was written as one string is given to a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Argv(Vec<String>),
    Shell(String),
}

impl Command {
    /// What is executed: the arguments, or `/bin/sh -c LINE`.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Argv(argv) => argv.clone(),
            Self::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        }
    }
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Argv(argv) => argv.is_empty(),
            Self::Shell(line) => line.trim().is_empty(),
        }
    }
    /// As a person would type it.
    pub fn display(&self) -> String {
        match self {
            Self::Shell(line) => line.clone(),
            Self::Argv(argv) => argv
                .iter()
                .map(|word| {
                    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "\"'$`\\;&|<>()".contains(c)) {
                        format!("'{}'", word.replace('\'', r"'\''"))
                    } else {
                        word.clone()
                    }
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }
}

/// Everything that decides which nodes fit. Tasks with equal requirements form one class of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    pub amounts: Amounts,
    /// `/dev/shm` of a container; None: half of the memory.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub arch: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeSet<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub internet: bool,
    /// This node and no other, by name or id.
    #[serde(skip_serializing_if = "is_default")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub prefer: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub avoid: BTreeMap<String, String>,
}

/// A class of the queue: what placement looks at, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Needs {
    pub executor: String,
    pub requirements: Requirements,
    /// It needs a node whose agent can end exclusive work by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exclusive: bool,
    /// It needs a node whose agent brings inputs and takes outputs: an older one would run it without.
    #[serde(default, skip_serializing_if = "is_default")]
    pub artifacts: bool,
    /// It needs a node whose agent keeps checkpoints: an older one would begin from the beginning.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoints: bool,
}

impl TaskSpec {
    pub fn needs(&self) -> Needs {
        Needs {
            executor: self.executor.clone(),
            requirements: self.requirements.clone(),
            exclusive: self.on_node_loss.exclusive,
            artifacts: !self.inputs.is_empty() || !self.outputs.is_empty(),
            checkpoints: self.checkpoints.is_some(),
        }
    }
    pub fn shm_bytes(&self) -> u64 {
        self.requirements.shm_bytes.unwrap_or(self.requirements.amounts.memory_bytes / 2)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnNodeLoss {
    /// How long after the node went offline its task may be placed again.
    pub replace_after_ms: u64,
    /// Never two at once, not even for a moment.
    #[serde(skip_serializing_if = "is_default")]
    pub exclusive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    pub signal: String,
    pub grace_ms: u64,
}
impl Default for Stop {
    fn default() -> Self {
        Self { signal: "SIGTERM".into(), grace_ms: 10_000 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    #[default]
    Default,
    None,
}

/// The four names of priorities and their integers.
pub const PRIORITIES: [(&str, i32); 4] = [("urgent", 100), ("high", 50), ("normal", 0), ("low", -50)];

#[cfg(test)]
mod tests;
