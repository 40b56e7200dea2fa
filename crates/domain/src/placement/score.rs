//! The order among nodes that fit: what the task prefers, then what is warm, then the strategy, then the id.

use super::{Candidate, Strategy};
use crate::{ids::NodeId, spec::Requirements};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Where a node stands in an order; the smallest is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) wish: Wish,
    score: [u64; 3],
    id: NodeId,
}

/// What the task would like, before any strategy: a better one is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wish {
    /// Preferences met less aversions met.
    pub(super) affinity: Reverse<i64>,
    /// Keys of the task that are at hand there.
    pub(super) warm: Reverse<u32>,
}

/// `given`: placements that this planner gave the node so far.
pub(super) fn rank(strategy: Strategy, wish: Wish, candidate: &Candidate, given: u64) -> Rank {
    let load = || candidate.ledger.load_permille();
    let score = match strategy {
        Strategy::LeastLoaded => [load(), u64::from(candidate.holding), given],
        Strategy::Pack => [u64::MAX - load(), u64::from(u32::MAX - candidate.holding), 0],
        Strategy::RoundRobin => [given, 0, 0],
        // The node whose share, after this placement, is the furthest below its weight.
        Strategy::Weighted => [(given + 1) * 1_000_000 / weight(candidate), 0, 0],
        Strategy::Random => [0; 3],
    };
    Rank { wish, score, id: candidate.node.id }
}

pub(super) fn affinity(candidate: &Candidate, requirements: &Requirements) -> i64 {
    let labels = &candidate.node.facts.labels;
    let met =
        |wanted: &BTreeMap<String, String>| wanted.iter().filter(|(k, v)| labels.get(*k) == Some(v)).count() as i64;
    met(&requirements.prefer) - met(&requirements.avoid)
}

pub(super) fn warmth(candidate: &Candidate, keys: &BTreeSet<String>) -> u32 {
    keys.intersection(&candidate.node.metrics.warm).count() as u32
}

pub(super) fn weight(candidate: &Candidate) -> u64 {
    candidate.node.facts.labels.get("weight").and_then(|w| w.parse().ok()).unwrap_or(1).clamp(1, 1000)
}
