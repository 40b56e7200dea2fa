//! What this process counts of what it writes. Counted beside the statement, before its commit: the rare transaction that PostgreSQL breaks
//! off and that is begun again counts twice.

use domain::{
    Timestamp,
    attempt::{AttemptRow, AttemptState},
    ids::AttemptId,
    lifecycle::Event,
    outcome::FailureKind,
    task::{TaskRow, TaskState},
};
use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::{collections::BTreeMap, sync::LazyLock};

const SUBMITTED: &str = "unidesk_tasks_submitted_total";
const FINISHED: &str = "unidesk_tasks_finished_total";
const ENDED: &str = "unidesk_attempts_ended_total";
const IN_STATE: &str = "unidesk_task_state_seconds";
const PLACEMENT: &str = "unidesk_placement_latency_seconds";
const GROUP: &str = "unidesk_group_commit_size";
const CONNECTIONS: &str = "unidesk_database_pool_connections";

/// Looked up once: every step of every task passes here.
struct Handles {
    submitted: Counter,
    finished: BTreeMap<TaskState, Counter>,
    ended: BTreeMap<&'static str, Counter>,
    in_state: BTreeMap<TaskState, Histogram>,
    placement: Histogram,
}

static HANDLES: LazyLock<Handles> = LazyLock::new(|| {
    let ended = TaskState::ALL.into_iter().filter(|state| state.is_terminal());
    let lived = TaskState::ALL.into_iter().filter(|state| !state.is_terminal());
    let outcomes = FailureKind::ALL.into_iter().map(FailureKind::as_str).chain([AttemptState::Succeeded.as_str()]);
    Handles {
        submitted: counter!(SUBMITTED),
        finished: ended.map(|state| (state, counter!(FINISHED, "state" => state.as_str()))).collect(),
        ended: outcomes.map(|outcome| (outcome, counter!(ENDED, "outcome" => outcome))).collect(),
        in_state: lived.map(|state| (state, histogram!(IN_STATE, "state" => state.as_str()))).collect(),
        placement: histogram!(PLACEMENT),
    }
});

pub(crate) fn describe() {
    describe_counter!(SUBMITTED, "Tasks that this process accepted");
    describe_counter!(FINISHED, "Tasks that reached their end, by how they ended");
    describe_counter!(ENDED, "Attempts that ended: succeeded, or the kind of failure");
    describe_histogram!(
        IN_STATE,
        Unit::Seconds,
        "How long attempts were in a state, observed when they left it; pending: as far as the first lease"
    );
    describe_histogram!(PLACEMENT, Unit::Seconds, "From a task's submission to its first lease");
    describe_histogram!(GROUP, "Calls that were written by one transaction");
    describe_gauge!(CONNECTIONS, "Connections of this process to PostgreSQL, by pool and by whether they are in use");
    // All of them from the start on: a rate needs a first value.
    LazyLock::force(&HANDLES);
}

pub(crate) fn submitted(tasks: usize) {
    HANDLES.submitted.increment(tasks as u64);
}

/// The sizes of a group of this name.
pub(crate) fn group(name: &'static str) -> Histogram {
    histogram!(GROUP, "group" => name)
}

pub(crate) fn count_ends(changed: &[(TaskRow, Vec<Event>)]) {
    for event in changed.iter().flat_map(|(_, events)| events) {
        match event {
            Event::Ended { state, failure, .. } => {
                let outcome = failure.map_or(state.as_str(), FailureKind::as_str);
                if let Some(counter) = HANDLES.ended.get(outcome) {
                    counter.increment(1);
                }
            }
            Event::Finished { state, .. } => {
                if let Some(counter) = HANDLES.finished.get(state) {
                    counter.increment(1);
                }
            }
            _ => {}
        }
    }
}

/// First leases, each with the wait before it.
pub(crate) fn placed(waits_s: impl Iterator<Item = f64>) {
    for seconds in waits_s {
        HANDLES.placement.record(seconds);
        observe(TaskState::Pending, seconds);
    }
}

/// What these attempts have just left behind them.
pub(crate) fn left_states(attempts: &[AttemptRow], changed: &[(TaskRow, Vec<Event>)]) {
    let of = |id: &AttemptId| attempts.iter().find(|attempt| attempt.id == *id);
    for event in changed.iter().flat_map(|(_, events)| events) {
        let (id, state) = match event {
            // What was sent ahead is accepted long before it begins; anything else begins with that.
            Event::Accepted { attempt } if of(attempt).is_some_and(|attempt| !attempt.reservation.ahead) => {
                (attempt, TaskState::Assigned)
            }
            Event::Preparing { attempt } => (attempt, TaskState::Assigned),
            Event::Started { attempt } => (attempt, TaskState::Preparing),
            Event::Exited { attempt, .. } => (attempt, TaskState::Running),
            Event::Ended { attempt, .. } => (attempt, TaskState::Finishing),
            _ => continue,
        };
        if let Some(seconds) = of(id).and_then(|attempt| seconds_in(state, attempt)) {
            observe(state, seconds);
        }
    }
}

fn observe(state: TaskState, seconds: f64) {
    if let Some(histogram) = HANDLES.in_state.get(&state) {
        histogram.record(seconds);
    }
}

/// None: it never was in it.
fn seconds_in(state: TaskState, attempt: &AttemptRow) -> Option<f64> {
    let (from, to) = match state {
        TaskState::Assigned => (Some(attempt.placed_at), attempt.preparing_at),
        TaskState::Preparing => (attempt.preparing_at.or(Some(attempt.placed_at)), attempt.started_at),
        TaskState::Running => (attempt.started_at, attempt.exited_at),
        TaskState::Finishing => (attempt.exited_at, attempt.ended_at),
        TaskState::Pending | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => (None, None),
    };
    Some(seconds_between(from?, to?))
}

pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    ((to - from).num_microseconds().unwrap_or(i64::MAX).max(0)) as f64 / 1e6
}

/// What a pool has: connections in use, and those that wait for work.
pub(crate) fn connections(pool: &'static str, size: u32, idle: usize) {
    let idle = idle.min(size as usize);
    gauge!(CONNECTIONS, "pool" => pool, "state" => "idle").set(idle as f64);
    gauge!(CONNECTIONS, "pool" => pool, "state" => "busy").set((size as usize - idle) as f64);
}
