//! Why a task waits, or what ended it: values in, the answer out. The sentences are made here, so that the command line, the API and
//! the pages say the same.

mod chain;
mod ended;
mod hints;
mod waiting;

use api_types::why::Why;
use domain::{
    Timestamp,
    attempt::{AttemptRow, AttemptState},
    lifecycle::Event,
    placement::Candidate,
    quantity::show_duration_ms,
    task::TaskState,
};
use store::{EventRow, TaskDetail};

/// What is known about one task.
pub(crate) struct Known<'a> {
    /// The database's.
    pub(crate) now: Timestamp,
    pub(crate) task: &'a TaskDetail,
    pub(crate) nodes: &'a [Candidate],
    /// Oldest first.
    pub(crate) history: &'a [EventRow],
    /// Waiting tasks that come before it.
    pub(crate) before: u64,
    /// The last bytes of the last attempt's log.
    pub(crate) log_tail: &'a [u8],
}

pub(crate) fn explain(known: &Known<'_>) -> Why {
    let view = &known.task.view;
    let mut why = Why {
        task: view.id,
        name: view.name.clone(),
        state: view.state,
        summary: String::new(),
        waiting: None,
        ended: None,
        chain: Vec::new(),
        budgets: chain::budgets(known),
        hints: Vec::new(),
    };
    if view.state.is_terminal() {
        ended::explain(known, &mut why);
    } else if view.state == TaskState::Pending {
        waiting::explain(known, &mut why);
    } else {
        explain_placed(known, &mut why);
    }
    let had_attempts = known.task.attempts.iter().filter(|attempt| attempt.row.state.is_terminal()).count();
    if why.ended.is_none() && had_attempts > 0 {
        why.chain = chain::evidence(known);
    }
    why
}

/// It waits for nobody: its node has it.
fn explain_placed(known: &Known<'_>, why: &mut Why) {
    let view = &known.task.view;
    let node = view.node.as_deref().unwrap_or("its node");
    let number = if view.attempts > 1 { format!(", attempt {}", view.attempts) } else { String::new() };
    let attempt = known.task.attempts.last().map(|attempt| &attempt.row);
    let since = attempt.map(|attempt| match attempt.state {
        AttemptState::Preparing => attempt.preparing_at.unwrap_or(attempt.placed_at),
        AttemptState::Running => attempt.started_at.unwrap_or(attempt.placed_at),
        AttemptState::Finishing => attempt.exited_at.unwrap_or(attempt.placed_at),
        _ => attempt.placed_at,
    });
    let long = lasted(known.now, since.unwrap_or(view.created_at));
    let doing = match view.state {
        TaskState::Assigned if attempt.is_some_and(AttemptRow::waits_there) => {
            format!("waits on {node} for {long}, and starts there as soon as a task before it has ended")
        }
        TaskState::Assigned => format!("is placed on {node}, which has not taken it yet, for {long}"),
        TaskState::Preparing => format!("is being prepared on {node} for {long}"),
        TaskState::Finishing => format!("has ended on {node}, and its log and outputs are on their way, for {long}"),
        _ => format!("is running on {node} for {long}"),
    };
    why.summary = format!("{} {doing}{number}.", view.name);
    if view.cancel_requested {
        why.summary += &format!(" Its end was asked for, and {node} is told.");
    }
    if view.node_offline {
        why.summary += &match view.queued {
            true => format!(
                " {node} is offline, so the task is queued again; the first node that has room takes it, unless {node} is back before that."
            ),
            false => format!(" {node} is offline. The task may well be running on."),
        };
        let (waiting, _) = waiting::verdicts(known);
        why.waiting = view.queued.then_some(waiting);
    }
}

fn lasted(now: Timestamp, since: Timestamp) -> String {
    show_duration_ms((now - since).num_milliseconds().max(0) as u64)
}

/// Since when it waits: its last entry into the queue.
fn queued_since(known: &Known<'_>) -> Timestamp {
    let enters = |event: &Event| matches!(event, Event::Submitted | Event::Requeued { .. } | Event::RetryAsked);
    let last = known.history.iter().rev().find(|entry| entry.events.iter().any(enters));
    last.map_or(known.task.view.created_at, |entry| entry.at)
}

/// `61,882`
fn counted(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 node fits`, `2 nodes fit`
fn nodes_that(count: u32, verb: &str) -> String {
    if count == 1 { format!("1 node {verb}s") } else { format!("{count} nodes {verb}") }
}

#[cfg(test)]
mod tests;
