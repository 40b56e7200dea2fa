//! Measures the platform: real services, a real PostgreSQL that syncs, simulated nodes with real sockets in processes of their own.
//!
//! Owns: the load, the simulated fleet, the frozen reference that the platform is compared with. Figures are printed, never asserted;
//! what is asserted is that everything that was submitted came back. A binary of its own, so that the product carries none of it.
//! Begin at `throughput.rs`, then `nodes.rs`.

pub mod api;
pub mod artifacts;
mod audit;
pub mod database;
pub mod faults;
pub mod fleet;
pub mod latency;
pub mod limit;
pub mod load;
pub mod logs;
pub mod machine;
pub mod nodes;
pub mod peers;
pub mod platform;
pub mod queue;
pub mod report;
pub mod seed;
pub mod slots;
pub mod smoke;
pub mod soak;
pub mod spawn;
pub mod statements;
pub mod tables;
pub mod targets;
pub mod throughput;
