//! What the leader believes of the nodes, and what it has to read again.
//!
//! All nodes are read once, then again from time to time; in between only what a hint names, or what a commit has found to be
//! otherwise. Own placements count at once. A belief may be wrong: every commit checks it, so a lost hint costs latency only.

use super::{Candidate, Fleet, Head, Placement, Strategy, Turns};
use crate::{
    ids::{AttemptId, NodeId, TaskId},
    node::NodeView,
    resources::{Ledger, Reservation},
    spec::Needs,
};
use std::collections::{BTreeMap, BTreeSet};

/// A node as it was read, with the attempts that hold something there.
#[derive(Clone, Debug)]
pub struct Reading {
    pub node: NodeView,
    pub may_probe: bool,
    pub held: BTreeMap<AttemptId, Reservation>,
}

impl Reading {
    pub fn candidate(&self) -> Candidate {
        let mut ledger = Ledger::new(self.node.facts.capacity.clone());
        self.held.values().for_each(|reservation| ledger.hold(reservation));
        Candidate { node: self.node.clone(), ledger, holding: self.held.len() as u32, may_probe: self.may_probe }
    }
}

/// Which nodes were asked for: those of them that were not found are no more.
#[derive(Clone, Debug)]
pub enum Asked {
    Nodes(BTreeSet<NodeId>),
    /// In the order of their ids: after the first, up to the second; None: from the beginning, to the end.
    Range(Option<NodeId>, Option<NodeId>),
}

/// What is to be read before the next plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    pub everything: bool,
    pub nodes: BTreeSet<NodeId>,
    /// They have given back what they held. Told after it was committed, and never taken back, so there is nothing to read.
    pub freed: BTreeSet<AttemptId>,
}

impl Unread {
    pub fn is_empty(&self) -> bool {
        !self.everything && self.nodes.is_empty() && self.freed.is_empty()
    }

    pub fn add(&mut self, more: Self) {
        self.everything |= more.everything;
        self.nodes.extend(more.nodes);
        self.freed.extend(more.freed);
    }
}

/// See the module.
pub struct Watched {
    fleet: Fleet,
    held: BTreeMap<AttemptId, (NodeId, Reservation)>,
    held_on: BTreeMap<NodeId, BTreeSet<AttemptId>>,
    unread: Unread,
}

impl Watched {
    /// Knows nothing yet.
    pub fn new(strategy: Strategy) -> Self {
        let unread = Unread { everything: true, ..Unread::default() };
        Self { fleet: Fleet::new(strategy), held: BTreeMap::new(), held_on: BTreeMap::new(), unread }
    }

    /// Something may have changed.
    pub fn hear(&mut self, hints: Unread) {
        self.unread.add(hints);
    }

    /// Frees what was told to be free, and takes what is to be read. Who fails to read it tells it again by [`Watched::hear`]. Not while
    /// a commit is under way: what it leases is not known here yet.
    pub fn take_unread(&mut self) -> Unread {
        let mut unread = std::mem::take(&mut self.unread);
        // What nobody knows here holds nothing here.
        unread.freed.retain(|attempt| {
            let held = self.held.remove(attempt);
            held.inspect(|(node, reservation)| {
                self.held_on.get_mut(node).map(|held| held.remove(attempt));
                self.fleet.release(*node, reservation);
            })
            .is_some()
        });
        if unread.everything {
            unread.nodes.clear();
        }
        unread
    }

    /// These are the nodes that were asked for.
    pub fn read(&mut self, asked: &Asked, readings: Vec<Reading>) {
        let found: BTreeSet<NodeId> = readings.iter().map(|reading| reading.node.id).collect();
        let was_asked = |node: &NodeId| match asked {
            Asked::Nodes(nodes) => nodes.contains(node),
            Asked::Range(after, to) => after.is_none_or(|after| after < *node) && to.is_none_or(|to| *node <= to),
        };
        let is_gone = |node: &NodeId| was_asked(node) && !found.contains(node);
        let gone: Vec<NodeId> = self.fleet.nodes().map(|it| it.node.id).filter(is_gone).collect();
        for node in gone {
            self.fleet.remove(node);
            self.forget_held_on(node);
        }
        for reading in readings {
            let node = reading.node.id;
            self.fleet.replace(reading.candidate());
            self.forget_held_on(node);
            self.held_on.insert(node, reading.held.keys().copied().collect());
            self.held.extend(reading.held.into_iter().map(|(attempt, it)| (attempt, (node, it))));
        }
    }

    pub fn has_room_for(&mut self, class: i64, needs: &Needs) -> bool {
        self.fleet.has_room_for(class, needs)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Candidate> {
        self.fleet.nodes()
    }

    /// As [`Fleet::plan`]. What came of it is told by [`Watched::committed`] or [`Watched::in_doubt`].
    pub fn plan(&mut self, heads: &mut [Head], turns: &mut Turns, randoms: impl FnMut() -> f64) -> Vec<Placement> {
        self.fleet.plan(heads, turns, randoms)
    }

    /// These of the plan were committed; what was believed of the other nodes is not true any more.
    pub fn committed(&mut self, plan: Vec<Placement>, leases: &BTreeMap<TaskId, AttemptId>) {
        for placement in plan {
            match leases.get(&placement.task) {
                Some(attempt) => {
                    self.held_on.entry(placement.node).or_default().insert(*attempt);
                    self.held.insert(*attempt, (placement.node, placement.reservation));
                }
                None => _ = self.unread.nodes.insert(placement.node),
            }
        }
    }

    /// It is not known what of the plan was committed.
    pub fn in_doubt(&mut self, plan: &[Placement]) {
        self.unread.nodes.extend(plan.iter().map(|placement| placement.node));
    }

    fn forget_held_on(&mut self, node: NodeId) {
        for attempt in self.held_on.remove(&node).unwrap_or_default() {
            self.held.remove(&attempt);
        }
    }
}
