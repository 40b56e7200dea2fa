//! Moves a task and its live attempt together. The store locks the two rows, calls one function here, and writes what it
//! returns; the simulation does the same with maps. So the rule stands in one place.

mod losses;

pub use losses::{allow_replacement, give_up, returned_alive};

use crate::{
    Timestamp,
    attempt::{self, AttemptRow, AttemptState, Report, Step},
    ids::{AttemptId, ClusterEpoch, Fence, Held, NodeId},
    outcome::{Ending, FailureKind},
    poison,
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
        /// The last heartbeat of the node, where its silence is the reason.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        silent_since: Option<Timestamp>,
    },
    /// Agent or host went down while the attempt ran there, so soon after its start that it may be the task's doing.
    NodeWentDown {
        attempt: AttemptId,
        node: NodeId,
        after_ms: u64,
    },
    CancelRequested,
    /// The task reached its end.
    Finished {
        state: TaskState,
        failure: Option<FailureKind>,
    },
    /// No longer written: what concerns only the machine is no part of a task's history. Older ones have it.
    Released {
        attempt: AttemptId,
    },
    RetryAsked,
}

/// What became of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It changed the rows; these entries go into the history. A release changes the attempt only and has none.
    Recorded(Vec<Event>),
    /// It was recorded before. Answered as the first time.
    Repeated,
    /// The attempt no longer holds its task. The node stops it; a late ending is kept in the attempt's history only.
    Fenced,
    /// The attempt ended otherwise before. Kept aside, changes nothing.
    Conflict,
}

/// What stands around a change and decides what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub policy: &'a RetryPolicy,
    /// The database's.
    pub now: Timestamp,
    pub jitter_0_to_1: f64,
    /// Of the attempt's node.
    pub node: poison::Presence,
    /// The attempt is the one real task that a cordoned node is tried with: the platform's fault costs it nothing.
    pub is_probe: bool,
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
    // Its exit facts are committed: it ends by them, and is not run again for the rest of its log.
    if previous
        .as_deref()
        .is_some_and(|previous| task.live == Some(previous.id) && losses::ends_by_exit_facts(previous))
    {
        return None;
    }
    let mut events = Vec::new();
    if let Some(previous) = previous.filter(|previous| task.live == Some(previous.id) && !previous.state.is_terminal())
    {
        losses::lose(previous, "its node was offline and the task was placed again", now, &mut events);
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
        losses::lose(previous, "it had been replaced before the database was restored from a backup", now, &mut events);
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
        outputs_stored: 0,
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
    around: &Around<'_>,
) -> Verdict {
    let now = around.now;
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
    let before = attempt.clone();
    // Its process is alive, or has ended by itself: it did not take its machine down.
    if matches!(report, Report::Started | Report::Exited { .. }) && task.died_with == Some(attempt.node) && task.queued
    {
        task.died_with = None;
    }
    note_facts(attempt, report, now, &mut events);
    let counted = losses::by_exit_facts(&before, report).or_else(|| losses::without_outputs(attempt, report));
    let step = attempt::next(attempt.state, counted.as_ref().unwrap_or(report), task.cancel_requested);
    if let Step::MoveTo(state) = step {
        move_attempt(attempt, state, now);
        task.state = task_state_of(state, task.state);
        // The node is back and works: what was queued for replacement is not.
        task.queued = false;
    } else if task.queued {
        task.queued = false;
        events.push(Event::Accepted { attempt: attempt.id });
    }
    if let (Step::MoveTo(state), Report::Ended { ending }) = (step, counted.as_ref().unwrap_or(report)) {
        events.push(Event::Ended {
            attempt: attempt.id,
            state,
            failure: ending.failure,
            message: ending.message.clone(),
        });
        let death = match ending.failure {
            Some(FailureKind::NodeLost | FailureKind::NodeError) if !ending.planned_stop => {
                poison::judge(&before, &around.node, now)
            }
            _ => poison::Death::Unrelated,
        };
        settle(task, attempt, state, ending, death, around, &mut events);
    }
    if events.is_empty() { Verdict::Repeated } else { Verdict::Recorded(events) }
}

fn release(attempt: &mut AttemptRow) -> Verdict {
    if !attempt.reserved {
        return Verdict::Repeated;
    }
    attempt.reserved = false;
    Verdict::Recorded(Vec::new())
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
fn settle(
    task: &mut TaskRow,
    attempt: &AttemptRow,
    state: AttemptState,
    ending: &Ending,
    death: poison::Death,
    around: &Around<'_>,
    events: &mut Vec<Event>,
) {
    let now = around.now;
    let exit_code = attempt.exit.as_ref().and_then(|exit| exit.code);
    let finish = |task: &mut TaskRow, state, failure, message: String, events: &mut Vec<Event>| {
        task.exit_code = exit_code;
        finish_task(task, state, failure, message, now, events);
    };
    match (state, ending.failure) {
        (AttemptState::Cancelled, _) => {
            finish(task, TaskState::Cancelled, Some(FailureKind::Cancelled), ending.message.clone(), events)
        }
        (_, None) => finish(task, TaskState::Succeeded, None, ending.message.clone(), events),
        // The platform's guess was wrong that there would be room soon: that is no try of the task's, and counts for nothing.
        (_, Some(_)) if attempt.only_waited() && ending.planned_stop => {
            requeue(task, attempt.node, None, ending.message.clone(), None, events);
        }
        (_, Some(kind)) => match retry::decide(task, kind, ending, ran_ms(attempt, ending, now), around) {
            Decision::Again { .. } if losses::note_death(task, attempt, death, events) => {
                finish(task, TaskState::Failed, Some(FailureKind::Poison), losses::POISON.to_owned(), events);
            }
            Decision::Again { delay_ms } => {
                let not_before = (delay_ms > 0).then(|| now + chrono::TimeDelta::milliseconds(delay_ms as i64));
                requeue(task, attempt.node, not_before, format!("{kind}: {}", ending.message), None, events);
            }
            Decision::End { because } => {
                let message = match because.as_str() {
                    "" => ending.message.clone(),
                    // The reason goes on with the sentence, which is over only after it.
                    because => format!("{} (not retried: {because})", ending.message.trim_end_matches('.')),
                };
                finish(task, TaskState::Failed, Some(kind), message, events);
            }
        },
    }
}

/// How long its process ran, as the node measured it, or else as the platform saw it.
fn ran_ms(attempt: &AttemptRow, ending: &Ending, now: Timestamp) -> u64 {
    let seen = attempt.started_at.map_or(0, |started_at| (now - started_at).num_milliseconds().max(0) as u64);
    ending.exit.as_ref().map_or(seen, |exit| exit.duration_ms)
}

fn requeue(
    task: &mut TaskRow,
    node: NodeId,
    not_before: Option<Timestamp>,
    because: String,
    silent_since: Option<Timestamp>,
    events: &mut Vec<Event>,
) {
    task.state = TaskState::Pending;
    task.queued = true;
    task.live = None;
    task.not_before = not_before;
    task.avoid_node = Some(node);
    events.push(Event::Requeued { not_before, because, silent_since });
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
            losses::lose(attempt, "cancelled while its node was offline", now, &mut events);
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
    task.died_with = None;
    task.failure = None;
    task.exit_code = None;
    task.message.clear();
    task.ended_at = None;
    Some(vec![Event::RetryAsked])
}

pub mod replay;
#[cfg(test)]
mod tests;
