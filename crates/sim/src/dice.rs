//! The only source of chance. Every purpose has a stream of its own, so that switching one fault off leaves the others'
//! draws as they were.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Clone)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }
    pub(crate) fn unit(&mut self) -> f64 {
        self.0.random::<f64>()
    }
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }
    /// Small values as often as large ones: what latencies look like.
    pub(crate) fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low.max(1) as f64, high.max(1) as f64);
        (low * (high / low).powf(self.unit())) as u64
    }
    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.between(0, among.len() as u64 - 1) as usize]
    }
}
