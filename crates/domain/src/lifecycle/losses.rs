//! What becomes of a task whose node is away, came back without it, or went down under it.

use super::{Around, Event, finish_task, move_attempt, requeue, settle};
use crate::{
    Timestamp,
    attempt::{self, AttemptRow, AttemptState, Report},
    outcome::{Ending, FailureClass, FailureKind, LogTotals},
    poison::{self, Death},
    retry,
    task::{TaskRow, TaskState},
};

/// What a task is told that takes machines down.
pub(super) const POISON: &str =
    "two machines went down while it ran there, each within ten minutes of its start, so it is not tried on a third";

/// Queues a task whose node has been offline for long enough. State and fence stay, so the old attempt may still come back first.
/// Where the exit facts are committed already, the task ends by them instead; and where this is the second machine that went down
/// under it, it ends as poison.
///
/// `None`: there is nothing to replace.
pub fn allow_replacement(task: &mut TaskRow, attempt: &mut AttemptRow, around: &Around<'_>) -> Option<Vec<Event>> {
    let is_live = task.live == Some(attempt.id) && !attempt.state.is_terminal();
    if !is_live || task.cancel_requested || task.state.is_terminal() {
        return None;
    }
    let mut events = Vec::new();
    if ends_by_exit_facts(attempt) {
        end_by_exit_facts(task, attempt, "its node is offline", around, &mut events);
        return Some(events);
    }
    if task.queued {
        return None;
    }
    if note_death(task, attempt, poison::judge(attempt, &around.node, around.now), &mut events) {
        task.node_losses += 1;
        lose(attempt, "its node fell silent while it ran", around.now, &mut events);
        finish_task(task, TaskState::Failed, Some(FailureKind::Poison), POISON.to_owned(), around.now, &mut events);
        return Some(events);
    }
    task.queued = true;
    let silent_since = around.node.last_beat;
    events.push(Event::Requeued { not_before: None, because: "its node is offline".into(), silent_since });
    Some(events)
}

/// Gives up the live attempt of a node that can't have it any more: the node came back without it, or was revoked.
/// The task is placed again, unless its exit facts are committed: then it ends by them. The caller knows whether its resources are
/// free.
///
/// `None`: the attempt is not live.
pub fn give_up(task: &mut TaskRow, attempt: &mut AttemptRow, because: &str, around: &Around<'_>) -> Option<Vec<Event>> {
    if task.live != Some(attempt.id) || attempt.state.is_terminal() {
        return None;
    }
    let now = around.now;
    let mut events = Vec::new();
    if ends_by_exit_facts(attempt) && !task.cancel_requested {
        end_by_exit_facts(task, attempt, because, around, &mut events);
        return Some(events);
    }
    let death = poison::judge(attempt, &around.node, now);
    lose(attempt, because, now, &mut events);
    if task.cancel_requested {
        finish_task(task, TaskState::Cancelled, Some(FailureKind::Cancelled), because.to_owned(), now, &mut events);
        return Some(events);
    }
    task.node_losses += 1;
    if note_death(task, attempt, death, &mut events) {
        finish_task(task, TaskState::Failed, Some(FailureKind::Poison), POISON.to_owned(), now, &mut events);
    } else if task.node_losses > retry::MAX_NODE_LOSSES {
        finish_task(task, TaskState::Failed, Some(FailureKind::NodeLost), because.to_owned(), now, &mut events);
    } else {
        requeue(task, attempt.node, None, because.to_owned(), None, &mut events);
    }
    Some(events)
}

/// An attempt is there and alive, on the node that was thought to have gone down with it: it is no poison. Whether the task holds
/// that attempt still does not matter.
///
/// False: nobody had suspected it.
pub fn returned_alive(task: &mut TaskRow, attempt: &AttemptRow) -> bool {
    let was_suspected = attempt.task == task.id && task.died_with.is_some() && !task.state.is_terminal();
    if was_suspected {
        task.died_with = None;
    }
    was_suspected
}

pub(super) fn lose(attempt: &mut AttemptRow, because: &str, now: Timestamp, events: &mut Vec<Event>) {
    let ending = Ending::failed(FailureKind::NodeLost, because);
    move_attempt(attempt, AttemptState::Lost, now);
    events.push(Event::Ended {
        attempt: attempt.id,
        state: AttemptState::Lost,
        failure: ending.failure,
        message: ending.message.clone(),
    });
    attempt.ending = Some(ending);
}

/// Writes down that a node went down with the task. True: it is the second one, so the task is poison.
pub(super) fn note_death(task: &mut TaskRow, attempt: &AttemptRow, death: Death, events: &mut Vec<Event>) -> bool {
    match death {
        Death::Unrelated => false,
        Death::Cleared => {
            task.died_with = None;
            false
        }
        Death::Suspect { after_ms } => {
            events.push(Event::NodeWentDown { attempt: attempt.id, node: attempt.node, after_ms });
            let first = task.died_with.replace(attempt.node);
            first.is_some_and(|first| first != attempt.node)
        }
    }
}

/// The process has ended, and how is committed: only the rest of the log is missing, and no second run would bring that. Outputs that were
/// not stored are the one reason to run it again.
pub(super) fn ends_by_exit_facts(attempt: &AttemptRow) -> bool {
    attempt.state == AttemptState::Finishing && attempt.exit.is_some() && !attempt.lacks_outputs()
}

fn end_by_exit_facts(
    task: &mut TaskRow,
    attempt: &mut AttemptRow,
    because: &str,
    around: &Around<'_>,
    events: &mut Vec<Event>,
) {
    let Some(exit) = attempt.exit.clone() else { return };
    let how = match (exit.failure(), exit.code) {
        (None, _) => String::new(),
        (Some(FailureKind::ExitNonzero), Some(code)) => format!("exit {code}; "),
        (Some(kind), _) => format!("{kind}; "),
    };
    let ending = Ending {
        failure: exit.failure(),
        message: format!("{how}{because}, and the rest of its log is missing"),
        exit: Some(exit),
        planned_stop: false,
        log: LogTotals { bytes: 0, complete: false },
    };
    let state = attempt::ended_state(&ending, task.cancel_requested);
    move_attempt(attempt, state, around.now);
    attempt.ending = Some(ending.clone());
    events.push(Event::Ended { attempt: attempt.id, state, failure: ending.failure, message: ending.message.clone() });
    settle(task, attempt, state, &ending, Death::Unrelated, around, events);
}

/// What counts of an end that a node reports after it had reported the exit: the exit. An end that blames the platform would have
/// the task run again. None: the report counts as it is.
pub(super) fn by_exit_facts(before: &AttemptRow, report: &Report) -> Option<Report> {
    let Report::Ended { ending } = report else { return None };
    let exit = before.exit.as_ref().filter(|_| ends_by_exit_facts(before))?;
    let kind = ending.failure.filter(|kind| *kind != FailureKind::OutputFailed)?;
    let blames_the_platform = ending.planned_stop || kind.class() == FailureClass::Infrastructure;
    blames_the_platform.then(|| Report::Ended {
        ending: Ending { failure: exit.failure(), exit: Some(exit.clone()), planned_stop: false, ..ending.clone() },
    })
}

/// What counts of a success of which not all outputs are stored, as after a restore that has forgotten them: it is run again. A task that
/// has succeeded has left what it was to leave. None: the report counts as it is.
pub(super) fn without_outputs(attempt: &AttemptRow, report: &Report) -> Option<Report> {
    let Report::Ended { ending } = report else { return None };
    let due = attempt.exit.as_ref().filter(|_| ending.failure.is_none() && attempt.lacks_outputs())?.outputs_due;
    let message = format!("it ended well, but only {} of its {due} outputs are stored", attempt.outputs_stored);
    Some(Report::Ended { ending: Ending { failure: Some(FailureKind::NodeError), message, ..ending.clone() } })
}
