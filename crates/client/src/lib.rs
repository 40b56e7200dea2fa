//! The typed HTTP client of the REST API.
//!
//! Owns: how a route is called, repeated and followed, and what can go wrong on the way. Must not know: how anything looks to
//! a person. Begin at [`Client`]; [`follow`] is the part that survives every cut.

mod access;
mod artifacts;
mod checks;
mod client;
mod error;
pub mod follow;
mod node;
mod nodes;
mod request;
mod sse;
mod task_log;
mod tasks;

pub use artifacts::{ArtifactDownload, ArtifactQuery, ArtifactUpload};
pub use client::{Client, Trouble};
pub use error::ClientError;
pub use follow::Followed;
pub use task_log::{LogItem, Piece};
pub use tasks::FeedItem;
