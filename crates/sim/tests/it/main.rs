//! Many seeds of the whole system. What a seed decides stands in `sim::faults`, what must hold in `sim::assertions`.
//!
//!     SIM_SEEDS=20000 cargo test -p sim             many more fresh seeds
//!     SIM_SEED=77 SIM_SEEDS=1 cargo test -p sim     one, its faults shrunk and its story told when it fails
//!     SIM_COMMIT=$(git rev-parse HEAD) ...          other fresh seeds for each commit, and the same ones again for the same commit

mod planted;
mod seeds;

/// Plays many seeds on all cores; each is its own world, so the order of the answers is the order of the seeds.
fn play_all<T: Send>(seeds: &[u64], play: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<&[u64]> = seeds.chunks(seeds.len().div_ceil(threads).max(1)).collect();
    let play = &play;
    std::thread::scope(|scope| {
        let running: Vec<_> = parts
            .iter()
            .map(|part| scope.spawn(move || part.iter().map(|seed| play(*seed)).collect::<Vec<T>>()))
            .collect();
        running.into_iter().flat_map(|part| part.join().expect("a world does not panic")).collect()
    })
}
