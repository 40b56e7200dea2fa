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
/// The session lasts since before anything was placed.
fn around(seconds: i64) -> Around<'static> {
    static POLICY: std::sync::LazyLock<RetryPolicy> = std::sync::LazyLock::new(RetryPolicy::default);
    let node = poison::Presence { session_since: Some(at(-9)), ..poison::Presence::default() };
    Around { policy: &POLICY, now: at(seconds), jitter_0_to_1: 0.0, node, is_probe: false }
}
/// Last heard at that second, and silent since.
fn silent(since: i64) -> Around<'static> {
    Around {
        node: poison::Presence { last_beat: Some(at(since)), ..poison::Presence::default() },
        ..around(since + 90)
    }
}
/// Away from one second to another, and there again.
fn back(from: i64, until: i64) -> Around<'static> {
    let node = poison::Presence { last_beat: Some(at(from)), session_since: Some(at(until)), is_mass_event: false };
    Around { node, ..around(until + 1) }
}
fn say(task: &mut TaskRow, attempt: &mut AttemptRow, what: &Report) -> Verdict {
    let held = attempt.held();
    report(task, attempt, held, what, &around(1))
}
fn exited(code: i32) -> Report {
    Report::Exited { exit: ExitFacts { code: Some(code), ..ExitFacts::default() } }
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
    assert!(allow_replacement(&mut task, &mut old, &silent(1)).is_some());
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

#[test]
fn a_task_whose_exit_is_committed_is_never_run_again_for_the_rest_of_its_log() {
    let finishing = |code| {
        let (mut task, mut attempt) = placed();
        say(&mut task, &mut attempt, &Report::Started);
        say(&mut task, &mut attempt, &exited(code));
        assert_eq!(task.state, TaskState::Finishing);
        (task, attempt)
    };
    // Its node is offline, or came back without it, or blames itself: the same end.
    let blames = Report::Ended { ending: Ending::failed(FailureKind::NodeLost, "it was gone") };
    for how in 0..3 {
        let (mut task, mut attempt) = finishing(0);
        match how {
            0 => assert!(allow_replacement(&mut task, &mut attempt, &silent(5)).is_some()),
            1 => assert!(give_up(&mut task, &mut attempt, "the node came back without it", &back(5, 30)).is_some()),
            _ => assert!(recorded(&say(&mut task, &mut attempt, &blames))),
        }
        assert_eq!((task.state, task.exit_code, task.queued), (TaskState::Succeeded, Some(0), false), "{how}");
        assert_eq!((attempt.state, task.node_losses, task.infra_failures), (AttemptState::Succeeded, 0, 0), "{how}");
    }
    let (mut task, mut attempt) = finishing(3);
    allow_replacement(&mut task, &mut attempt, &silent(5));
    assert_eq!((task.state, task.failure), (TaskState::Failed, Some(FailureKind::ExitNonzero)));
    assert!(
        task.message.starts_with("exit 3; its node is offline, and the rest of its log is missing"),
        "{}",
        task.message
    );
    assert!(!attempt.ending.as_ref().expect("an ending").log.complete);
    // What the node says when it is back changes nothing, and it may clean up.
    assert_eq!(say(&mut task, &mut attempt, &ended(3)), Verdict::Conflict);
    assert!(recorded(&say(&mut task, &mut attempt, &Report::Released)));
    // The user's own policy counts as it does for any end.
    let policy = RetryPolicy { max_retries: 1, ..RetryPolicy::default() };
    let (mut task, mut attempt) = finishing(3);
    allow_replacement(&mut task, &mut attempt, &Around { policy: &policy, ..silent(5) });
    assert_eq!((task.state, task.queued, task.user_failures), (TaskState::Pending, true, 1));
}

/// Its process has ended, and so many of its outputs are to be stored.
fn owing(outputs_due: u32) -> (TaskRow, AttemptRow) {
    let (mut task, mut attempt) = placed();
    say(&mut task, &mut attempt, &Report::Started);
    let exit = ExitFacts { code: Some(0), outputs_due, ..ExitFacts::default() };
    say(&mut task, &mut attempt, &Report::Exited { exit });
    assert_eq!(task.state, TaskState::Finishing);
    (task, attempt)
}

#[test]
fn a_task_whose_outputs_went_with_its_node_runs_again() {
    // Its node is offline.
    let (mut task, mut attempt) = owing(2);
    attempt.outputs_stored = 1;
    assert!(allow_replacement(&mut task, &mut attempt, &silent(5)).is_some());
    assert_eq!((task.state, task.queued, task.died_with), (TaskState::Finishing, true, None));
    assert!(allow_replacement(&mut task, &mut attempt, &silent(5)).is_none(), "it waits already");
    let queued = (task.clone(), attempt.clone());
    let (second, _) = place(&mut task, Some(&mut attempt), on(2), ClusterEpoch(1), at(2)).expect("it waits");
    assert_eq!((attempt.state, second.outputs_stored, task.node_losses), (AttemptState::Lost, 0, 1));
    // The node is back first, and goes on with them.
    let (mut task, mut attempt) = queued.clone();
    say(&mut task, &mut attempt, &exited(0));
    assert_eq!((task.state, task.queued), (TaskState::Finishing, false));
    // They were stored although the node is not heard: nothing is run again.
    let (mut task, mut attempt) = queued;
    attempt.outputs_stored = 2;
    assert!(place(&mut task, Some(&mut attempt), on(2), ClusterEpoch(1), at(2)).is_none());
    assert!(allow_replacement(&mut task, &mut attempt, &silent(5)).is_some());
    assert_eq!((task.state, task.queued, attempt.state), (TaskState::Succeeded, false, AttemptState::Succeeded));

    // The node came back without it, or blames itself.
    let (mut task, mut attempt) = owing(1);
    assert!(give_up(&mut task, &mut attempt, "the node came back without it", &back(5, 30)).is_some());
    assert_eq!((task.state, task.queued, attempt.state), (TaskState::Pending, true, AttemptState::Lost));
    let (mut task, mut attempt) = owing(1);
    let blames = Report::Ended { ending: Ending::failed(FailureKind::NodeError, "its disk is gone") };
    assert!(recorded(&say(&mut task, &mut attempt, &blames)));
    assert_eq!((task.state, task.queued, task.infra_failures), (TaskState::Pending, true, 1));
}

#[test]
fn no_task_succeeds_without_its_outputs() {
    let (mut task, mut attempt) = owing(2);
    attempt.outputs_stored = 1;
    assert!(recorded(&say(&mut task, &mut attempt, &ended(0))));
    assert_eq!((task.state, task.queued, task.infra_failures), (TaskState::Pending, true, 1));
    assert_eq!(attempt.state, AttemptState::Failed);
    // What the node says once more is what it said.
    assert_eq!(say(&mut task, &mut attempt, &ended(0)), Verdict::Repeated);

    let (mut task, mut attempt) = owing(2);
    attempt.outputs_stored = 2;
    say(&mut task, &mut attempt, &ended(0));
    assert_eq!(task.state, TaskState::Succeeded);
    // That they can't be stored is its user's to mend.
    let (mut task, mut attempt) = owing(1);
    let nothing = Report::Ended { ending: Ending::failed(FailureKind::OutputFailed, "nothing matches out/*.pt") };
    say(&mut task, &mut attempt, &nothing);
    assert_eq!(
        (task.state, task.failure, task.infra_failures),
        (TaskState::Failed, Some(FailureKind::OutputFailed), 0)
    );
}

/// The task runs on this node, since that second.
fn runs_on(task: &mut TaskRow, n: u128, seconds: i64) -> AttemptRow {
    let new = NewAttempt { id: AttemptId::from_uuid(Uuid::from_u128(n * 1_000 + seconds as u128)), ..on(n) };
    task.not_before = None;
    let (mut attempt, _) = place(task, None, new, ClusterEpoch(1), at(seconds)).expect("it waits");
    let held = attempt.held();
    report(task, &mut attempt, held, &Report::Started, &around(seconds));
    attempt
}
fn gone() -> Report {
    Report::Ended { ending: Ending::failed(FailureKind::NodeLost, "it was gone when the agent came back") }
}

#[test]
fn a_task_that_took_two_machines_down_is_not_tried_on_a_third() {
    let mut task = task();
    // The first comes back, and it is gone.
    let mut first = runs_on(&mut task, 1, 0);
    let held = first.held();
    assert!(recorded(&report(&mut task, &mut first, held, &gone(), &back(40, 90))));
    assert_eq!((task.state, task.died_with), (TaskState::Pending, Some(node(1))));
    // The same machine once more is no second one.
    let mut again = runs_on(&mut task, 1, 100);
    assert!(give_up(&mut task, &mut again, "the node came back without it", &back(140, 190)).is_some());
    assert_eq!(task.state, TaskState::Pending);
    // The second one just falls silent.
    let mut second = runs_on(&mut task, 2, 200);
    let events = allow_replacement(&mut task, &mut second, &silent(230)).expect("it is judged");
    assert!(events.contains(&Event::NodeWentDown { attempt: second.id, node: node(2), after_ms: 30_000 }));
    assert_eq!((task.state, task.failure, task.queued), (TaskState::Failed, Some(FailureKind::Poison), false));
    assert_eq!(second.state, AttemptState::Lost);
    assert_eq!(task.user_failures, 0);
    assert!(place(&mut task, None, on(3), ClusterEpoch(1), at(999)).is_none(), "not without a person");
    assert!(retry_ended(&mut task).is_some());
    assert_eq!(task.died_with, None);
}

#[test]
fn what_is_no_proof_is_not_held_against_a_task() {
    let died_once = || {
        let mut task = task();
        let mut first = runs_on(&mut task, 1, 0);
        let held = first.held();
        report(&mut task, &mut first, held, &gone(), &back(40, 90));
        (task, first)
    };
    // Many machines went at once.
    let (mut task, _) = died_once();
    let mut second = runs_on(&mut task, 2, 100);
    let mass = Around { node: poison::Presence { is_mass_event: true, ..back(110, 150).node }, ..back(110, 150) };
    give_up(&mut task, &mut second, "the node came back without it", &mass);
    assert_eq!(task.state, TaskState::Pending);
    // It had run for ten minutes: that also clears the first.
    let (mut task, _) = died_once();
    let mut second = runs_on(&mut task, 2, 100);
    give_up(&mut task, &mut second, "the node came back without it", &back(700, 800));
    assert_eq!((task.state, task.died_with), (TaskState::Pending, None));
    // A planned stop, and a failure on a node that was there all the time.
    for (ending, around) in [
        (Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "stopped") }, back(110, 150)),
        (Ending::failed(FailureKind::NodeError, "Docker is away"), Around { now: at(120), ..around(120) }),
    ] {
        let (mut task, _) = died_once();
        let mut second = runs_on(&mut task, 2, 100);
        let held = second.held();
        report(&mut task, &mut second, held, &Report::Ended { ending }, &around);
        assert_eq!((task.state, task.died_with), (TaskState::Pending, Some(node(1))));
    }
    // The first one comes back alive: it had only been out of reach.
    let (mut task, first) = died_once();
    assert!(returned_alive(&mut task, &first) && !returned_alive(&mut task, &first));
    assert_eq!(task.died_with, None);
    // It never ran there.
    let (mut task, _) = died_once();
    let (mut second, _) = {
        task.not_before = None;
        place(&mut task, None, on(2), ClusterEpoch(1), at(100)).expect("waits")
    };
    give_up(&mut task, &mut second, "the node came back without it", &back(110, 150));
    assert_eq!(task.state, TaskState::Pending);
}

/// What the world may throw at one task.
#[derive(Clone, Debug)]
enum Op {
    Place(u128),
    Say(usize, Report),
    Cancel(bool),
    AllowReplacement,
    GiveUp(usize),
    StoreOutput(usize),
    Retry,
}

fn an_op() -> impl Strategy<Value = Op> {
    let any_report = prop_oneof![
        Just(Report::Accepted),
        Just(Report::Preparing),
        Just(Report::Started),
        (0u32..3).prop_map(|outputs_due| {
            Report::Exited { exit: ExitFacts { code: Some(0), outputs_due, ..ExitFacts::default() } }
        }),
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
        2 => (0usize..6).prop_map(Op::StoreOutput),
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
                Op::Say(which, what) => {
                    if let Some(attempt) = attempts.get_mut(which)
                        && let Verdict::Recorded(events) = say(&mut task, attempt, &what)
                    {
                        told = Some(events);
                    }
                }
                Op::Cancel(offline) => {
                    let live = task.live;
                    let verdict = cancel(&mut task, attempts.iter_mut().find(|a| Some(a.id) == live), offline, at(1));
                    cancel_answered |= verdict != CancelVerdict::AlreadyEnded;
                    if let CancelVerdict::Cancelled(events) | CancelVerdict::Requested(events) = verdict { told = Some(events); }
                }
                Op::AllowReplacement => {
                    let live = task.live;
                    if let Some(attempt) = attempts.iter_mut().find(|a| Some(a.id) == live) {
                        told = allow_replacement(&mut task, attempt, &silent(1));
                    }
                }
                Op::GiveUp(which) => if let Some(attempt) = attempts.get_mut(which) {
                    told = give_up(&mut task, attempt, "gone", &back(1, 60));
                },
                Op::StoreOutput(which) => {
                    if let Some(attempt) = attempts.get_mut(which).filter(|a| task.live == Some(a.id)) {
                        attempt.outputs_stored += u32::from(attempt.outputs_stored < 2);
                    }
                }
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
            // Whose process has ended, as is committed, is run again only by the user's own wish, or for outputs that are not stored.
            let has_left_all = |a: &&AttemptRow| a.state == AttemptState::Finishing && !a.lacks_outputs();
            let had_exited = attempts_before.iter().filter(has_left_all).any(|a| before.live == Some(a.id));
            if had_exited && task.live != before.live && !task.state.is_terminal() {
                prop_assert!(task.user_failures == before.user_failures + 1, "{before:?} -> {task:?}");
            }
            let owes = |a: &AttemptRow| a.exit.as_ref().is_some_and(|exit| exit.outputs_due > 0);
            let is_owed = attempts.iter().any(|a| Some(a.id) == task.live && owes(a));
            prop_assert!(is_owed || !(task.queued && task.state == TaskState::Finishing), "{task:?}");
            prop_assert!(attempts.iter().all(|a| a.state != AttemptState::Succeeded || !a.lacks_outputs()), "{attempts:?}");
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

#[test]
fn what_only_waited_on_its_node_goes_back_to_the_queue_and_counts_for_nothing() {
    let mut task = task();
    let ahead = NewAttempt { reservation: Reservation { ahead: true, ..Reservation::default() }, ..on(1) };
    let (mut attempt, _) = place(&mut task, None, ahead, ClusterEpoch(1), at(0)).expect("a submitted task waits");
    say(&mut task, &mut attempt, &Report::Accepted);
    assert!(attempt.waits_there());
    let given_back = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "given back") };
    say(&mut task, &mut attempt, &Report::Ended { ending: given_back.clone() });
    assert_eq!((task.state, task.queued, task.not_before), (TaskState::Pending, true, None));
    assert_eq!((task.node_losses, task.infra_failures, task.user_failures), (0, 0, 0));
    assert!(!attempt.waits_there() && attempt.reserved, "its node says when nothing is left of it");

    // Once it has begun it is a stop like any other.
    let ahead = NewAttempt { reservation: Reservation { ahead: true, ..Reservation::default() }, ..on(2) };
    let (mut attempt, _) = place(&mut task, None, ahead, ClusterEpoch(1), at(1)).expect("it waits again");
    say(&mut task, &mut attempt, &Report::Preparing);
    assert!(!attempt.waits_there());
    say(&mut task, &mut attempt, &Report::Ended { ending: given_back });
    assert_eq!((task.node_losses, task.queued), (1, true));
}
