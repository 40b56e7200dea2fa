use crate::play_all;
use sim::{Hits, Outcome, Plan, Sometimes, World, shrink::shrink};
use std::time::Instant;

const FRESH_SEEDS: u64 = 2_000;
/// Fewer events than this and a seed says nothing.
const EVENTS_OF_A_SEED: u64 = 300;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The first of the fresh seeds: as asked for, or made from the commit, or always the same.
fn first_seed() -> u64 {
    let of_commit = || std::env::var("SIM_COMMIT").ok().map(|commit| fnv(commit.trim()));
    from_env("SIM_SEED").or_else(of_commit).unwrap_or(1_000_000)
}

fn fnv(text: &str) -> u64 {
    // Below 2^53 with room to count on, so that a seed can be copied anywhere.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        >> 12
}

/// The failure as a person needs it: the seed, the fewest kinds of faults that do it, and the end of the story. `SIM_STORY=FILE` keeps all
/// of the story.
fn explain(seed: u64) -> String {
    let (plan, _) = shrink(&Plan::of(seed));
    let faults = plan.faults.clone();
    let outcome = World::new(plan).verbose().play();
    if let Some(file) = std::env::var_os("SIM_STORY") {
        std::fs::write(&file, outcome.story.join("\n")).expect("SIM_STORY names a file that can be written");
    }
    let story = outcome.story.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
    format!("{story}\nseed {seed}, with {faults:?} only:\n{:#?}", outcome.violation)
}

fn assert_all_hold(outcomes: &[Outcome]) {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.violation.is_some()).collect();
    let Some(first) = failed.first() else { return };
    let list: Vec<String> = failed
        .iter()
        .filter_map(|outcome| Some(format!("{} ({})", outcome.seed, outcome.violation.as_ref()?.promise)))
        .collect();
    panic!(
        "{}\n{} of {} seeds broke a promise: {}",
        explain(first.seed),
        failed.len(),
        outcomes.len(),
        list.join(", ")
    );
}

#[test]
fn fresh_seeds_keep_every_promise_and_put_each_to_the_test() {
    let (first, count) = (first_seed(), from_env("SIM_SEEDS").unwrap_or(FRESH_SEEDS));
    let seeds: Vec<u64> = (first..first + count).collect();
    let began = Instant::now();
    let outcomes = play_all(&seeds, sim::run);
    let seconds = began.elapsed().as_secs_f64();
    let mut hits = Hits::default();
    outcomes.iter().for_each(|outcome| hits.merge(&outcome.hits));
    let mut events: Vec<u64> = outcomes.iter().map(|outcome| outcome.events).collect();
    events.sort_unstable();
    let (median, total) = (events[events.len() / 2], events.iter().sum::<u64>());
    println!(
        "seeds {first} to {}: {:.0} seeds/s, {total} events, {median} in the median seed",
        first + count - 1,
        count as f64 / seconds
    );
    for what in Sometimes::ALL {
        println!("{:>8}  {}", hits.of(*what), what.words());
    }
    assert_all_hold(&outcomes);
    assert!(median >= EVENTS_OF_A_SEED, "the median seed has {median} events");
    // A handful of seeds, asked for by hand, need not see everything.
    if count >= FRESH_SEEDS {
        let missed: Vec<&str> = hits.missed().into_iter().map(Sometimes::words).collect();
        assert!(missed.is_empty(), "never happened in {count} seeds, so nothing is known about it: {missed:?}");
    }
}

#[test]
fn seeds_that_once_failed_hold() {
    let seeds: Vec<u64> = include_str!("../../regressions.txt")
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().parse().ok())
        .collect();
    assert!(!seeds.is_empty(), "regressions.txt names no seed");
    assert_all_hold(&play_all(&seeds, sim::run));
}

#[test]
fn a_seed_played_twice_is_the_same_run() {
    let seeds: Vec<u64> = (0..FRESH_SEEDS / 100).map(|n| first_seed() + n * 100).collect();
    let hashes = |_: ()| play_all(&seeds, |seed| sim::run(seed).trace_hash);
    let (first, second) = (hashes(()), hashes(()));
    assert_eq!(first, second);
    let distinct: std::collections::BTreeSet<u64> = first.into_iter().collect();
    assert_eq!(distinct.len(), seeds.len(), "two seeds with one hash: it is no hash of what happened");
}
