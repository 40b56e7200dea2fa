use super::*;
use crate::{
    ids::{DEFAULT_PROJECT, Fence, TaskId},
    outcome::{ExitFacts, LogTotals},
};
use proptest::prelude::*;
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
}
fn task() -> TaskRow {
    TaskRow::submitted(TaskId::from_uuid(Uuid::from_u128(7)), DEFAULT_PROJECT)
}
fn node(n: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(n))
}
fn on(n: u128) -> NewAttempt {
    NewAttempt {
        id: AttemptId::from_uuid(Uuid::from_u128(100 + n)),
        node: node(n),
        reservation: Reservation::default(),
    }
}
fn placed() -> (TaskRow, AttemptRow) {
    let mut task = task();
    let (attempt, _) = place(&mut task, None, on(1), ClusterEpoch(1), at(0)).expect("a submitted task waits");
    (task, attempt)
}
fn ended(code: i32) -> Report {
    let exit = ExitFacts { code: Some(code), ..ExitFacts::default() };
    Report::Ended {
        ending: Ending {
            failure: exit.failure(),
            message: String::new(),
            exit: Some(exit),
            planned_stop: false,
            log: LogTotals::default(),
        },
    }
}
fn say(task: &mut TaskRow, attempt: &mut AttemptRow, what: &Report) -> Verdict {
    let held = attempt.held();
    report(task, attempt, held, what, &RetryPolicy::default(), at(1), 0.0)
}
fn recorded(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Recorded(_))
}

#[test]
fn an_attempt_that_exits_zero_ends_its_task() {
    let (mut task, mut attempt) = placed();
    for what in [
        Report::Accepted,
        Report::Preparing,
        Report::Started,
        Report::Exited { exit: ExitFacts { code: Some(0), ..Default::default() } },
        ended(0),
    ] {
        assert!(recorded(&say(&mut task, &mut attempt, &what)), "{what:?}");
    }
    assert_eq!((task.state, task.exit_code, task.live), (TaskState::Succeeded, Some(0), None));
    assert!(attempt.reserved, "resources are held until the node says they are free");
    assert!(recorded(&say(&mut task, &mut attempt, &Report::Released)));
    assert!(!attempt.reserved);
}

#[test]
fn repeats_change_nothing_and_another_end_is_a_conflict() {
    let (mut task, mut attempt) = placed();
    say(&mut task, &mut attempt, &ended(0));
    let before = (task.clone(), attempt.clone());
    assert_eq!(say(&mut task, &mut attempt, &ended(0)), Verdict::Repeated);
    assert_eq!(say(&mut task, &mut attempt, &ended(1)), Verdict::Conflict);
    assert_eq!(say(&mut task, &mut attempt, &Report::Started), Verdict::Repeated);
    assert_eq!((task, attempt), before);
}

#[test]
fn no_success_is_recorded_after_a_cancel_was_answered() {
    let (mut task, mut attempt) = placed();
    assert!(matches!(cancel(&mut task, Some(&mut attempt), false, at(1)), CancelVerdict::Requested(_)));
    assert_eq!(cancel(&mut task, Some(&mut attempt), false, at(1)), CancelVerdict::Repeated);
    say(&mut task, &mut attempt, &ended(0));
    assert_eq!(task.state, TaskState::Cancelled);
}

#[test]
fn a_cancel_with_the_node_offline_ends_the_task_at_once() {
    let (mut task, mut attempt) = placed();
    assert!(matches!(cancel(&mut task, Some(&mut attempt), true, at(1)), CancelVerdict::Cancelled(_)));
    assert_eq!((task.state, attempt.state), (TaskState::Cancelled, AttemptState::Lost));
    assert_eq!(say(&mut task, &mut attempt, &ended(0)), Verdict::Fenced);
    assert_eq!(task.state, TaskState::Cancelled);
}

#[test]
fn the_returning_node_and_the_replacement_race_and_one_wins() {
    let (mut task, mut old) = placed();
    say(&mut task, &mut old, &Report::Started);
    assert!(allow_replacement(&mut task).is_some());
    let queued = (task.clone(), old.clone());

    // The node came back first: the task leaves the queue.
    assert!(recorded(&say(&mut task, &mut old, &Report::Started)));
    assert!(place(&mut task, Some(&mut old), on(2), ClusterEpoch(1), at(2)).is_none());

    // The replacement was leased first: the old attempt is fenced.
    let (mut task, mut old) = queued;
    let (new, _) = place(&mut task, Some(&mut old), on(2), ClusterEpoch(1), at(2)).expect("queued");
    assert!(new.fence > old.fence);
    assert_eq!(say(&mut task, &mut old, &ended(0)), Verdict::Fenced);
    assert_eq!((task.live, old.state), (Some(new.id), AttemptState::Lost));
    assert!(recorded(&say(&mut task, &mut old, &Report::Released)), "its resources become free all the same");
}

#[test]
fn an_infrastructure_failure_queues_the_task_again_and_avoids_the_node() {
    let (mut task, mut attempt) = placed();
    let verdict = say(
        &mut task,
        &mut attempt,
        &Report::Ended { ending: Ending::failed(FailureKind::NodeError, "docker is away") },
    );
    assert!(recorded(&verdict));
    assert_eq!((task.state, task.queued, task.avoid_node, task.live), (TaskState::Pending, true, Some(node(1)), None));
}

#[test]
fn a_retry_by_a_person_starts_budgets_anew_and_keeps_the_fence() {
    let (mut task, mut attempt) = placed();
    say(&mut task, &mut attempt, &ended(3));
    assert_eq!((task.state, task.failure), (TaskState::Failed, Some(FailureKind::ExitNonzero)));
    let fence = task.fence;
    assert!(retry_ended(&mut task).is_some());
    assert_eq!((task.state, task.queued, task.user_failures, task.exit_code), (TaskState::Pending, true, 0, None));
    let (next, _) = place(&mut task, None, on(2), ClusterEpoch(1), at(3)).expect("waits");
    assert!(next.fence > fence);
    assert_eq!(next.number, 2);
}

/// What the world may throw at one task.
#[derive(Clone, Debug)]
enum Op {
    Place(u128),
    Say(usize, Report),
    Cancel(bool),
    AllowReplacement,
    GiveUp(usize),
    Retry,
}

fn an_op() -> impl Strategy<Value = Op> {
    let any_report = prop_oneof![
        Just(Report::Accepted),
        Just(Report::Preparing),
        Just(Report::Started),
        Just(Report::Exited { exit: ExitFacts { code: Some(0), ..ExitFacts::default() } }),
        Just(ended(0)),
        Just(ended(1)),
        Just(Report::Ended { ending: Ending::failed(FailureKind::NodeError, "") }),
        Just(Report::Released),
    ];
    prop_oneof![
        3 => (1u128..4).prop_map(Op::Place),
        8 => (0usize..6, any_report).prop_map(|(which, what)| Op::Say(which, what)),
        1 => any::<bool>().prop_map(Op::Cancel),
        2 => Just(Op::AllowReplacement),
        1 => (0usize..6).prop_map(Op::GiveUp),
        1 => Just(Op::Retry),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_happens_a_task_keeps_its_promises(ops in prop::collection::vec(an_op(), 1..120)) {
        let mut task = task();
        let mut attempts: Vec<AttemptRow> = Vec::new();
        let mut cancel_answered = false;
        // The audit reads the history later: whatever the rules write, it finds lawful.
        let mut history = replay::Replay::default();
        prop_assert_eq!(history.entry(&[Event::Submitted], task.state), Ok(()));
        for (i, op) in ops.into_iter().enumerate() {
            let before = task.clone();
            let attempts_before = attempts.clone();
            let mut told = None;
            match op {
                Op::Place(n) => {
                    let live = task.live;
                    let previous = attempts.iter_mut().find(|a| Some(a.id) == live);
                    let new = NewAttempt { id: AttemptId::from_uuid(Uuid::from_u128(1000 + i as u128)), ..on(n) };
                    if let Some((attempt, events)) = place(&mut task, previous, new, ClusterEpoch(1), at(1_000_000)) {
                        attempts.push(attempt);
                        told = Some(events);
                    }
                }
                Op::Say(which, what) => if let Some(attempt) = attempts.get_mut(which) {
                    if let Verdict::Recorded(events) = say(&mut task, attempt, &what) { told = Some(events); }
                },
                Op::Cancel(offline) => {
                    let live = task.live;
                    let verdict = cancel(&mut task, attempts.iter_mut().find(|a| Some(a.id) == live), offline, at(1));
                    cancel_answered |= verdict != CancelVerdict::AlreadyEnded;
                    if let CancelVerdict::Cancelled(events) | CancelVerdict::Requested(events) = verdict { told = Some(events); }
                }
                Op::AllowReplacement => told = allow_replacement(&mut task),
                Op::GiveUp(which) => if let Some(attempt) = attempts.get_mut(which) { told = give_up(&mut task, attempt, "gone", at(1)); },
                Op::Retry => {
                    told = retry_ended(&mut task);
                    cancel_answered &= told.is_none();
                }
            }
            if let Some(events) = told.filter(|events| !events.is_empty()) {
                prop_assert_eq!(history.entry(&events, task.state), Ok(()));
            }
            prop_assert_eq!(history.live(), task.live);
            // At most one attempt is live, and it is the one that the task names.
            let live: Vec<_> = attempts.iter().filter(|a| !a.state.is_terminal()).map(|a| a.id).collect();
            prop_assert!(live.len() <= 1, "{live:?}");
            prop_assert_eq!(live.first().copied(), task.live);
            // Fences only grow, and no terminal attempt changes but for its reservation.
            prop_assert!(task.fence >= before.fence);
            for (old, new) in attempts_before.iter().zip(&attempts).filter(|(old, _)| old.state.is_terminal()) {
                let unchanged = AttemptRow { reserved: new.reserved, ..old.clone() };
                prop_assert_eq!(&unchanged, new);
            }
            prop_assert!(attempts.windows(2).all(|pair| pair[0].fence < pair[1].fence));
            prop_assert!(attempts.iter().all(|a| a.fence <= task.fence && a.fence > Fence::NONE));
            // No success after an answered cancel; an ended task neither waits nor holds.
            prop_assert!(!(cancel_answered && task.state == TaskState::Succeeded));
            if task.state.is_terminal() {
                prop_assert!(!task.queued && task.live.is_none() && task.ended_at.is_some());
            } else {
                prop_assert!(task.queued || task.live.is_some(), "the task is stuck: {task:?}");
            }
        }
    }
}
