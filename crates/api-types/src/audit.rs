//! `GET /audit/invariants`: what always holds, and the rows that break it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// All of them hold. False also where one could not be looked at.
    pub clean: bool,
    pub invariants: Vec<Invariant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariant {
    /// Its stable name.
    pub id: String,
    /// What holds, in one sentence.
    pub says: String,
    pub state: InvariantState,
    /// What breaks it, with ids; at most twenty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<String>,
    /// So many more break it.
    #[serde(default)]
    pub more: u64,
    /// Why it could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvariantState {
    Holds,
    Broken,
    Unknown,
}
