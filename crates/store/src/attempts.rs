//! Operations on attempts: placing them, hearing of them, giving them up.

pub(crate) mod commit_placements;
pub(crate) mod exclusive;
pub(crate) mod outbox;
pub(crate) mod queue_heads;
pub(crate) mod queue_turns;
pub(crate) mod read_nodes;
pub(crate) mod record_reports;
mod releases;
pub(crate) mod replace;
