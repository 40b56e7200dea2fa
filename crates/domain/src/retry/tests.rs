use super::*;
use crate::{
    ids::{DEFAULT_PROJECT, TaskId},
    outcome::ExitFacts,
    poison::Presence,
};
use proptest::prelude::*;

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
fn around(policy: &RetryPolicy) -> Around<'_> {
    Around { policy, now: chrono::DateTime::UNIX_EPOCH, jitter_0_to_1: 1.0, node: Presence::default(), is_probe: false }
}
fn after(task: &mut TaskRow, kind: FailureKind, ending: &Ending, policy: &RetryPolicy) -> Decision {
    let ran_ms = ending.exit.as_ref().map_or(0, |exit| exit.duration_ms);
    decide(task, kind, ending, ran_ms, &around(policy))
}

#[test]
fn a_users_failure_is_retried_only_as_the_spec_says() {
    let policy = RetryPolicy { max_retries: 2, on_exit_codes: vec![75], ..RetryPolicy::default() };
    let mut task = task();
    assert!(again(after(&mut task, FailureKind::ExitNonzero, &exited(75), &policy)));
    assert!(!again(after(&mut task.clone(), FailureKind::ExitNonzero, &exited(3), &policy)));
    assert!(again(after(&mut task, FailureKind::ExitNonzero, &exited(75), &policy)));
    assert!(!again(after(&mut task, FailureKind::ExitNonzero, &exited(75), &policy)));
    assert_eq!((task.user_failures, task.infra_failures, task.node_losses), (3, 0, 0));
}

#[test]
fn infrastructure_failures_have_a_bound_of_their_own_that_a_long_run_resets() {
    let mut task = task();
    let short = Ending::failed(FailureKind::NodeError, "");
    let long = Ending { exit: Some(ExitFacts { duration_ms: 3_600_000, ..ExitFacts::default() }), ..short.clone() };
    for _ in 0..5 {
        assert!(again(after(&mut task, FailureKind::NodeError, &short, &RetryPolicy::default())));
    }
    assert!(again(after(&mut task.clone(), FailureKind::NodeError, &long, &RetryPolicy::default())));
    assert!(!again(after(&mut task, FailureKind::NodeError, &short, &RetryPolicy::default())));
    assert_eq!(task.user_failures, 0);
}

#[test]
fn a_planned_stop_uses_no_budget() {
    let mut task = task();
    let stopped = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "") };
    let none = RetryPolicy { max_infra_retries: 0, ..RetryPolicy::default() };
    assert_eq!(after(&mut task, FailureKind::NodeError, &stopped, &none), Decision::Again { delay_ms: 0 });
    assert_eq!((task.infra_failures, task.node_losses), (0, 1));
}

#[test]
fn a_probe_that_the_platform_fails_is_charged_to_nobody_and_one_that_fails_by_itself_is() {
    let none = RetryPolicy { max_infra_retries: 0, ..RetryPolicy::default() };
    let probe = Around { is_probe: true, ..around(&none) };
    let mut task = task();
    let error = Ending::failed(FailureKind::NodeError, "");
    assert!(again(decide(&mut task, FailureKind::NodeError, &error, 0, &probe)));
    assert_eq!((task.user_failures, task.infra_failures, task.node_losses), (0, 0, 0));
    assert!(!again(decide(&mut task, FailureKind::ExitNonzero, &exited(3), 0, &probe)));
    assert_eq!(task.user_failures, 1);
}

proptest! {
    #[test]
    fn exactly_one_counter_moves_and_each_stays_within_its_bound(
        ends in prop::collection::vec((0..FailureKind::ALL.len(), any::<bool>(), 0u64..1_500_000, 0.0f64..1.0), 1..200),
        max_retries in 0u32..4,
        max_infra_retries in 0u32..6,
    ) {
        let policy = RetryPolicy { max_retries, on_exit_codes: Vec::new(), max_infra_retries };
        let mut task = task();
        for (kind, planned_stop, duration_ms, jitter_0_to_1) in ends {
            let kind = FailureKind::ALL[kind];
            let exit = Some(ExitFacts { code: Some(1), duration_ms, ..ExitFacts::default() });
            let ending = Ending { planned_stop, exit, ..Ending::failed(kind, "") };
            let before = task.clone();
            let decision = decide(&mut task, kind, &ending, duration_ms, &Around { jitter_0_to_1, ..around(&policy) });
            let is_loss = planned_stop || kind == FailureKind::NodeLost;
            let class = kind.class();
            let counts = |class_of: FailureClass| u32::from(!is_loss && class == class_of);
            prop_assert_eq!(task.user_failures, before.user_failures + counts(FailureClass::User));
            prop_assert_eq!(task.node_losses, before.node_losses + u32::from(is_loss));
            // A long run starts its count anew.
            let infra_before = if counts(FailureClass::Infrastructure) == 1 && duration_ms >= HEALTHY_RUN_MS { 0 } else { before.infra_failures };
            prop_assert_eq!(task.infra_failures, infra_before + counts(FailureClass::Infrastructure));
            match decision {
                Decision::Again { delay_ms } => {
                    prop_assert!(task.user_failures <= max_retries);
                    prop_assert!(task.infra_failures <= max_infra_retries);
                    prop_assert!(task.node_losses <= MAX_NODE_LOSSES);
                    let window = match class {
                        _ if is_loss => 0,
                        FailureClass::User => (1_000u64 << (task.user_failures - 1).min(32)).min(60_000),
                        _ => (1_000u64 << (task.infra_failures - 1).min(32)).min(60_000),
                    };
                    prop_assert_eq!(delay_ms, (window as f64 * jitter_0_to_1) as u64);
                }
                Decision::End { .. } => return Ok(()),
            }
        }
    }
}
