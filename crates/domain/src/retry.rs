//! Is this end worth another attempt, and after how long. Two budgets: the user's own failures, and the platform's.

use crate::{
    backoff, is_default,
    lifecycle::Around,
    outcome::{Ending, FailureClass, FailureKind},
    task::TaskRow,
};
use serde::{Deserialize, Serialize};

/// What the spec says about further attempts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Further attempts after the user's own failures.
    #[serde(skip_serializing_if = "is_default")]
    pub max_retries: u32,
    /// Exit codes that are retried; empty: every failure of the user's own.
    #[serde(skip_serializing_if = "is_default")]
    pub on_exit_codes: Vec<i32>,
    /// Consecutive infrastructure failures of attempts that ran for under ten minutes.
    pub max_infra_retries: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: 0, on_exit_codes: Vec::new(), max_infra_retries: 5 }
    }
}

/// Losses of whole nodes and drains are nobody's fault, but an endless row of them is no progress either.
pub const MAX_NODE_LOSSES: u32 = 100;
/// An attempt that ran this long shows that task and node can work together: its loss starts a new count.
const HEALTHY_RUN_MS: u64 = 10 * 60 * 1000;

/// What follows an attempt that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Again {
        delay_ms: u64,
    },
    /// The task ends; the sentence says why it is not retried.
    End {
        because: String,
    },
}

/// Counts the failure in `task` and decides. Moves exactly one counter; none for what is final, and none for a probe that the
/// platform failed.
pub fn decide(task: &mut TaskRow, kind: FailureKind, ending: &Ending, ran_ms: u64, around: &Around<'_>) -> Decision {
    let Around { policy, jitter_0_to_1, .. } = *around;
    if ending.planned_stop || kind == FailureKind::NodeLost {
        task.node_losses += 1;
        return if task.node_losses <= MAX_NODE_LOSSES {
            Decision::Again { delay_ms: 0 }
        } else {
            end(format!("its node was lost or stopped {MAX_NODE_LOSSES} times"))
        };
    }
    match kind.class() {
        FailureClass::Final => end(String::new()),
        // It was sent there to find out whether the node has healed.
        FailureClass::Infrastructure if around.is_probe => {
            Decision::Again { delay_ms: backoff::delay_ms(1, 1_000, 60_000, jitter_0_to_1) }
        }
        FailureClass::Infrastructure => {
            task.infra_failures = if ran_ms >= HEALTHY_RUN_MS { 1 } else { task.infra_failures + 1 };
            if task.infra_failures > policy.max_infra_retries {
                return end(format!(
                    "{} infrastructure failures in a row, and max_infra_retries is {}",
                    task.infra_failures, policy.max_infra_retries
                ));
            }
            Decision::Again { delay_ms: backoff::delay_ms(task.infra_failures, 1_000, 60_000, jitter_0_to_1) }
        }
        FailureClass::User => {
            task.user_failures += 1;
            let code = ending.exit.as_ref().and_then(|exit| exit.code);
            if policy.max_retries == 0 {
                return end("its own failure, and max_retries is 0".into());
            }
            if !policy.on_exit_codes.is_empty() && !code.is_some_and(|code| policy.on_exit_codes.contains(&code)) {
                return end(format!("on_exit_codes has only {:?}", policy.on_exit_codes));
            }
            if task.user_failures > policy.max_retries {
                return end(format!("max_retries is {}", policy.max_retries));
            }
            Decision::Again { delay_ms: backoff::delay_ms(task.user_failures, 1_000, 60_000, jitter_0_to_1) }
        }
    }
}

fn end(because: String) -> Decision {
    Decision::End { because }
}

#[cfg(test)]
mod tests;
