//! The container executor on the real Docker.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod build;
mod checkpoints;
mod daemon;
mod disk;
#[expect(dead_code, reason = "shared with the tests of the disk, which need more of it")]
mod dockerd;
mod ending;
mod exclusive;
mod files;
#[path = "../common/platform.rs"]
mod platform;
mod registry;
mod restart;
mod rig;
mod running;
