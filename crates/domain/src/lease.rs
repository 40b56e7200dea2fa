//! The lease of exclusive work: for how long a process may run without word from the server.
//!
//! All times follow from one setting, the silence after which a node is offline (90 s), so that they can't be set against each
//! other, and so that tests run at a small scale. With the usual setting and `replace_after` R, counted from the moment at which
//! the last acknowledged heartbeat was *sent*, by a clock of the node that runs through suspend:
//!
//! ```text
//! 75 s + R            the node's own side asks the process to stop        (offline_after * 5/6 + R)
//! at most 8 s more    what is still there is killed                      (offline_after * 4/45, or the task's grace)
//! 90 s + R            the server may place it again, at the earliest
//! ```
//!
//! The server counts from when it recorded that heartbeat, which is later than when it was sent. So 7 s are left for a node that
//! is slow to kill, and for clocks that differ: 0.7 % in a quarter of an hour, a hundred times what clocks do.

use crate::spec::TaskSpec;
use serde::{Deserialize, Serialize};

/// Silence after which a node is offline, unless it is set otherwise.
pub const OFFLINE_AFTER_MS: u64 = 90_000;
/// How long an exclusive task waits for its node, unless it says otherwise.
pub const EXCLUSIVE_REPLACE_AFTER_MS: u64 = 15 * 60_000;

/// What a node is told with an exclusive attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Without a newer acknowledged heartbeat it is asked to stop so long after the last one was sent.
    pub period_ms: u64,
    /// What is there so much later is killed.
    pub grace_ms: u64,
}

impl Lease {
    /// None: the task is not exclusive, and needs none.
    pub fn of(spec: &TaskSpec, offline_after_ms: u64) -> Option<Self> {
        let loss = &spec.on_node_loss;
        loss.exclusive.then(|| Self {
            period_ms: offline_after_ms / 6 * 5 + loss.replace_after_ms,
            grace_ms: spec.stop.grace_ms.min(offline_after_ms * 4 / 45),
        })
    }
}

/// How an executor is named among a node's features when it ends exclusive work by itself.
pub fn feature(executor: &str) -> String {
    format!("self_fence:{executor}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_spec;
    use serde_json::json;

    #[test]
    fn the_nodes_side_is_done_before_the_server_begins() {
        for (offline_after_ms, loss) in [
            (90_000, json!({"exclusive": true})),
            (9_000, json!({"exclusive": true, "replace_after": 0})),
            (10_000, json!({"exclusive": true, "replace_after": "1h"})),
        ] {
            let spec =
                parse_spec(&json!({"command": ["x"], "on_node_loss": loss, "stop": {"grace": "1h"}})).expect("valid");
            let lease = Lease::of(&spec, offline_after_ms).expect("exclusive");
            let server_ms = offline_after_ms + spec.on_node_loss.replace_after_ms;
            assert!(lease.period_ms + lease.grace_ms + offline_after_ms / 15 <= server_ms, "{lease:?}");
        }
        let spec = parse_spec(&json!({"command": ["x"], "on_node_loss": {"exclusive": true}})).expect("valid");
        assert_eq!(Lease::of(&spec, OFFLINE_AFTER_MS), Some(Lease { period_ms: 975_000, grace_ms: 8_000 }));
        let plain = parse_spec(&json!({"command": ["x"]})).expect("valid");
        assert_eq!(Lease::of(&plain, OFFLINE_AFTER_MS), None);
    }
}
