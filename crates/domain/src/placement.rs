//! Which node runs which waiting task. Pure: (heads of the queue, nodes, policy) -> plan. The same nodes and heads, the same plan:
//! what [`Fleet`] keeps from pass to pass makes it fast and decides nothing but which node is next, as [`Turns`] says which task is.

mod ahead;
mod fleet;
mod order;
mod pool;
mod score;
mod turns;
mod unfit;
mod watched;

pub use ahead::{FEATURE as AHEAD, Short, may_go_ahead};
pub use fleet::Fleet;
pub use turns::{TURNS, Turns, before};
pub use unfit::{Unfit, check_fit};
pub use watched::{Asked, Reading, Unread, Watched};

use crate::{
    Timestamp,
    ids::{NodeId, ProjectId, TaskId},
    node::NodeView,
    resources::{Amounts, Ledger, Reservation},
    spec::Needs,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

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

/// A waiting task.
#[derive(Clone, Debug)]
pub struct Head {
    pub task: TaskId,
    pub project: ProjectId,
    /// Of its needs and its project: equal class, equal needs.
    pub class: i64,
    pub needs: Arc<Needs>,
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
    /// What of that waits there for its place, and so holds nothing yet. For readers: no decision looks at it.
    pub waiting: Waiting,
}

/// Attempts that were sent ahead and have not begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub attempts: u32,
    pub amounts: Amounts,
}

impl Candidate {
    /// What attempts hold that have their place.
    pub fn in_place(&self) -> Reservation {
        let held = self.ledger.held();
        Reservation { gpu_ids: held.gpu_ids.clone(), ..Reservation::of(&held.amounts().minus(&self.waiting.amounts)) }
    }
}

/// A decision to commit: it is checked again there, since the snapshot may be stale by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub task: TaskId,
    pub node: NodeId,
    pub reservation: Reservation,
}

#[cfg(test)]
mod tests;
