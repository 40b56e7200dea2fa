//! How a transfer is done. The defaults are for people's machines and for nodes alike.

use crate::Pauses;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Options {
    /// Requests at one time.
    pub parallel: usize,
    /// Bytes of content that are held in memory at one time, at most. By default 40 MiB, so that the whole process stays below 64; what is packed
    /// while it is sent takes up to 64.
    pub memory: u64,
    /// Bytes that are asked for at one time.
    pub range: u64,
    /// Bytes a second, of all requests together.
    pub limit: Option<u64>,
    pub pauses: Pauses,
    /// A request that has moved fewer than `least_bytes` in so long is given up and tried anew.
    pub slow_after: Duration,
    /// A store whose certificate is not trusted is waited for as one that is away, for somebody may mend that; else it ends the transfer at once.
    pub waits_for_trust: bool,
    pub least_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 4,
            memory: 40 << 20,
            range: 4 << 20,
            limit: None,
            pauses: Pauses::default(),
            slow_after: Duration::from_secs(30),
            waits_for_trust: false,
            least_bytes: 4 << 10,
        }
    }
}
