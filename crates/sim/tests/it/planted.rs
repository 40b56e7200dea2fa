//! The power of the net: each defect that is planted must be found, and after how many seeds is the figure to watch.

use crate::play_all;
use sim::{Plan, Planted, Violation, World};
use std::collections::BTreeMap;

/// Rare interleavings need many seeds. The search ends when the defect was found often, or once after many.
const MOST_SEEDS: u64 = 3_000;
const MANY_SEEDS: u64 = 300;
const FOUND_OFTEN: usize = 3;
const SEEDS_AT_ONCE: u64 = 25;
/// Others than the fresh ones.
const FIRST: u64 = 5_000;

fn find(name: &str, planted: Planted, by: &[&str]) {
    let mut gaps = Vec::new();
    let mut promises = BTreeMap::<&str, u64>::new();
    let mut last = FIRST;
    let mut next = FIRST;
    let mut first = None;
    while gaps.len() < FOUND_OFTEN && next < FIRST + if gaps.is_empty() { MOST_SEEDS } else { MANY_SEEDS } {
        let seeds: Vec<u64> = (next..next + SEEDS_AT_ONCE).collect();
        next += SEEDS_AT_ONCE;
        let violations: Vec<Option<Violation>> =
            play_all(&seeds, |seed| World::new(Plan::of(seed).with(planted)).play().violation);
        for (seed, violation) in seeds.into_iter().zip(violations) {
            let Some(violation) = violation else { continue };
            first.get_or_insert(seed);
            gaps.push(seed + 1 - last);
            last = seed + 1;
            *promises.entry(violation.promise).or_default() += 1;
        }
    }
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2);
    println!(
        "{name}: median {median:?} seeds to find it ({} times in {} seeds, first by {first:?}) {promises:?}",
        gaps.len(),
        next - FIRST
    );
    assert!(!gaps.is_empty(), "{name} was not found in {MOST_SEEDS} seeds");
    let is_expected = |promise: &&str| by.iter().any(|by| promise.starts_with(by));
    assert!(promises.keys().any(is_expected), "{name} was found, but only by {promises:?}");
}

macro_rules! planted {
    ($($name:ident: [$($defect:ident),+] by $by:expr),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                find(stringify!($name), Planted { $($defect: true,)+ ..Planted::default() }, &$by);
            }
        )+
    };
}
// Room is checked again at the commit, and that wall alone would hide a defect in front of it.
planted! {
    reports_acknowledged_before_the_commit: [ack_before_commit] by ["I28"],
    a_fence_that_is_not_compared: [fence_ignored] by ["I07", "I08", "I09"],
    reservations_that_end_with_the_task: [live_only_holds, commit_trusts_snapshot] by ["I19"],
    a_record_that_never_reaches_the_disk: [record_not_persisted] by ["I17"],
    log_bytes_counted_instead_of_placed: [log_by_count] by ["I29"],
    a_former_leader_that_commits: [stale_leader_commits] by ["I20"],
    a_former_session_that_counts: [stale_sessions_count] by ["I25"],
    a_node_that_returns_and_loses_its_work: [return_leaves_queued] by ["I11"],
    a_cancel_that_waits_for_a_node_that_is_gone: [offline_cancels_wait] by ["I05"],
    a_commit_that_believes_its_snapshot: [commit_trusts_snapshot] by ["I19"],
    an_assignment_sent_to_whom_the_hello_named_it: [assigns_known_attempts] by ["I17"],
    an_end_on_disk_before_the_last_bytes_of_its_log: [end_before_log_sync] by ["I29"],
    a_new_installation_that_gets_the_work_of_the_old: [new_instance_gets_old_work] by ["I17"],
    a_lost_node_that_is_charged_to_the_user: [node_loss_charged_to_user] by ["I13"],
    a_finishing_task_that_is_run_again: [finishing_runs_again] by ["I05"],
    a_hello_that_counts_however_late_it_is: [late_hello_counts] by ["I17"],
    silence_that_counts_while_the_platform_is_away: [absence_counts] by ["I23"],
    a_node_that_is_offline_for_a_step_of_the_clock: [clock_steps_count] by ["I23"],
    a_heartbeat_that_leaves_its_nodes_work_queued: [heartbeat_leaves_queued] by ["I11"],
    a_lease_by_a_clock_that_stands_still_in_a_suspend: [clock_stops_in_suspend] by ["I12"],
}
