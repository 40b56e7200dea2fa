//! Backups of the database, each restored once before it is needed, and the way back.
//!
//! Owns: the directory of backups and what is kept in it, PostgreSQL's programs that make and restore them, the log that is received
//! all the time. Must not know: what the rows mean; the audit is `store`'s. Begin at [`run`] for the service, at [`restore`] for the
//! way back; `due.rs` and `keep.rs` decide.

mod base;
mod config;
mod directory;
mod due;
mod dump;
mod figures;
mod files;
mod keep;
mod made;
pub mod restore;
mod service;
mod source;
mod verify;
mod wal;

pub use config::Config;
pub use directory::{Backup, Directory, Kind, Lock, Record, Verified};
pub use made::{make, make_beside_service};
pub use service::run;
pub use source::Source;
pub use verify::verify;
pub use wal::{Status as WalStatus, status as wal_status};
