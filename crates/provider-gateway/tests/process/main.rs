//! Real processes under the real supervisor.

mod kit;

mod checkpoints;
mod ending;
mod files;
mod isolation;
mod output;
#[path = "../common/platform.rs"]
mod platform;
mod restart;
mod running;
mod starter;
mod whole;
