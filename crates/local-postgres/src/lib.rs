//! PostgreSQL's own programs on this machine: found, run as a user that may run them, and ended with this process.
//!
//! Owns: the private server of `up`, and servers that live for a moment, on what a backup brought. Must not know: what is in them.
//! Begin at [`Postgres`].

mod programs;
mod server;
mod tethered;

pub use programs::Programs;
pub use server::{Access, Postgres, Recovery};
