//! The same decision the simple way: every node is looked at for every task. What [`Fleet`] chooses is what this chooses.

use super::super::{
    Candidate, Head, Placement, Strategy, check_fit,
    pool::{DRAWS, pick},
    score::{affinity, warmth, weight},
    unfit::suits,
};
use crate::{ids::NodeId, node::Admission, resources::Reservation};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

pub(super) struct Reference {
    strategy: Strategy,
    /// In the order of their ids.
    pub(super) nodes: Vec<Candidate>,
    given: BTreeMap<NodeId, u64>,
}

impl Reference {
    pub(super) fn new(strategy: Strategy, nodes: &[Candidate]) -> Self {
        Self { strategy, nodes: nodes.to_vec(), given: BTreeMap::new() }
    }

    pub(super) fn plan(&mut self, heads: &mut [Head], mut randoms: impl FnMut() -> f64) -> Vec<Placement> {
        heads.sort_by_key(|head| (Reverse(head.priority), head.queued_at, head.task));
        let mut placements = Vec::new();
        let mut full_classes: BTreeSet<i64> = BTreeSet::new();
        for head in heads.iter() {
            if full_classes.contains(&head.class) {
                continue;
            }
            let fitting: Vec<(usize, Reservation)> = (0..self.nodes.len())
                .filter_map(|i| check_fit(&self.nodes[i], &head.needs).ok().map(|reservation| (i, reservation)))
                .collect();
            if fitting.is_empty() {
                full_classes.insert(head.class);
                continue;
            }
            let (chosen, reservation) = self.choose(fitting, head, &mut randoms);
            let candidate = &mut self.nodes[chosen];
            candidate.ledger.hold(&reservation);
            candidate.holding += 1;
            candidate.may_probe = false;
            *self.given.entry(candidate.node.id).or_default() += 1;
            placements.push(Placement { task: head.task, node: candidate.node.id, reservation });
        }
        placements
    }

    fn choose(
        &self,
        fitting: Vec<(usize, Reservation)>,
        head: &Head,
        randoms: &mut impl FnMut() -> f64,
    ) -> (usize, Reservation) {
        let nodes = &self.nodes;
        let best = fitting.iter().map(|(i, _)| wish(&nodes[*i], head)).max().expect("one at least");
        let mut equal: Vec<(usize, Reservation)> =
            fitting.into_iter().filter(|(i, _)| wish(&nodes[*i], head) == best).collect();
        let load = |i: usize| nodes[i].ledger.load_permille();
        let given = |i: usize| self.given.get(&nodes[i].node.id).copied().unwrap_or(0);
        let chosen = match self.strategy {
            Strategy::Random => self.draw(&equal, best, head, randoms),
            Strategy::LeastLoaded => position_of_min(&equal, |i| (load(i), nodes[i].holding, given(i))),
            Strategy::Pack => position_of_min(&equal, |i| (Reverse(load(i)), Reverse(nodes[i].holding))),
            Strategy::RoundRobin => position_of_min(&equal, given),
            Strategy::Weighted => position_of_min(&equal, |i| (given(i) + 1) * 1_000_000 / weight(&nodes[i])),
        };
        equal.swap_remove(chosen)
    }

    /// Draws among the nodes with this wish that take work until one has room, and after some draws among those that have room:
    /// either way each is as likely as the other.
    fn draw(
        &self,
        equal: &[(usize, Reservation)],
        best: (bool, i64, u32),
        head: &Head,
        randoms: &mut impl FnMut() -> f64,
    ) -> usize {
        if !best.0 {
            return 0;
        }
        let takes_work = |i: &usize| {
            let it = &self.nodes[*i];
            let (_, affinity, warm) = wish(it, head);
            suits(it, &head.needs).is_ok()
                && (it.node.admission != Admission::Cordoned || it.may_probe)
                && (it.node.facts.max_tasks == 0 || it.holding < it.node.facts.max_tasks)
                && affinity == best.1
                && (warm == best.2 || best.2 == 0)
        };
        let open: Vec<usize> = (0..self.nodes.len()).filter(takes_work).collect();
        for _ in 0..DRAWS {
            let drawn = open[pick(open.len(), randoms())];
            if let Some(position) = equal.iter().position(|(i, _)| *i == drawn) {
                return position;
            }
        }
        pick(equal.len(), randoms())
    }
}

/// Higher is better: (not the node that failed last, preferences met less aversions met, warm keys).
fn wish(candidate: &Candidate, head: &Head) -> (bool, i64, u32) {
    (
        head.avoid_node != Some(candidate.node.id),
        affinity(candidate, &head.needs.requirements),
        warmth(candidate, &head.warm_keys),
    )
}

fn position_of_min<K: Ord>(equal: &[(usize, Reservation)], key: impl Fn(usize) -> K) -> usize {
    // Ties go to the first, and nodes come in the order of their ids.
    equal.iter().enumerate().min_by_key(|(_, (i, _))| key(*i)).map_or(0, |(position, _)| position)
}
