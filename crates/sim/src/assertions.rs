//! What must hold: `always` after every event, `eventually` once everything was healed, and `sometimes` over many seeds,
//! so that a promise is not kept merely because it was never put to the test.

mod always;
mod eventually;
mod sometimes;

pub(crate) use always::{Books, Checker};
pub use sometimes::{Hits, Sometimes};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub promise: &'static str,
    pub detail: String,
    pub at_ms: u64,
}

impl Violation {
    pub(crate) fn new(promise: &'static str, detail: impl Into<String>) -> Self {
        Self { promise, detail: detail.into(), at_ms: 0 }
    }
}
