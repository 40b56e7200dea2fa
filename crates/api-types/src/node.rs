//! Nodes, their tokens, and the cluster at a glance.

use chrono::{DateTime, Utc};
use domain::{
    ids::{NodeId, NodeTokenId},
    node::{Admission, NodeFacts, NodeMetrics, Presence},
    resources::Reservation,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub presence: Presence,
    pub admission: Admission,
    pub admission_note: String,
    /// When what still runs on a draining node is moved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drain_deadline: Option<DateTime<Utc>>,
    /// When a node that the rule cordoned is tried with one real task.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_at: Option<DateTime<Utc>>,
    pub facts: NodeFacts,
    pub metrics: NodeMetrics,
    pub reserved: Reservation,
    /// Attempts that hold a reservation.
    pub tasks: u32,
    /// Short tasks that were sent ahead and wait there for their place; they hold nothing yet.
    #[serde(skip_serializing_if = "is_none_of_them", default)]
    pub waiting: u32,
    pub last_seen_at: Option<DateTime<Utc>>,
    pub connected_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

fn is_none_of_them(count: &u32) -> bool {
    *count == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<Node>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNodeToken {
    /// Of the node: 1 to 63 characters, letters, digits, `-`, `_`, `.`.
    pub name: String,
}

/// The answer to a creation: the only time that the secret is seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreatedNodeToken {
    pub id: NodeTokenId,
    pub node_id: NodeId,
    pub name: String,
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeToken {
    pub id: NodeTokenId,
    pub node_id: NodeId,
    pub name: String,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeTokenList {
    /// The newest first.
    pub tokens: Vec<NodeToken>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// Shown to those who wait for the node.
    pub note: String,
    /// `1h`: what still runs then is stopped there and runs again elsewhere. None: it may take its time.
    pub deadline: Option<String>,
}

/// The query of `DELETE /node-tokens/{id}`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RevokeQuery {
    /// What runs on the node is placed elsewhere at once, and not only when the node has been offline for long enough.
    pub evict: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Tasks by state.
    pub tasks: BTreeMap<String, u64>,
    /// Nodes by presence.
    pub nodes: BTreeMap<String, u64>,
    pub cpu_millis_total: u64,
    pub cpu_millis_reserved: u64,
    pub memory_bytes_total: u64,
    pub memory_bytes_reserved: u64,
    pub gpus_total: u64,
    pub gpus_reserved: u64,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<SilenceAlarm>,
}

/// So many nodes fell silent at once that the cause may be the platform or its network: they are given one more period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SilenceAlarm {
    pub silent_nodes: u64,
    /// All nodes that were not offline then, the silent ones among them.
    pub of_nodes: u64,
    pub nothing_offline_before: DateTime<Utc>,
}
