//! What the leader believes of the nodes, and what it has to read again.
//!
//! All nodes are read once, then again from time to time; in between only what a hint names, or what a commit has found to be
//! otherwise. Own placements count at once. A belief may be wrong: every commit checks it, so a lost hint costs latency only.

use super::{
    Candidate, Fleet, Head, Placement, Short, Strategy, Turns, Waiting,
    ahead::{self, Pace},
    may_go_ahead,
};
use crate::{
    Timestamp,
    ids::{AttemptId, NodeId, TaskId},
    node::NodeView,
    resources::{Amounts, Ledger, Reservation},
    spec::Needs,
};
use std::collections::{BTreeMap, BTreeSet};

/// With more kinds of others waiting than this, nothing is sent ahead.
const OTHERS: usize = 16;

/// A node as it was read, with the attempts that hold something there.
#[derive(Clone, Debug)]
pub struct Reading {
    pub node: NodeView,
    pub may_probe: bool,
    pub held: BTreeMap<AttemptId, Reservation>,
    /// Those of them that wait there for their place.
    pub waiting: BTreeSet<AttemptId>,
}

impl Reading {
    pub fn candidate(&self) -> Candidate {
        let mut ledger = Ledger::new(self.node.facts.capacity.clone());
        self.held.values().for_each(|reservation| ledger.hold(reservation));
        let mut waiting = Waiting { attempts: self.waiting.len() as u32, amounts: Amounts::default() };
        for reservation in self.waiting.iter().filter_map(|attempt| self.held.get(attempt)) {
            waiting.amounts = waiting.amounts.plus(&reservation.amounts());
        }
        let holding = self.held.len() as u32;
        Candidate { node: self.node.clone(), ledger, holding, may_probe: self.may_probe, waiting }
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

/// What holds something on a node.
struct Held {
    node: NodeId,
    reservation: Reservation,
    /// Its class, and when it was leased; None: not by this leader.
    lease: Option<(i64, u64)>,
    is_short: bool,
}

/// See the module. Times are milliseconds of any clock that only goes forward.
pub struct Watched {
    fleet: Fleet,
    held: BTreeMap<AttemptId, Held>,
    held_on: BTreeMap<NodeId, BTreeSet<AttemptId>>,
    unread: Unread,
    pace: Pace,
    /// The class of what is planned, and whether it counts as short.
    planned: BTreeMap<TaskId, (i64, bool)>,
    /// Before then no room ahead is seen: others waited for it.
    rests_until_ms: u64,
    now_ms: u64,
}

impl Watched {
    /// Knows nothing yet.
    pub fn new(strategy: Strategy) -> Self {
        let unread = Unread { everything: true, ..Unread::default() };
        Self {
            fleet: Fleet::new(strategy),
            held: BTreeMap::new(),
            held_on: BTreeMap::new(),
            unread,
            pace: Pace::default(),
            planned: BTreeMap::new(),
            rests_until_ms: 0,
            now_ms: 0,
        }
    }

    /// What counts as short, if not what usually does.
    #[must_use]
    pub fn with_short(mut self, rule: Short) -> Self {
        self.pace.rule = rule;
        self
    }

    /// Something may have changed.
    pub fn hear(&mut self, hints: Unread) {
        self.unread.add(hints);
    }

    /// Frees what was told to be free, and takes what is to be read. Who fails to read it tells it again by [`Watched::hear`]. Not while
    /// a commit is under way: what it leases is not known here yet.
    pub fn take_unread(&mut self, now_ms: u64) -> Unread {
        self.now_ms = now_ms;
        let mut unread = std::mem::take(&mut self.unread);
        // What nobody knows here holds nothing here.
        unread.freed.retain(|attempt| {
            let held = self.held.remove(attempt);
            held.inspect(|held| {
                self.held_on.get_mut(&held.node).map(|all| all.remove(attempt));
                self.fleet.release(held.node, &held.reservation);
                if held.is_short {
                    self.fleet.note_short(held.node, &held.reservation.amounts(), false);
                }
                if let Some((class, leased_ms)) = held.lease {
                    self.pace.ended(class, now_ms.saturating_sub(leased_ms), held.reservation.ahead);
                }
            })
            .is_some()
        });
        self.note_overdue();
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
            let candidate = reading.candidate();
            let mut short = Amounts::default();
            let held: Vec<(AttemptId, Held)> = reading
                .held
                .into_iter()
                .map(|(attempt, reservation)| {
                    let known = self.held.get(&attempt);
                    let (lease, is_short) = known.map_or((None, false), |known| (known.lease, known.is_short));
                    if is_short {
                        short = short.plus(&reservation.amounts());
                    }
                    (attempt, Held { node, reservation, lease, is_short })
                })
                .collect();
            self.fleet.replace_knowing(candidate, short);
            self.forget_held_on(node);
            self.held_on.insert(node, held.iter().map(|(attempt, _)| *attempt).collect());
            self.held.extend(held);
        }
    }

    /// What counted as short and is not over by now does so no more.
    fn note_overdue(&mut self) {
        for attempt in self.pace.overdue(self.now_ms) {
            let Some(held) = self.held.get_mut(&attempt).filter(|held| held.is_short) else { continue };
            held.is_short = false;
            self.fleet.note_short(held.node, &held.reservation.amounts(), false);
            if let Some((class, _)) = held.lease {
                self.pace.was_long(class);
            }
        }
    }

    /// Whether a task of this class would be placed now, or may wait on a node.
    pub fn has_room_for(&mut self, class: i64, needs: &Needs) -> bool {
        self.fleet.has_room_for(class, needs)
            || self.now_ms >= self.rests_until_ms && self.is_short(class, needs) && self.fleet.has_room_ahead_for(needs)
    }

    /// Whether anything is known to be short: as long as nothing is, nothing goes ahead.
    pub fn knows_short(&self) -> bool {
        self.pace.knows_any()
    }

    fn is_short(&self, class: i64, needs: &Needs) -> bool {
        self.pace.is_short(class) && may_go_ahead(needs)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Candidate> {
        self.fleet.nodes()
    }

    /// As [`Fleet::plan`], and the first of a pass. What came of it is told by [`Watched::committed`] or [`Watched::in_doubt`].
    pub fn plan(&mut self, heads: &mut [Head], turns: &mut Turns, randoms: impl FnMut() -> f64) -> Vec<Placement> {
        let plan = self.fleet.plan(heads, turns, randoms);
        self.planned.clear();
        let classes: BTreeMap<TaskId, (i64, bool)> =
            heads.iter().map(|head| (head.task, (head.class, self.is_short(head.class, &head.needs)))).collect();
        for placement in &plan {
            let Some((class, is_short)) = classes.get(&placement.task).copied() else { continue };
            self.planned.insert(placement.task, (class, is_short));
            if is_short {
                self.fleet.note_short(placement.node, &placement.reservation.amounts(), true);
            }
        }
        plan
    }

    /// After [`Watched::plan`]: which of the heads that are `left` may wait on a node for what runs there. Only short tasks, behind short
    /// ones, and on no node for which others wait: other heads that are left, and `unseen`, the needs of classes that wait without one.
    /// The heads are in the order in which the plan has put them; `at` is when they were read.
    pub fn plan_ahead<'a>(
        &mut self,
        left: &'a [Head],
        unseen: impl IntoIterator<Item = (i64, &'a Needs)>,
        turns: &mut Turns,
        at: Timestamp,
    ) -> Vec<Placement> {
        if !self.knows_short() || self.now_ms < self.rests_until_ms {
            return Vec::new();
        }
        let mut others: BTreeSet<&Needs> = BTreeSet::new();
        let mut others_of = |class: i64, needs: &'a Needs| {
            if !self.is_short(class, needs) {
                others.insert(needs);
            }
        };
        left.iter().for_each(|head| others_of(head.class, &head.needs));
        unseen.into_iter().for_each(|(class, needs)| others_of(class, needs));
        let may_wait = |head: &&Head| self.is_short(head.class, &head.needs) && ahead::has_waited(head, at);
        let heads: Vec<Head> = left.iter().filter(may_wait).cloned().collect();
        if heads.is_empty() {
            return Vec::new();
        }
        let others: Vec<&Needs> = others.into_iter().collect();
        let plan = match others.len() <= OTHERS {
            true => self.fleet.plan_ahead(&heads, turns, &others),
            false => Vec::new(),
        };
        if plan.is_empty() && !others.is_empty() {
            self.rests_until_ms = self.now_ms + ahead::REST_MS;
        }
        let class_of: BTreeMap<TaskId, i64> = heads.iter().map(|head| (head.task, head.class)).collect();
        self.planned.extend(plan.iter().filter_map(|it| Some((it.task, (*class_of.get(&it.task)?, true)))));
        plan
    }

    /// These of the plan were committed; what was believed of the other nodes is not true any more.
    pub fn committed(&mut self, plan: Vec<Placement>, leases: &BTreeMap<TaskId, AttemptId>) {
        for placement in plan {
            match leases.get(&placement.task) {
                Some(attempt) => {
                    self.held_on.entry(placement.node).or_default().insert(*attempt);
                    let (class, is_short) = self.planned.remove(&placement.task).unzip();
                    let is_short = is_short.unwrap_or(false);
                    if is_short {
                        self.pace.leased(*attempt, placement.reservation.ahead, self.now_ms);
                    }
                    let lease = class.map(|class| (class, self.now_ms));
                    let Placement { node, reservation, .. } = placement;
                    self.held.insert(*attempt, Held { node, reservation, lease, is_short });
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
