//! From a node to the platform.

use crate::version::Versions;
use domain::{
    attempt::Report,
    ids::{Held, InstanceId},
    node::{NodeFacts, NodeMetrics},
    reconcile::HeldAttempt,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromNode {
    Hello(Box<Hello>),
    Heartbeat {
        metrics: Box<NodeMetrics>,
        /// Which one it is in this session, so that its answer is known for its own: from 1 on. 0: of an older agent.
        #[serde(default, skip_serializing_if = "is_zero")]
        number: u64,
        /// How many pieces of logs were sent before it in this session. 0: none, or an older agent.
        #[serde(default, skip_serializing_if = "is_zero")]
        pieces: u64,
    },
    /// Held by the agent until its sequence number is acknowledged, and sent again after a reconnect.
    Report {
        held: Held,
        report: Report,
    },
    /// The machine changed: Docker came back, a GPU was added.
    Facts {
        facts: Box<NodeFacts>,
    },
    Error {
        code: String,
        detail: String,
    },
    #[serde(other)]
    Unknown,
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub versions: Versions,
    pub instance: InstanceId,
    pub facts: NodeFacts,
    pub metrics: NodeMetrics,
    pub inventory: Inventory,
}

/// All attempts that the agent still knows, taken after it adopted what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// Whether an executor could be asked. Absence from the list counts only where it is complete: a hung Docker is not an empty one.
    pub executors: BTreeMap<String, Completeness>,
    pub attempts: Vec<HeldAttempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completeness {
    Complete,
    Unknown,
}
