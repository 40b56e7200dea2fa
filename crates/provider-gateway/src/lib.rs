//! The agent of a node.

pub mod container;
pub mod executor;
pub mod log;
pub mod process;
pub mod resources;
pub mod source;
