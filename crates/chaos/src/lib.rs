//! Faults on the real thing: real processes, a real PostgreSQL, a Docker daemon and network namespaces of their own, and an oracle
//! that says what was lost.
//!
//! Owns: how a platform is put up to be broken, the faults, what counts as a loss. Must not know: how the platform works inside; it
//! sees what a user sees (API, logs), what the machine sees (processes, containers), and what the tasks themselves wrote down.
//! Begin at [`scenario`]; then `scenarios/`, one fault a function, and [`oracle`], which is pure.

pub mod docker;
pub mod engine;
pub mod evidence;
pub mod figures;
pub mod inside;
pub mod ledger;
pub mod network;
pub mod oracle;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod report;
pub mod scenario;
pub mod scenarios;
pub mod settle;
pub mod sweep;
pub mod table;
pub mod viewer;
pub mod wait;
pub mod workload;
pub mod world;
