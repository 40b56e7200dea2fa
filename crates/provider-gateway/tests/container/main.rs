//! The container executor on the real Docker.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod build;
mod daemon;
mod disk;
mod ending;
mod registry;
mod restart;
mod rig;
mod running;
