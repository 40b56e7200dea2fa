//! The client's scripted server, shared as source: both crates test against the same one.

#[path = "../../../client/tests/it/script.rs"]
mod script;

pub(crate) use script::{Reply, Request, Server};
