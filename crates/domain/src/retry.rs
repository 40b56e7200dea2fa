//! Is this end worth another attempt, and after how long. Two budgets: the user's own failures, and the platform's.

use crate::{
    backoff,
    outcome::{Ending, FailureClass, FailureKind},
    task::TaskRow,
};
use serde::{Deserialize, Serialize};

/// What the spec says about further attempts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Further attempts after the user's own failures.
    pub max_retries: u32,
    /// Exit codes that are retried; empty: every failure of the user's own.
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

/// Counts the failure in `task` and decides. Moves exactly one counter.
pub fn decide(
    task: &mut TaskRow,
    kind: FailureKind,
    ending: &Ending,
    policy: &RetryPolicy,
    jitter_0_to_1: f64,
) -> Decision {
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
        FailureClass::Infrastructure => {
            let ran_ms = ending.exit.as_ref().map_or(0, |exit| exit.duration_ms);
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
mod tests {
    use super::*;
    use crate::{
        ids::{DEFAULT_PROJECT, TaskId},
        outcome::ExitFacts,
    };

    fn task() -> TaskRow {
        TaskRow::submitted(TaskId::from_uuid(uuid::Uuid::from_u128(7)), DEFAULT_PROJECT)
    }
    fn exited(code: i32) -> Ending {
        Ending {
            exit: Some(ExitFacts { code: Some(code), ..ExitFacts::default() }),
            ..Ending::failed(FailureKind::ExitNonzero, "")
        }
    }
    fn again(decision: Decision) -> bool {
        matches!(decision, Decision::Again { .. })
    }

    #[test]
    fn a_users_failure_is_retried_only_as_the_spec_says() {
        let policy = RetryPolicy { max_retries: 2, on_exit_codes: vec![75], ..RetryPolicy::default() };
        let mut task = task();
        assert!(again(decide(&mut task, FailureKind::ExitNonzero, &exited(75), &policy, 1.0)));
        assert!(!again(decide(&mut task.clone(), FailureKind::ExitNonzero, &exited(3), &policy, 1.0)));
        assert!(again(decide(&mut task, FailureKind::ExitNonzero, &exited(75), &policy, 1.0)));
        assert!(!again(decide(&mut task, FailureKind::ExitNonzero, &exited(75), &policy, 1.0)));
        assert_eq!((task.user_failures, task.infra_failures, task.node_losses), (3, 0, 0));
    }

    #[test]
    fn infrastructure_failures_have_a_bound_of_their_own_that_a_long_run_resets() {
        let mut task = task();
        let short = Ending::failed(FailureKind::NodeError, "");
        let long = Ending { exit: Some(ExitFacts { duration_ms: 3_600_000, ..ExitFacts::default() }), ..short.clone() };
        for _ in 0..5 {
            assert!(again(decide(&mut task, FailureKind::NodeError, &short, &RetryPolicy::default(), 0.0)));
        }
        assert!(again(decide(&mut task.clone(), FailureKind::NodeError, &long, &RetryPolicy::default(), 0.0)));
        assert!(!again(decide(&mut task, FailureKind::NodeError, &short, &RetryPolicy::default(), 0.0)));
        assert_eq!(task.user_failures, 0);
    }

    #[test]
    fn a_planned_stop_uses_no_budget() {
        let mut task = task();
        let stopped = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "") };
        let none = RetryPolicy { max_infra_retries: 0, ..RetryPolicy::default() };
        assert_eq!(decide(&mut task, FailureKind::NodeError, &stopped, &none, 1.0), Decision::Again { delay_ms: 0 });
        assert_eq!((task.infra_failures, task.node_losses), (0, 1));
    }
}
