//! Moves a task and its live attempt together. The store locks the two rows, calls one function here, and writes what it
//! returns; the simulation does the same with maps. So the rule stands in one place.

use crate::{
    Timestamp,
    attempt::{self, AttemptRow, AttemptState, Report, Step},
    ids::{AttemptId, ClusterEpoch, Fence, Held, NodeId},
    outcome::{Ending, FailureKind},
    resources::Reservation,
    retry::{self, Decision, RetryPolicy},
    task::{TaskRow, TaskState},
};
use serde::{Deserialize, Serialize};

/// One entry of a task's history. Appended in the same statement as the change that it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Submitted,
    Placed {
        attempt: AttemptId,
        number: u32,
        node: NodeId,
    },
    Accepted {
        attempt: AttemptId,
    },
    Preparing {
        attempt: AttemptId,
    },
    Prepared {
        attempt: AttemptId,
    },
    Started {
        attempt: AttemptId,
    },
    Exited {
        attempt: AttemptId,
        code: Option<i32>,
    },
    Ended {
        attempt: AttemptId,
        state: AttemptState,
        failure: Option<FailureKind>,
        message: String,
    },
    /// Waits for another attempt.
    Requeued {
        not_before: Option<Timestamp>,
        because: String,
    },
    CancelRequested,
    /// The task reached its end.
    Finished {
        state: TaskState,
        failure: Option<FailureKind>,
    },
    Released {
        attempt: AttemptId,
    },
    RetryAsked,
}

/// What became of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It changed the rows; these entries go into the history.
    Recorded(Vec<Event>),
    /// It was recorded before. Answered as the first time.
    Repeated,
    /// The attempt no longer holds its task. The node stops it; a late ending is kept in the attempt's history only.
    Fenced,
    /// The attempt ended otherwise before. Kept aside, changes nothing.
    Conflict,
}

/// Leases a task to a node. A previous attempt that is still live (its node is offline and may be replaced) is lost by this.
///
/// `None`: the task does not wait any more, so the placement is stale.
pub fn place(
    task: &mut TaskRow,
    previous: Option<&mut AttemptRow>,
    placed: NewAttempt,
    epoch: ClusterEpoch,
    now: Timestamp,
) -> Option<(AttemptRow, Vec<Event>)> {
    let may_start = task.queued && !task.cancel_requested && !task.state.is_terminal();
    if !may_start || task.not_before.is_some_and(|moment| moment > now) {
        return None;
    }
    let mut events = Vec::new();
    if let Some(previous) = previous.filter(|previous| task.live == Some(previous.id) && !previous.state.is_terminal())
    {
        lose(previous, "its node was offline and the task was placed again", now, &mut events);
        task.node_losses += 1;
    }
    let (fence, number) = (task.fence.next(epoch), task.attempts + 1);
    let attempt = lease(task, placed, fence, number, now, &mut events);
    Some((attempt, events))
}

/// Takes up again what a node still has and the database, restored from a backup, has forgotten: it was leased after all that is
/// known of its task, so it holds the task. What the database takes for the task's attempt was replaced by it.
///
/// `None`: the task has ended, or was leased again since.
pub fn adopt(
    task: &mut TaskRow,
    previous: Option<&mut AttemptRow>,
    forgotten: NewAttempt,
    fence: Fence,
    number: u32,
    now: Timestamp,
) -> Option<(AttemptRow, Vec<Event>)> {
    if task.state.is_terminal() || fence <= task.fence {
        return None;
    }
    let mut events = Vec::new();
    if let Some(previous) = previous.filter(|previous| task.live == Some(previous.id) && !previous.state.is_terminal())
    {
        lose(previous, "it had been replaced before the database was restored from a backup", now, &mut events);
    }
    let number = number.max(task.attempts + 1);
    let attempt = lease(task, forgotten, fence, number, now, &mut events);
    Some((attempt, events))
}

fn lease(
    task: &mut TaskRow,
    placed: NewAttempt,
    fence: Fence,
    number: u32,
    now: Timestamp,
    events: &mut Vec<Event>,
) -> AttemptRow {
    task.fence = fence;
    task.attempts = number;
    task.live = Some(placed.id);
    task.state = TaskState::Assigned;
    task.queued = false;
    let attempt = AttemptRow {
        id: placed.id,
        task: task.id,
        number: task.attempts,
        node: placed.node,
        fence: task.fence,
        state: AttemptState::Assigned,
        reservation: placed.reservation,
        reserved: true,
        placed_at: now,
        accepted_at: None,
        preparing_at: None,
        started_at: None,
        exited_at: None,
        ended_at: None,
        exit: None,
        ending: None,
        provenance: None,
    };
    events.push(Event::Placed { attempt: attempt.id, number: attempt.number, node: attempt.node });
    attempt
}

/// The attempt that a placement makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAttempt {
    pub id: AttemptId,
    pub node: NodeId,
    pub reservation: Reservation,
}

/// Applies what a node reports about one of its attempts.
pub fn report(
    task: &mut TaskRow,
    attempt: &mut AttemptRow,
    held: Held,
    report: &Report,
    policy: &RetryPolicy,
    now: Timestamp,
    jitter_0_to_1: f64,
) -> Verdict {
    if attempt.held() != held {
        return Verdict::Fenced;
    }
    // A release concerns the machine, not the task: it counts whoever holds the task now.
    if *report == Report::Released {
        return release(attempt);
    }
    if attempt.state.is_terminal() {
        return judge_late(attempt, report);
    }
    if task.live != Some(attempt.id) {
        return Verdict::Fenced;
    }
    let mut events = Vec::new();
    note_facts(attempt, report, now, &mut events);
    let step = attempt::next(attempt.state, report, task.cancel_requested);
    if let Step::MoveTo(state) = step {
        move_attempt(attempt, state, now);
        task.state = task_state_of(state, task.state);
        // The node is back and works: what was queued for replacement is not.
        task.queued = false;
    } else if task.queued {
        task.queued = false;
        events.push(Event::Accepted { attempt: attempt.id });
    }
    if let (Step::MoveTo(state), Report::Ended { ending }) = (step, report) {
        events.push(Event::Ended {
            attempt: attempt.id,
            state,
            failure: ending.failure,
            message: ending.message.clone(),
        });
        settle(task, attempt, state, ending, policy, now, jitter_0_to_1, &mut events);
    }
    if events.is_empty() { Verdict::Repeated } else { Verdict::Recorded(events) }
}

fn release(attempt: &mut AttemptRow) -> Verdict {
    if !attempt.reserved {
        return Verdict::Repeated;
    }
    attempt.reserved = false;
    Verdict::Recorded(vec![Event::Released { attempt: attempt.id }])
}

/// A terminal attempt never changes again: the same end again is a repeat, another one a conflict.
fn judge_late(attempt: &AttemptRow, report: &Report) -> Verdict {
    match (attempt.state, report) {
        (AttemptState::Lost, _) => Verdict::Fenced,
        (_, Report::Ended { ending }) if attempt.ending.as_ref() != Some(ending) => Verdict::Conflict,
        _ => Verdict::Repeated,
    }
}

/// Writes down what a report adds, the first time that it adds it.
fn note_facts(attempt: &mut AttemptRow, report: &Report, now: Timestamp, events: &mut Vec<Event>) {
    let id = attempt.id;
    match report {
        Report::Accepted if attempt.accepted_at.is_none() => {
            attempt.accepted_at = Some(now);
            events.push(Event::Accepted { attempt: id });
        }
        Report::Preparing if attempt.preparing_at.is_none() => {
            attempt.preparing_at = Some(now);
            events.push(Event::Preparing { attempt: id });
        }
        Report::Prepared { provenance } if attempt.provenance.is_none() => {
            attempt.provenance = Some(provenance.clone());
            events.push(Event::Prepared { attempt: id });
        }
        Report::Started if attempt.started_at.is_none() => {
            attempt.started_at = Some(now);
            events.push(Event::Started { attempt: id });
        }
        Report::Exited { exit } if attempt.exit.is_none() => {
            attempt.exit = Some(exit.clone());
            attempt.exited_at = Some(now);
            events.push(Event::Exited { attempt: id, code: exit.code });
        }
        Report::Ended { ending } => {
            if attempt.exit.is_none() {
                attempt.exit.clone_from(&ending.exit);
            }
            attempt.ending = Some(ending.clone());
        }
        Report::Accepted
        | Report::Preparing
        | Report::Prepared { .. }
        | Report::Started
        | Report::Exited { .. }
        | Report::Released => {}
    }
    // Whatever a node says about an attempt, it has it.
    if attempt.accepted_at.is_none() {
        attempt.accepted_at = Some(now);
    }
}

fn move_attempt(attempt: &mut AttemptRow, state: AttemptState, now: Timestamp) {
    attempt.state = state;
    match state {
        AttemptState::Preparing => attempt.preparing_at = attempt.preparing_at.or(Some(now)),
        AttemptState::Running => attempt.started_at = attempt.started_at.or(Some(now)),
        AttemptState::Finishing => attempt.exited_at = attempt.exited_at.or(Some(now)),
        AttemptState::Succeeded | AttemptState::Failed | AttemptState::Cancelled | AttemptState::Lost => {
            attempt.ended_at = Some(now)
        }
        AttemptState::Assigned => {}
    }
}

fn task_state_of(attempt: AttemptState, unchanged: TaskState) -> TaskState {
    match attempt {
        AttemptState::Assigned => TaskState::Assigned,
        AttemptState::Preparing => TaskState::Preparing,
        AttemptState::Running => TaskState::Running,
        AttemptState::Finishing => TaskState::Finishing,
        // What becomes of the task then is decided by `settle`.
        AttemptState::Succeeded | AttemptState::Failed | AttemptState::Cancelled | AttemptState::Lost => unchanged,
    }
}

/// The live attempt has ended: the task ends with it, or waits for another one.
#[expect(clippy::too_many_arguments, reason = "the whole decision and its inputs, seen at once")]
fn settle(
    task: &mut TaskRow,
    attempt: &AttemptRow,
    state: AttemptState,
    ending: &Ending,
    policy: &RetryPolicy,
    now: Timestamp,
    jitter_0_to_1: f64,
    events: &mut Vec<Event>,
) {
    let exit_code = attempt.exit.as_ref().and_then(|exit| exit.code);
    let mut finish = |task: &mut TaskRow, state, failure, message: String| {
        task.exit_code = exit_code;
        finish_task(task, state, failure, message, now, events);
    };
    match (state, ending.failure) {
        (AttemptState::Cancelled, _) => {
            finish(task, TaskState::Cancelled, Some(FailureKind::Cancelled), ending.message.clone())
        }
        (_, None) => finish(task, TaskState::Succeeded, None, ending.message.clone()),
        (_, Some(kind)) => match retry::decide(task, kind, ending, policy, jitter_0_to_1) {
            Decision::Again { delay_ms } => {
                let not_before = (delay_ms > 0).then(|| now + chrono::TimeDelta::milliseconds(delay_ms as i64));
                requeue(task, attempt.node, not_before, format!("{kind}: {}", ending.message), events);
            }
            Decision::End { because } => {
                let message = match because.as_str() {
                    "" => ending.message.clone(),
                    // The reason goes on with the sentence, which is over only after it.
                    because => format!("{} (not retried: {because})", ending.message.trim_end_matches('.')),
                };
                finish(task, TaskState::Failed, Some(kind), message);
            }
        },
    }
}

fn requeue(task: &mut TaskRow, node: NodeId, not_before: Option<Timestamp>, because: String, events: &mut Vec<Event>) {
    task.state = TaskState::Pending;
    task.queued = true;
    task.live = None;
    task.not_before = not_before;
    task.avoid_node = Some(node);
    events.push(Event::Requeued { not_before, because });
}

fn finish_task(
    task: &mut TaskRow,
    state: TaskState,
    failure: Option<FailureKind>,
    message: String,
    now: Timestamp,
    events: &mut Vec<Event>,
) {
    task.state = state;
    task.queued = false;
    task.live = None;
    task.failure = failure;
    task.message = message;
    task.ended_at = Some(now);
    events.push(Event::Finished { state, failure });
}

fn lose(attempt: &mut AttemptRow, because: &str, now: Timestamp, events: &mut Vec<Event>) {
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

/// What a request to cancel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelVerdict {
    /// The task is cancelled now: it had no attempt, or its node is away.
    Cancelled(Vec<Event>),
    /// Its node is told; the task ends when the node confirms.
    Requested(Vec<Event>),
    /// Asked before, and still on its way.
    Repeated,
    AlreadyEnded,
}

/// Cancels a task. After this was answered, no success can be recorded.
pub fn cancel(
    task: &mut TaskRow,
    attempt: Option<&mut AttemptRow>,
    node_is_offline: bool,
    now: Timestamp,
) -> CancelVerdict {
    if task.state.is_terminal() {
        return CancelVerdict::AlreadyEnded;
    }
    let mut events = Vec::new();
    let asked_before = task.cancel_requested;
    if !asked_before {
        task.cancel_requested = true;
        events.push(Event::CancelRequested);
    }
    match attempt.filter(|attempt| task.live == Some(attempt.id) && !attempt.state.is_terminal()) {
        Some(_) if !node_is_offline && asked_before => CancelVerdict::Repeated,
        Some(_) if !node_is_offline => CancelVerdict::Requested(events),
        Some(attempt) => {
            lose(attempt, "cancelled while its node was offline", now, &mut events);
            finish_task(
                task,
                TaskState::Cancelled,
                Some(FailureKind::Cancelled),
                "cancelled while its node was offline".into(),
                now,
                &mut events,
            );
            CancelVerdict::Cancelled(events)
        }
        None => {
            finish_task(
                task,
                TaskState::Cancelled,
                Some(FailureKind::Cancelled),
                "cancelled before it was placed".into(),
                now,
                &mut events,
            );
            CancelVerdict::Cancelled(events)
        }
    }
}

/// Queues a task whose node has been offline for long enough. State and fence stay, so the old attempt may still come back first.
///
/// `None`: there is nothing to replace.
pub fn allow_replacement(task: &mut TaskRow) -> Option<Vec<Event>> {
    if task.queued || task.cancel_requested || task.live.is_none() || task.state.is_terminal() {
        return None;
    }
    task.queued = true;
    Some(vec![Event::Requeued { not_before: None, because: "its node is offline".into() }])
}

/// Gives up the live attempt of a node that can't have it any more: the node came back without it, or was revoked.
/// The task is placed again; its resources are free, since the machine knows nothing of them.
///
/// `None`: the attempt is not live.
pub fn give_up(task: &mut TaskRow, attempt: &mut AttemptRow, because: &str, now: Timestamp) -> Option<Vec<Event>> {
    if task.live != Some(attempt.id) || attempt.state.is_terminal() {
        return None;
    }
    let mut events = Vec::new();
    lose(attempt, because, now, &mut events);
    if task.cancel_requested {
        finish_task(task, TaskState::Cancelled, Some(FailureKind::Cancelled), because.to_owned(), now, &mut events);
    } else {
        task.node_losses += 1;
        if task.node_losses > retry::MAX_NODE_LOSSES {
            finish_task(task, TaskState::Failed, Some(FailureKind::NodeLost), because.to_owned(), now, &mut events);
        } else {
            requeue(task, attempt.node, None, because.to_owned(), &mut events);
        }
    }
    Some(events)
}

/// Ends a waiting task whose queue timeout has passed. `None`: it does not wait.
pub fn expire_in_queue(task: &mut TaskRow, waited: &str, now: Timestamp) -> Option<Vec<Event>> {
    if task.state != TaskState::Pending {
        return None;
    }
    let mut events = Vec::new();
    finish_task(
        task,
        TaskState::Failed,
        Some(FailureKind::QueueTimeout),
        format!("no node took it within its queue_timeout of {waited}"),
        now,
        &mut events,
    );
    Some(events)
}

/// A person asks for one more run of an ended task: budgets start anew. `None`: it has not ended.
pub fn retry_ended(task: &mut TaskRow) -> Option<Vec<Event>> {
    if !task.state.is_terminal() {
        return None;
    }
    task.state = TaskState::Pending;
    task.queued = true;
    task.cancel_requested = false;
    task.user_failures = 0;
    task.infra_failures = 0;
    task.node_losses = 0;
    task.not_before = None;
    task.avoid_node = None;
    task.failure = None;
    task.exit_code = None;
    task.message.clear();
    task.ended_at = None;
    Some(vec![Event::RetryAsked])
}

pub mod replay;
#[cfg(test)]
mod tests;
