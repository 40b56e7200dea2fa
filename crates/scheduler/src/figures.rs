//! What the placement counts, with handles that are looked up once.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const IS_LEADER: &str = "unidesk_scheduler_is_leader";
const LEADER_CHANGES: &str = "unidesk_leader_changes_total";
const PASS: &str = "unidesk_scheduler_pass_seconds";
const PLACEMENTS: &str = "unidesk_placements_total";
const FAILURES: &str = "unidesk_placement_failures_total";

pub(crate) struct Figures {
    pub(crate) is_leader: Gauge,
    pub(crate) leader_changes: Counter,
    /// Of passes while it leads.
    pub(crate) pass: Histogram,
    pub(crate) placements: Counter,
    /// Planned, and not true any more when it was to be committed.
    pub(crate) stale: Counter,
    pub(crate) not_leader: Counter,
    pub(crate) error: Counter,
}

impl Figures {
    pub(crate) fn new() -> Self {
        describe_gauge!(IS_LEADER, "Whether this process places tasks: one of all schedulers does");
        describe_counter!(
            LEADER_CHANGES,
            "How often this process became the one that places tasks (scheduler) or looks for silent nodes (sweeper)"
        );
        describe_histogram!(PASS, "One look at the queue with all that it placed, while this process leads");
        describe_counter!(PLACEMENTS, "Leases of tasks to nodes");
        describe_counter!(
            FAILURES,
            "Planned placements that came to nothing: the task or the node had changed (stale), another scheduler leads (not_leader), \
             the database did not take it (error)"
        );
        let failed = |reason: &'static str| counter!(FAILURES, "reason" => reason);
        Self {
            is_leader: gauge!(IS_LEADER),
            leader_changes: counter!(LEADER_CHANGES, "role" => "scheduler"),
            pass: histogram!(PASS),
            placements: counter!(PLACEMENTS),
            stale: failed("stale"),
            not_leader: failed("not_leader"),
            error: failed("error"),
        }
    }
}
