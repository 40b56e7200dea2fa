//! Disks that fill up: a file system of its own, and a Docker daemon that keeps its data there. Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod environments;
mod full;
mod inputs;
mod races;
mod small_disk;
mod sources;
mod spool;

#[path = "../container/dockerd.rs"]
#[expect(dead_code, reason = "shared with the tests of containers, which need more of it")]
mod dockerd;
#[path = "../common/platform.rs"]
#[expect(dead_code, reason = "shared with the tests of executors, which need more of it")]
mod platform;
#[path = "../container/rig.rs"]
#[expect(dead_code, reason = "shared with the tests of containers, which need more of it")]
mod rig;
