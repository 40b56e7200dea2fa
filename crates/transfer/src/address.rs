//! Where addresses come from: the engine asks whoever speaks with the platform.

use api_types::artifact::{PartAddress, PartsRequest, SignedRequest};
use futures::future::BoxFuture;
use std::{error::Error, time::Duration};

/// Gives addresses for the parts of one upload, and keeps which are stored.
pub trait Uploads: Send + Sync {
    /// One answer a wanted part, in their order. Safe to repeat.
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>>;
}

/// Gives the address of one stored content, a fresh one at each call.
pub trait Downloads: Send + Sync {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>>;
}

/// There is no address, at least for now.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct AddressError {
    /// For a person.
    pub why: String,
    /// The same question may well be answered later.
    pub is_passing: bool,
    /// What the other side asked to wait.
    pub retry_after: Option<Duration>,
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}
