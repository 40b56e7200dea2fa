//! The rules of UniDesk as values and total functions.
//!
//! Owns: what a task, an attempt, a node and a reservation are, which transitions exist, who may act for an
//! attempt, which node a task fits on, whether a failure is worth another attempt.
//! Must not know: a runtime, a database, a web framework, a clock or a random source. Time and jitter are
//! arguments, collections are ordered, so every decision can be replayed from a seed.
//! Begin at [`lifecycle`], which moves a task and its live attempt together.

pub mod artifact;
pub mod attempt;
pub mod backoff;
pub mod black_hole;
pub mod fault;
pub mod ids;
pub mod lease;
pub mod lifecycle;
pub mod node;
pub mod outcome;
pub mod placement;
pub mod poison;
pub mod principal;
pub mod quantity;
pub mod reconcile;
pub mod resources;
pub mod retention;
pub mod retry;
pub mod source;
pub mod spec;
pub mod sweep;
pub mod task;
pub mod warm;

/// A moment by the database's clock, the only clock that decides anything on the server.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// Left out of JSON: whoever reads it takes what is missing for just this.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
