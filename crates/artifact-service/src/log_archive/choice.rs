//! Which logs are moved now: a rule over what waits, without a clock and without I/O.

use crate::config::Archiving;
use domain::ids::AttemptId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use store::WaitingLog;

/// Of a running attempt that writes much, so much stays where followers read it.
const STAYS: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Not yet.
    Wait,
    /// It may travel with others.
    MayGo,
    /// It has waited long enough; at most so many bytes of it go.
    MustGo(u64),
}

/// What was seen of logs that still grow. The database keeps no time with a chunk, which every chunk would cost: what was there when
/// a mover first saw it, and has been there since, is that old. Another mover begins to count anew.
#[derive(Default)]
pub(crate) struct Seen {
    running: BTreeMap<AttemptId, Mark>,
    /// Logs that do not fit together. They stay, and stand in no other's way.
    broken: BTreeSet<AttemptId>,
    walk: u64,
}

struct Mark {
    first_ordinal: u64,
    since: Instant,
    walk: u64,
}

impl Seen {
    pub(crate) fn choose(&mut self, log: &WaitingLog, rule: &Archiving, now: Instant) -> Choice {
        match log.ended {
            _ if self.broken.contains(&log.attempt) => Choice::Wait,
            Some(ended) if ended < rule.settle => Choice::Wait,
            Some(ended) if ended >= rule.wait => Choice::MustGo(u64::MAX),
            Some(_) => Choice::MayGo,
            None => {
                let age = self.age(log, now);
                if age >= rule.age {
                    Choice::MustGo(u64::MAX)
                } else if log.bytes > rule.running_bytes {
                    Choice::MustGo(log.bytes - STAYS.min(rule.running_bytes / 2))
                } else {
                    Choice::Wait
                }
            }
        }
    }

    /// For how long the first chunk of it has been here, as far as is known.
    fn age(&mut self, log: &WaitingLog, now: Instant) -> Duration {
        let fresh = Mark { first_ordinal: log.first_ordinal, since: now, walk: self.walk };
        let mark = self.running.entry(log.attempt).or_insert(fresh);
        if mark.first_ordinal != log.first_ordinal {
            (mark.first_ordinal, mark.since) = (log.first_ordinal, now);
        }
        mark.walk = self.walk;
        now.saturating_duration_since(mark.since)
    }

    /// The log of this attempt is not moved by this process any more.
    pub(crate) fn leave(&mut self, attempt: AttemptId) {
        self.broken.insert(attempt);
    }

    /// A walk over all that waits is over: what was not seen in it has ended or was moved.
    pub(crate) fn end_walk(&mut self) {
        let walk = self.walk;
        self.running.retain(|_, mark| mark.walk == walk);
        self.walk += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn log(first_ordinal: u64, bytes: u64, ended: Option<u64>) -> WaitingLog {
        let attempt = AttemptId::from_uuid(Uuid::from_u128(1));
        let ended = ended.map(Duration::from_secs);
        WaitingLog { attempt, first_ordinal, next_ordinal: first_ordinal + 9, ends: [0; 4], bytes, ended }
    }

    #[test]
    fn what_has_ended_settles_then_travels_with_others_then_goes_alone() {
        let (mut seen, rule, now) = (Seen::default(), Archiving::default(), Instant::now());
        let mut at = |seconds| seen.choose(&log(0, 200, Some(seconds)), &rule, now);
        assert_eq!([0, 29, 30, 299, 300, 90_000].map(&mut at), {
            use Choice::{MayGo, MustGo, Wait};
            [Wait, Wait, MayGo, MayGo, MustGo(u64::MAX), MustGo(u64::MAX)]
        });
    }

    #[test]
    fn what_runs_goes_when_it_is_old_or_much() {
        let (mut seen, rule, now) = (Seen::default(), Archiving::default(), Instant::now());
        let mut at = |seconds, first, bytes| {
            let choice = seen.choose(&log(first, bytes, None), &rule, now + Duration::from_secs(seconds));
            seen.end_walk();
            choice
        };
        assert_eq!(at(0, 0, 5), Choice::Wait);
        assert_eq!(at(599, 0, 16 << 20), Choice::Wait);
        assert_eq!(at(599, 0, (16 << 20) + 1), Choice::MustGo((15 << 20) + 1));
        assert_eq!(at(600, 0, 5), Choice::MustGo(u64::MAX));
        assert_eq!(at(601, 9, 5), Choice::Wait, "the old part is gone");
        assert_eq!(at(1_201, 9, 5), Choice::MustGo(u64::MAX));
    }

    #[test]
    fn what_can_not_be_moved_is_left_alone() {
        let (mut seen, rule, now) = (Seen::default(), Archiving::default(), Instant::now());
        let old = log(0, 200, Some(90_000));
        seen.leave(old.attempt);
        assert_eq!(seen.choose(&old, &rule, now), Choice::Wait);
    }

    #[test]
    fn what_is_not_seen_any_more_is_forgotten() {
        let (mut seen, rule, now) = (Seen::default(), Archiving::default(), Instant::now());
        seen.choose(&log(0, 5, None), &rule, now);
        seen.end_walk();
        assert_eq!(seen.running.len(), 1);
        seen.end_walk();
        assert!(seen.running.is_empty());
    }
}
