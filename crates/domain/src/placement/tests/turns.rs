//! Whose turn it is, with room for so many and tasks that are all alike but for their project, urgency and age.

use super::{super::TURNS, *};
use crate::ids::ProjectId;
use proptest::prelude::any;

fn project(n: u128) -> ProjectId {
    ProjectId::from_uuid(Uuid::from_u128(n))
}

/// `n` is also when it was queued. Each project has a class of its own, as in the queue.
fn of(p: u128, n: u128) -> Head {
    Head { project: project(p), class: p as i64, ..head(n, 1) }
}

/// The tasks that are placed where there is room for so many, in their order.
fn placed(turns: &mut Turns, mut heads: Vec<Head>, room: u64) -> Vec<u128> {
    let plan = fleet(&[node(1, room)], Strategy::LeastLoaded).plan(&mut heads, turns, || 0.5);
    plan.into_iter().map(|placement| placement.task.as_uuid().as_u128()).collect()
}

#[test]
fn of_equally_urgent_tasks_the_project_with_the_fewest_live_ones_is_next_then_the_oldest() {
    let waiting = || vec![of(1, 1), of(1, 2), of(1, 3), of(2, 4), of(2, 5), of(2, 6)];
    assert_eq!(placed(&mut Turns::default(), waiting(), 4), [1, 4, 2, 5]);
    let mut turns = Turns::default();
    turns.count_anew([(project(1), 2)].into());
    assert_eq!(placed(&mut turns, waiting(), 4), [4, 5, 1, 6], "what runs already counts");
    assert_eq!(placed(&mut turns, vec![of(1, 7), of(2, 8)], 2), [7, 8], "and what was placed since");
}

#[test]
fn what_is_more_urgent_comes_first_whoever_has_how_much() {
    let urgent = |n| Head { priority: 100, ..of(1, n) };
    assert_eq!(placed(&mut Turns::default(), vec![of(2, 1), urgent(2), urgent(3), of(1, 4)], 3), [2, 3, 1]);
}

#[test]
fn a_project_whose_needs_fit_nowhere_holds_up_no_other_and_none_of_its_own() {
    let big = |n| Head { class: 99, project: project(1), ..head(n, 99) };
    assert_eq!(placed(&mut Turns::default(), vec![big(1), big(2), of(1, 3), of(2, 4)], 9), [3, 4]);
}

#[test]
fn a_low_task_that_has_waited_long_is_placed_after_a_bounded_number_of_urgent_ones() {
    let mut turns = Turns::default();
    turns.old_until(Some(at(0)));
    let low = Head { priority: -50, queued_at: at(0), ..of(1, 1_000_000) };
    // One slot at a time, and always something more urgent, of the same project or of one that has nothing.
    let mut before = 0;
    loop {
        let urgent = |p| Head { priority: 100, ..of(p, before + 1) };
        match placed(&mut turns, vec![urgent(1 + before % 2), low.clone()], 1)[..] {
            [1_000_000] => break,
            _ => before += 1,
        }
        assert!(before < 100, "it starves");
    }
    assert_eq!(before as u32, TURNS - 1);
    // In one pass of many as well, and no more than its share.
    let many = (1..=40).map(|n| Head { priority: 100, ..of(1, n) });
    let lows = (0..40).map(|n| Head { priority: -50, queued_at: at(-n), ..of(1, 100 + n as u128) });
    let plan = placed(&mut turns, many.chain(lows).collect(), 32);
    assert_eq!(
        plan.iter().filter(|n| **n >= 100).copied().collect::<Vec<_>>(),
        [139, 138, 137, 136],
        "the oldest first"
    );
}

#[test]
fn age_alone_counts_for_nothing_where_it_is_turned_off_and_for_what_came_lately() {
    for (until, queued_at) in [(None, at(-1_000_000)), (Some(at(0)), at(1))] {
        let mut turns = Turns::default();
        turns.old_until(until);
        let low = Head { priority: -50, queued_at, ..of(1, 1_000) };
        let urgent = (1..=100).map(|n| Head { priority: 100, queued_at: at(2), ..of(1, n) });
        assert!(!placed(&mut turns, urgent.chain([low]).collect(), 100).contains(&1_000));
    }
}

#[test]
fn what_is_old_and_fits_nowhere_costs_no_turn() {
    let mut turns = Turns::default();
    turns.old_until(Some(at(0)));
    let stuck = Head { queued_at: at(-9), class: 99, ..head(999, 99) };
    let waiting = (1..=20).map(|n| of(1, n)).chain([stuck]);
    assert_eq!(placed(&mut turns, waiting.collect(), 20), (1..=20).collect::<Vec<_>>());
}

proptest! {
    /// Whoever was given something has at most one more than who still waits; and no slot stays empty.
    #[test]
    fn slots_are_shared_out_evenly_and_all_of_them(
        demands in prop::collection::vec((0u64..40, 0u64..30), 1..6), room in 0u64..120, interleaved in any::<bool>(),
    ) {
        let mut turns = Turns::default();
        turns.count_anew(demands.iter().enumerate().map(|(p, (_, live))| (project(p as u128), *live)).collect());
        let mut waiting = Vec::new();
        for (p, (wanted, _)) in demands.iter().enumerate() {
            for n in 0..*wanted as u128 {
                let (p, many) = (p as u128, demands.len() as u128);
                waiting.push(of(p, 1 + if interleaved { n * many + p } else { p * 40 + n }));
            }
        }
        let project_of: std::collections::BTreeMap<u128, u128> =
            waiting.iter().map(|head| (head.task.as_uuid().as_u128(), head.project.as_uuid().as_u128())).collect();
        let asked = waiting.len() as u64;
        let plan = placed(&mut turns, waiting, room);
        prop_assert_eq!(plan.len() as u64, room.min(asked));
        let given = |p: usize| plan.iter().filter(|task| project_of[task] == p as u128).count() as u64;
        let live = |p: usize| demands[p].1 + given(p);
        for i in (0..demands.len()).filter(|i| given(*i) > 0) {
            for j in (0..demands.len()).filter(|j| given(*j) < demands[*j].0) {
                prop_assert!(live(i) <= live(j) + 1, "{i} has {}, and {j}, which waits, has {}", live(i), live(j));
            }
        }
    }
}
