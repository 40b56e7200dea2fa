//! Which node runs which waiting task. Pure: (heads of the queue, nodes, policy) -> plan. Same snapshot, same plan.

mod score;
mod unfit;

pub use unfit::{Unfit, check_fit};

use crate::{
    Timestamp,
    ids::{NodeId, TaskId},
    node::NodeView,
    resources::{Ledger, Reservation},
    spec::Needs,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a node is chosen among those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The smallest share in use.
    #[default]
    LeastLoaded,
    /// One after another.
    RoundRobin,
    /// In proportion to the label `weight` (1 to 1000, 1 by default).
    Weighted,
    Random,
    /// The largest share in use that still fits: keeps whole nodes free.
    Pack,
}

/// What the leader knows when it decides. `now` is the database's.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub now: Timestamp,
    /// The first waiting tasks of every class of needs, so that what cannot be placed blocks nobody.
    pub heads: Vec<Head>,
    pub nodes: Vec<Candidate>,
}

/// A waiting task.
#[derive(Clone, Debug)]
pub struct Head {
    pub task: TaskId,
    /// Index of its needs among the classes; equal needs, equal class.
    pub class: i64,
    pub needs: Needs,
    pub priority: i32,
    /// Order of submission within a priority.
    pub queued_at: Timestamp,
    pub avoid_node: Option<NodeId>,
    /// Keys of its environment and repositories, as nodes report them in `warm`.
    pub warm_keys: BTreeSet<String>,
}

/// A node with what is free on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: NodeView,
    pub ledger: Ledger,
    /// Attempts that hold a reservation here.
    pub holding: u32,
    /// Cordoned by the rule, and due for one real task that tells whether it has healed.
    pub may_probe: bool,
}

/// A decision to commit: it is checked again there, since the snapshot may be stale by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub task: TaskId,
    pub node: NodeId,
    pub reservation: Reservation,
}

/// State that the strategy carries from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    pub strategy: Strategy,
    /// Placements given to each node so far, for round robin and weighted turns.
    given: BTreeMap<NodeId, u64>,
}

impl Turn {
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, given: BTreeMap::new() }
    }
}

/// Places what fits: urgent first, then in order of submission, ties by id. Resources taken in this pass count at once.
/// `randoms` yields numbers from 0 to 1 for the random strategy; the shell draws them.
pub fn plan(snapshot: &mut Snapshot, turn: &mut Turn, mut randoms: impl FnMut() -> f64) -> Vec<Placement> {
    let mut heads: Vec<Head> = std::mem::take(&mut snapshot.heads);
    heads.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.queued_at.cmp(&b.queued_at)).then(a.task.cmp(&b.task)));
    let mut placements = Vec::new();
    // Once the first of a class found no room, neither will the next: free room only shrinks within a pass.
    let mut full_classes: BTreeSet<i64> = BTreeSet::new();
    for head in &heads {
        if full_classes.contains(&head.class) {
            continue;
        }
        let fitting: Vec<(usize, Reservation)> = snapshot
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, candidate)| check_fit(candidate, &head.needs).ok().map(|reservation| (i, reservation)))
            .collect();
        if fitting.is_empty() {
            full_classes.insert(head.class);
            continue;
        }
        let (chosen, reservation) = score::choose(fitting, &snapshot.nodes, head, turn, &mut randoms);
        let candidate = &mut snapshot.nodes[chosen];
        candidate.ledger.hold(&reservation);
        candidate.holding += 1;
        // One, and no more until that one has ended.
        candidate.may_probe = false;
        *turn.given.entry(candidate.node.id).or_default() += 1;
        placements.push(Placement { task: head.task, node: candidate.node.id, reservation });
    }
    snapshot.heads = heads;
    placements
}

#[cfg(test)]
mod tests;
