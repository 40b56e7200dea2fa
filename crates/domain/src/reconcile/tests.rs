use super::*;
use crate::{
    ids::{AttemptId, DEFAULT_PROJECT, Fence},
    lifecycle::{self, NewAttempt, Verdict},
    outcome::FailureKind,
    resources::Reservation,
    retry::RetryPolicy,
    task::TaskState,
};
use uuid::Uuid;

const NOW: ClusterEpoch = ClusterEpoch(2);
const RESTORED: Restore = Restore { epoch: NOW, may_have_forgotten: true };

fn fence(epoch: i64, n: i64) -> Fence {
    Fence::from_i64((epoch << 32) + n)
}
fn node(n: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(n))
}
fn said(fence: Fence, state: AttemptState) -> HeldAttempt {
    let held = Held { attempt: AttemptId::from_uuid(Uuid::from_u128(5)), fence };
    let task = Some(TaskId::from_uuid(Uuid::from_u128(7)));
    let ending = state.is_terminal().then(|| Ending::failed(FailureKind::NodeError, "so it was"));
    HeldAttempt { task, ending: ending.filter(|_| state != AttemptState::Lost), ..HeldAttempt::new(held, state) }
}
/// The task with an attempt of this epoch on node 1, as rows.
fn leased(in_epoch: i32) -> (TaskRow, AttemptRow) {
    let mut task = TaskRow::submitted(TaskId::from_uuid(Uuid::from_u128(7)), DEFAULT_PROJECT);
    let placed =
        NewAttempt { id: AttemptId::from_uuid(Uuid::from_u128(5)), node: node(1), reservation: Reservation::default() };
    let at = chrono::DateTime::UNIX_EPOCH;
    let (attempt, _) = lifecycle::place(&mut task, None, placed, ClusterEpoch(in_epoch), at).expect("it waits");
    (task, attempt)
}

#[test]
fn each_attempt_that_a_node_has_gets_one_answer() {
    use AttemptState::{Failed, Finishing, Lost, Preparing, Running, Succeeded};
    let of = |state, reserved| AttemptRow { state, reserved, ..leased(2).1 };
    let (mine, older) = (fence(2, 1), fence(1, 1));
    // What the row says, what the node says, and what follows.
    let table = [
        (of(Preparing, true), said(mine, Running), Answer::Keep),
        (of(Running, true), said(mine, Failed), Answer::Keep),
        (of(Succeeded, true), said(mine, Succeeded), Answer::Collect),
        (of(Succeeded, true), said(mine, Finishing), Answer::Collect),
        (of(Succeeded, false), said(mine, Succeeded), Answer::Forget),
        (of(Succeeded, false), said(mine, Running), Answer::Stop),
        (of(Lost, true), said(mine, Running), Answer::Stop),
        (of(Lost, false), said(mine, Failed), Answer::Stop),
        (of(Running, true), said(fence(2, 2), Running), Answer::Stop),
        (AttemptRow { node: node(2), ..of(Running, true) }, said(mine, Running), Answer::Stop),
        // Known from before a restore, and stopped by a platform that is forgotten.
        (AttemptRow { fence: older, ..of(Running, true) }, said(older, Lost), Answer::GiveUp),
        (AttemptRow { fence: older, ..of(Running, true) }, said(older, Running), Answer::Keep),
        (AttemptRow { fence: older, ..of(Running, true) }, said(older, Failed), Answer::Keep),
    ];
    for (row, said, expected) in table {
        assert_eq!(answer(&said, node(1), Some(&row), None, RESTORED), expected, "{} {said:?}", row.state);
    }
}

#[test]
fn what_a_restore_has_forgotten_is_taken_up_again_unless_a_later_lease_is_known() {
    use AttemptState::{Lost, Running, Succeeded};
    let waiting = TaskRow::submitted(TaskId::from_uuid(Uuid::from_u128(7)), DEFAULT_PROJECT);
    let knows = |fence| TaskRow { fence, ..waiting.clone() };
    let ended = TaskRow { state: TaskState::Failed, ..knows(fence(1, 1)) };
    let table = [
        (said(fence(1, 4), Running), Some(knows(Fence::NONE)), Answer::Adopt),
        (said(fence(1, 4), Running), Some(knows(fence(1, 3))), Answer::Adopt),
        (said(fence(1, 4), Succeeded), Some(knows(fence(1, 3))), Answer::Adopt),
        (said(fence(1, 4), Running), Some(knows(fence(1, 5))), Answer::Stop),
        (said(fence(1, 4), Running), Some(knows(fence(2, 1))), Answer::Stop),
        (said(fence(1, 4), Running), Some(ended), Answer::Orphan),
        (said(fence(1, 4), Running), None, Answer::Orphan),
        // Stopped already.
        (said(fence(1, 4), Lost), Some(knows(fence(1, 3))), Answer::Stop),
        // Somebody forgot to say that the database was restored twice.
        (said(fence(3, 1), Running), Some(knows(fence(1, 3))), Answer::Orphan),
        // No attempt of this epoch can be forgotten: this one is nobody's.
        (said(fence(2, 9), Running), Some(knows(fence(2, 3))), Answer::Stop),
        (said(fence(2, 9), Running), None, Answer::Stop),
    ];
    for (said, task, expected) in table {
        assert_eq!(answer(&said, node(1), None, task.as_ref(), RESTORED), expected, "{said:?} {task:?}");
        let later = Restore { may_have_forgotten: false, ..RESTORED };
        let answer = answer(&said, node(1), None, task.as_ref(), later);
        assert_ne!(answer, Answer::Adopt, "a node takes no task by making up an attempt: {said:?} {task:?}");
    }
}

#[test]
fn an_end_whose_log_was_forgotten_is_not_called_complete() {
    let mut said = said(fence(1, 1), AttemptState::Succeeded);
    said.log_offsets = [("stdout".to_owned(), 10)].into();
    said.ending.as_mut().expect("it ended").log.complete = true;
    let is_complete = |stored| match said.as_report(|_| stored) {
        Some(Report::Ended { ending }) => ending.log.complete,
        other => panic!("{other:?}"),
    };
    assert_eq!([9, 10].map(is_complete), [false, true]);
}

#[test]
fn absence_counts_only_where_the_node_could_look_and_the_attempt_may_have_begun() {
    let sent = leased(2).1;
    let accepted = AttemptRow { accepted_at: Some(sent.placed_at), ..sent.clone() };
    let complete = Inventory { is_complete: true, is_new_instance: false };
    let table = [
        (&accepted, complete, Absence::GiveUp),
        (&sent, complete, Absence::SendAgain),
        (&sent, Inventory { is_new_instance: true, ..complete }, Absence::GiveUp),
        (&accepted, Inventory { is_complete: false, ..complete }, Absence::Unknown),
        (&sent, Inventory { is_complete: false, is_new_instance: true }, Absence::Unknown),
        // Sent before a restore: it may have run since the backup.
        (&leased(1).1, complete, Absence::GiveUp),
    ];
    for (attempt, inventory, expected) in table {
        assert_eq!(absent(attempt, inventory, NOW), expected, "{attempt:?} {inventory:?}");
    }
}

#[test]
fn an_attempt_that_is_taken_up_again_goes_on_where_its_node_is_and_replaces_what_it_had_replaced() {
    let at = chrono::DateTime::UNIX_EPOCH;
    let (mut task, mut previous) = leased(1);
    let again = || NewAttempt {
        id: AttemptId::from_uuid(Uuid::from_u128(6)),
        node: node(2),
        reservation: Reservation::default(),
    };
    let taken = lifecycle::adopt(&mut task, Some(&mut previous), again(), fence(1, 4), 2, at);
    let (mut attempt, _) = taken.expect("it is newer");
    assert_eq!((previous.state, task.live, task.fence), (AttemptState::Lost, Some(attempt.id), fence(1, 4)));
    assert_eq!((task.attempts, attempt.number, task.node_losses), (2, 2, 0));
    let said = HeldAttempt::new(attempt.held(), AttemptState::Running);
    let report = said.as_report(|_| 0).expect("it runs");
    let policy = RetryPolicy::default();
    let around =
        lifecycle::Around { policy: &policy, now: at, jitter_0_to_1: 0.0, node: Default::default(), is_probe: false };
    let verdict = lifecycle::report(&mut task, &mut attempt, said.held, &report, &around);
    assert!(matches!(verdict, Verdict::Recorded(_)), "{verdict:?}");
    assert_eq!((task.state, task.queued), (TaskState::Running, false));
    // The next lease is of the new epoch, and above it.
    assert!(task.fence.next(NOW) > attempt.fence);
    assert_eq!(lifecycle::adopt(&mut task, None, again(), fence(1, 4), 2, at), None, "it is known now");
}

#[test]
fn only_what_the_platform_can_not_have_forgotten_in_order_shows_a_loss() {
    // (epoch of its fence, attempt known, task known)
    let table = [
        ((3, false, false), true),
        ((2, false, true), true),
        // Its task was deleted, and the attempt with it.
        ((2, false, false), false),
        ((2, true, true), false),
        // Known to be forgotten since the last restore.
        ((1, false, true), false),
    ];
    for ((epoch, is_known, has_task), expected) in table {
        assert_eq!(
            shows_loss(&said(fence(epoch, 1), AttemptState::Running), is_known, has_task, NOW),
            expected,
            "{epoch} {is_known} {has_task}"
        );
    }
}
