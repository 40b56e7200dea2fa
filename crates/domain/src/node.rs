//! A node as the platform sees it: what it says of itself, and whether it may get new work.

use crate::{Timestamp, ids::NodeId, resources::Capacity};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What an agent tells about its machine at hello, and again when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    pub agent_version: String,
    /// linux, windows, darwin, android.
    pub platform: String,
    /// x86_64, aarch64, armv7.
    pub arch: String,
    /// As people call it: `Debian GNU/Linux 12`.
    pub os: String,
    pub hostname: String,
    pub cpu_model: String,
    pub capacity: Capacity,
    /// Executor or task type -> its version: `container: 1`, `process: 1`.
    pub executors: BTreeMap<String, String>,
    /// worker, compute, storage, mobile.
    pub role: String,
    pub tags: BTreeSet<String>,
    pub labels: BTreeMap<String, String>,
    pub internet: bool,
    pub docker_version: Option<String>,
    pub gpu_driver: Option<String>,
    /// How limits are enforced: `container: cgroup v1`, `process: watcher of the tree's memory`.
    pub limits: BTreeMap<String, String>,
    /// The most attempts at once, by the owner's wish. 0: as many as fit.
    pub max_tasks: u32,
    /// What this agent can do that not every agent can: `self_fence:container`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// Which start of the machine this is. None: an older agent, or one that can't tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Uuid>,
}

impl NodeFacts {
    /// Whether the two are surely of two starts: of a machine before and after a restart, or of a machine and its copy.
    pub fn is_of_another_boot(&self, other: &Self) -> bool {
        matches!((self.boot, other.boot), (Some(one), Some(another)) if one != another)
    }
}

/// What a heartbeat carries: figures that move, conditions, and what is warm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeMetrics {
    pub cpu_percent: f32,
    pub memory_used_bytes: u64,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub live_attempts: u32,
    /// Reasons why the node can't take some work now.
    pub conditions: BTreeSet<Condition>,
    /// Keys of the environments whose image is there, and of the repositories in the git cache.
    pub warm: BTreeSet<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuMetrics>,
}

/// What a GPU's driver says of it; what it does not know is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuMetrics {
    /// As in [`crate::resources::Gpu`].
    pub id: String,
    pub usage_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub temperature_celsius: Option<u32>,
}

/// What is wrong at a node. A condition, never a verdict about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    DockerUnavailable,
    DiskFull,
    /// The agent is going down and takes nothing new.
    Stopping,
    /// A newer agent's word that this server does not know.
    #[serde(other)]
    Unknown,
}

impl Condition {
    /// Whether new work for this executor must go elsewhere while it lasts.
    pub fn refuses(self, executor: &str) -> bool {
        match self {
            Self::DockerUnavailable => executor == "container",
            Self::DiskFull | Self::Stopping | Self::Unknown => true,
        }
    }
    pub fn describe(self) -> &'static str {
        match self {
            Self::DockerUnavailable => "Docker does not answer",
            Self::DiskFull => "disk full",
            Self::Stopping => "its agent is stopping",
            Self::Unknown => "a condition that this server does not know",
        }
    }
}

/// Whether the node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    Connected,
    /// The socket is gone or three heartbeats were missed: no new work, running work goes on.
    Disconnected,
    /// Silent for 90 s by the database's clock.
    Offline,
}

/// Whether it may get new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    Open,
    Cordoned,
    Draining,
    Drained,
    Revoked,
}

macro_rules! words {
    ($type:ident, $($variant:ident => $word:literal),+) => {
        impl $type {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
words!(Presence, Connected => "connected", Disconnected => "disconnected", Offline => "offline");
words!(Admission, Open => "open", Cordoned => "cordoned", Draining => "draining", Drained => "drained", Revoked => "revoked");

/// A node for a reader: facts, figures and state together.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub id: NodeId,
    pub name: String,
    pub facts: NodeFacts,
    pub metrics: NodeMetrics,
    pub presence: Presence,
    pub admission: Admission,
    /// Who set the admission, and why.
    pub admission_note: String,
    /// When what still runs on a draining node is moved. None: it may take its time.
    pub drain_deadline: Option<Timestamp>,
    /// When one real task is let through to see whether it has healed. Only where the rule cordoned it, not a person.
    pub probe_at: Option<Timestamp>,
    pub last_seen_at: Option<Timestamp>,
    pub connected_since: Option<Timestamp>,
    pub created_at: Timestamp,
}
