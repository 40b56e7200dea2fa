//! The order among nodes that fit: what the task prefers, then what is warm, then the strategy, then the id.

use super::{Candidate, Head, Strategy, Turn};
use crate::resources::Reservation;
use std::cmp::Reverse;

/// Chooses one. `fitting` is not empty.
pub(super) fn choose(
    fitting: Vec<(usize, Reservation)>,
    nodes: &[Candidate],
    head: &Head,
    turn: &Turn,
    randoms: &mut impl FnMut() -> f64,
) -> (usize, Reservation) {
    let best = fitting.iter().map(|(i, _)| wish(&nodes[*i], head)).max().unwrap_or_default();
    let mut equal: Vec<(usize, Reservation)> =
        fitting.into_iter().filter(|(i, _)| wish(&nodes[*i], head) == best).collect();
    let chosen = match turn.strategy {
        Strategy::Random => (randoms() * equal.len() as f64) as usize % equal.len(),
        Strategy::LeastLoaded => position_of_min(&equal, |i| {
            (nodes[i].ledger.load_permille(), u64::from(nodes[i].holding), given(turn, nodes, i))
        }),
        Strategy::Pack => {
            position_of_min(&equal, |i| (Reverse(nodes[i].ledger.load_permille()), Reverse(nodes[i].holding)))
        }
        Strategy::RoundRobin => position_of_min(&equal, |i| given(turn, nodes, i)),
        // The node whose share, after this placement, is the furthest below its weight.
        Strategy::Weighted => position_of_min(&equal, |i| (given(turn, nodes, i) + 1) * 1_000_000 / weight(&nodes[i])),
    };
    equal.swap_remove(chosen)
}

/// Higher is better: (not the node that failed last, preferences met less aversions met, warm keys).
fn wish(candidate: &Candidate, head: &Head) -> (bool, i64, usize) {
    let labels = &candidate.node.facts.labels;
    let met = |wanted: &std::collections::BTreeMap<String, String>| {
        wanted.iter().filter(|(k, v)| labels.get(*k) == Some(v)).count() as i64
    };
    let requirements = &head.needs.requirements;
    (
        head.avoid_node != Some(candidate.node.id),
        met(&requirements.prefer) - met(&requirements.avoid),
        head.warm_keys.intersection(&candidate.node.metrics.warm).count(),
    )
}

fn position_of_min<K: Ord>(equal: &[(usize, Reservation)], key: impl Fn(usize) -> K) -> usize {
    // Ties go to the first, and candidates come in the order of their ids.
    equal.iter().enumerate().min_by_key(|(_, (i, _))| key(*i)).map_or(0, |(position, _)| position)
}

fn given(turn: &Turn, nodes: &[Candidate], i: usize) -> u64 {
    turn.given.get(&nodes[i].node.id).copied().unwrap_or(0)
}

fn weight(candidate: &Candidate) -> u64 {
    candidate.node.facts.labels.get("weight").and_then(|w| w.parse().ok()).unwrap_or(1).clamp(1, 1000)
}
