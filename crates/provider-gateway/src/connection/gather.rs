//! When reports go to the server. While it is busy with reports of this node, others gather for a moment: it takes them together, and what
//! an attempt has been through meanwhile costs it one write. A node that says much at once waits for a moment even where all is answered:
//! otherwise its short tasks cost the server a transaction for each of their states. Where little is said, nothing waits.
//!
//! An agent that stops says that first. The server writes heartbeats of many nodes together and so a little later than reports: it would
//! give work that was handed back to the very node that is going away.

use std::time::Duration;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until},
};

/// Reports that go out together.
const MOST_AT_ONCE: usize = 256;
/// How long reports wait for an answer to those before them.
const GATHER_FOR: Duration = Duration::from_millis(15);
/// So many reports at once come from many attempts,
const MANY: usize = 8;
/// and then no more go out for so long.
const PAUSE: Duration = Duration::from_millis(10);
/// How long reports wait for an answer to the word that this agent stops. It goes in any case, within the time that a stop takes.
const HELD_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// When the last reports went out.
    sent_at: Option<Instant>,
    were_many: bool,
    held_until: Option<Instant>,
}

impl Gathering {
    pub(super) fn sent(&mut self, count: usize) {
        self.sent_at = Some(Instant::now());
        self.were_many = count >= MANY;
    }

    /// The server does not know yet what it must know before any more reports.
    pub(super) fn hold(&mut self) {
        self.held_until = Some(Instant::now() + HELD_FOR);
    }

    /// Now it does. Repeated or without a [`Gathering::hold`], it changes nothing.
    pub(super) fn release(&mut self) {
        self.held_until = None;
    }

    /// The reports that are to go out next, as soon as they may: all that have gathered, at least one. `is_unanswered`: the server owes an
    /// answer to earlier ones; when that comes, drop the future and ask again. None: no more will come. Dropping it loses no report.
    pub(super) async fn next<R>(&self, reports: &mut UnboundedReceiver<R>, is_unanswered: bool) -> Option<Vec<R>> {
        if let Some(sent_at) = self.sent_at.filter(|_| self.were_many) {
            sleep_until(sent_at + PAUSE).await;
        }
        if let Some(sent_at) = self.sent_at.filter(|_| is_unanswered) {
            // Whatever the server does.
            sleep_until(sent_at + GATHER_FOR).await;
        }
        if let Some(until) = self.held_until {
            sleep_until(until).await;
        }
        let first = reports.recv().await?;
        Some(std::iter::once(first).chain(std::iter::from_fn(|| reports.try_recv().ok()).take(MOST_AT_ONCE)).collect())
    }
}

#[cfg(test)]
mod tests;
