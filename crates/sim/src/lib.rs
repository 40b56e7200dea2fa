//! The whole system in one seeded world: virtual time, no runtime, no socket, no database.
//!
//! Owns: the event queue, the fakes that stand for everything with a clock or a device in it, the faults, and what must
//! hold. What it drives is the product's own code: `domain` (lifecycle, placement, retry) and the agent's core
//! [`provider_gateway::agent::Agent`]. Must not know: real time, real randomness, unordered maps.
//! Begin at [`run`]: the same seed gives the same run, event by event.

pub mod assertions;
mod dice;
mod fakes;
pub mod faults;
pub mod reference;
pub mod shrink;
mod trace;
mod world;

pub use assertions::{Hits, Sometimes, Violation};
pub use faults::{Fault, Plan, Planted};
pub use world::{Outcome, World};

/// Virtual milliseconds since the world began.
pub(crate) type Ms = u64;

/// Plays one seed to its end, or to the first violation.
pub fn run(seed: u64) -> Outcome {
    World::new(Plan::of(seed)).play()
}
