//! Tells of a lost connection and of its return, exactly once each, and not at all of one that was back within a second.

use crate::text::{clean, show_count};
use domain::quantity::show_duration_ms;
use std::time::{Duration, Instant};

const WORTH_TELLING: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Cuts {
    since: Option<Instant>,
    why: String,
    told: bool,
}

impl Cuts {
    pub fn lost(&mut self, since: Instant, why: String) {
        (self.since, self.why, self.told) = (Some(since), why, false);
    }

    /// Returns when [`Cuts::tell`] has something to say; never, while all is well.
    pub async fn due(&self) {
        match self.since.filter(|_| !self.told) {
            Some(since) => tokio::time::sleep_until((since + WORTH_TELLING).into()).await,
            None => std::future::pending().await,
        }
    }

    pub fn tell(&mut self, at_byte: u64) -> Option<String> {
        if self.told || self.since?.elapsed() < WORTH_TELLING {
            return None;
        }
        self.told = true;
        Some(format!(
            "connection lost at byte {} ({}); trying again (Ctrl-C: stop looking, the task goes on)",
            show_count(at_byte),
            clean(&self.why)
        ))
    }

    /// As [`Cuts::tell`], of a stream that has no bytes to count.
    pub fn tell_of(&mut self, what: &str) -> Option<String> {
        if self.told || self.since?.elapsed() < WORTH_TELLING {
            return None;
        }
        self.told = true;
        Some(format!(
            "connection lost ({}); trying again, no {what} are missed (Ctrl-C: stop looking)",
            clean(&self.why)
        ))
    }

    pub fn back_to(&mut self, what: &str, after: Duration) -> Option<String> {
        self.since = None;
        let after = show_duration_ms(after.as_millis() as u64);
        std::mem::take(&mut self.told).then(|| format!("after {after}, no {what} missed"))
    }

    pub fn back(&mut self, after: Duration, at_byte: u64) -> Option<String> {
        self.since = None;
        let after = show_duration_ms(after.as_millis() as u64);
        std::mem::take(&mut self.told).then(|| format!("after {after} at byte {}, nothing missed", show_count(at_byte)))
    }
}
