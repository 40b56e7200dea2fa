//! What the users' processes do: started once, stopped in time, and every byte of their logs in its place.

use super::Checker;
use crate::{
    Ms, Violation,
    fakes::{disk::byte_at, store::FakeStore},
};
use domain::ids::AttemptId;
use protocol::Stream;

#[derive(Default)]
pub(super) struct ProcessBook {
    starts: u32,
    started_at: Ms,
    written: [u64; 4],
    is_denied: bool,
    pub(super) is_signalled: bool,
}

/// A restarted agent that could not ask Docker asks again after so long.
const ADOPTS_AGAIN_MS: Ms = 5_000;
/// The slowest process that heeds the request to stop.
const STOPS_WITHIN_MS: Ms = 3_000;

impl Checker {
    #[must_use]
    pub(crate) fn process_started(&mut self, attempt: AttemptId, now: Ms) -> Option<Violation> {
        let book = self.processes.entry(attempt).or_default();
        book.starts += 1;
        book.started_at = now;
        promise!(
            book.starts == 1,
            "I17 an attempt's process is started at most once",
            "{attempt:?} was started {} times",
            book.starts
        );
        None
    }

    pub(crate) fn process_signalled(&mut self, attempt: AttemptId) {
        self.processes.entry(attempt).or_default().is_signalled = true;
    }

    pub(crate) fn process_wrote(&mut self, attempt: AttemptId, written: [u64; 4]) {
        self.processes.entry(attempt).or_default().written = written;
    }

    /// Docker denied the start and did it all the same: its agent believes that it never ran.
    pub(crate) fn start_denied(&mut self, attempt: AttemptId) {
        self.processes.entry(attempt).or_default().is_denied = true;
    }

    /// Timeouts count from the first start, whatever becomes of the agent.
    #[must_use]
    pub(crate) fn process_ended(
        &mut self,
        node: usize,
        id: AttemptId,
        now: Ms,
        store: &FakeStore,
    ) -> Option<Violation> {
        let book = self.processes.get(&id).filter(|book| !book.is_denied)?;
        let attempt = store.attempts.get(&id)?;
        let timeout_ms = self.timeouts.get(&attempt.task)?;
        let grace_ms = store.tasks[&attempt.task].spec.stop.grace_ms;
        // While its agent could do nothing; after a restart it first looks around.
        let since = book.started_at;
        let restarts =
            self.away.get(&node).into_iter().flatten().filter(|(from, until)| *until >= since && *from <= now);
        // Who is asked to stop by the next agent too gets its grace from then on.
        let grace_ms = grace_ms * (1 + restarts.count() as u64);
        let away = self.away.get(&node).into_iter().flatten().map(|(from, until)| {
            (until + 2 * self.docker_ms + ADOPTS_AGAIN_MS).min(now).saturating_sub((*from).max(book.started_at))
        });
        let allowed = timeout_ms + grace_ms + away.sum::<Ms>() + STOPS_WITHIN_MS + 4 * self.docker_ms;
        let ran = now - book.started_at;
        promise!(
            ran <= allowed,
            "I18 a timeout holds through restarts",
            "{id:?} ran for {ran} ms; timeout {timeout_ms} ms, allowed {allowed} ms"
        );
        None
    }

    pub(crate) fn written(&self, attempt: AttemptId) -> [u64; 4] {
        self.processes.get(&attempt).map_or([0; 4], |book| book.written)
    }

    /// What is stored of a log is a beginning of what was written, each byte in its place.
    pub(crate) fn log_is_right(&mut self, store: &FakeStore, attempt: AttemptId) -> Option<Violation> {
        let written = self.written(attempt);
        for stream in Stream::ALL {
            let stored = store.log_bytes(attempt, stream.number());
            let limit = written[usize::from(stream.number() - 1)];
            promise!(
                stored.len() as u64 <= limit,
                "I29 no log byte is doubled",
                "{attempt:?} {stream:?}: {} stored, {limit} written",
                stored.len()
            );
            let compared = self.compared.entry((attempt, stream.number())).or_default();
            let is_right = |at: u64| {
                stored[at as usize] == byte_at(attempt, stream, at) || store.is_in_gap(attempt, stream.number(), at)
            };
            let wrong = (*compared..stored.len()).find(|at| !is_right(*at as u64));
            promise!(wrong.is_none(), "I29 every log byte is in its place", "{attempt:?} {stream:?}: byte {wrong:?}");
            *compared = stored.len();
        }
        None
    }
}
