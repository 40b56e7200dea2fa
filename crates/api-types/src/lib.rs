//! Bodies of the REST API, shared by the api-gateway and the client.
//!
//! Owns: how the API looks in JSON. Must not know: the database, the node protocol. Values of `domain` that are already
//! plain data (a fault, exit facts, resources) are shown as they are.

pub mod access;
pub mod artifact;
pub mod audit;
pub mod check;
pub mod event;
pub mod log;
pub mod node;
pub mod page;
pub mod problem;
pub mod task;
pub mod why;

pub use problem::Problem;
