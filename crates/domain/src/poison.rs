//! A task that takes machines down with it. One node that goes down while a task runs there is chance; a second one, soon after the
//! start there too, is held for the task's doing: it would go on through the fleet, node by node.

use crate::{Timestamp, attempt::AttemptRow};
use chrono::TimeDelta;

/// A machine that goes down later than this after the start of an attempt is not put down to it.
pub const SUSPECT_WITHIN: TimeDelta = TimeDelta::minutes(10);
/// More than so many nodes that go down within [`MASS_WINDOW`] have a cause of their own: power, a switch, an update.
pub const MASS_EVENT_OVER: usize = 3;
pub const MASS_WINDOW: TimeDelta = TimeDelta::minutes(2);

/// What is known about the presence of an attempt's node when the attempt goes wrong. All moments are the database's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// The last heartbeat before its present session, or before it fell silent.
    pub last_beat: Option<Timestamp>,
    /// When its present session was opened. None: it is silent.
    pub session_since: Option<Timestamp>,
    /// Many others went at the same time.
    pub is_mass_event: bool,
}

impl Presence {
    /// When agent or host went down under an attempt that ran since `started_at`. None: it has been there all the time.
    fn down_at(&self, started_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.session_since.is_some_and(|since| since <= started_at) {
            return None;
        }
        // A beat every 15 s, so a start may be newer than the last one.
        Some(self.last_beat.unwrap_or(now).max(started_at))
    }
}

/// What a node's going down means for the task that ran there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It did not run there, or the node did not go down, or too many went at once.
    Unrelated,
    /// It ran for so long that it is above suspicion.
    Cleared,
    /// So many milliseconds after the start.
    Suspect { after_ms: u64 },
}

/// Judges one attempt that is lost or ended by its node. `attempt` as it was before that.
pub fn judge(attempt: &AttemptRow, node: &Presence, now: Timestamp) -> Death {
    let Some(started_at) = attempt.started_at.filter(|_| attempt.exit.is_none()) else { return Death::Unrelated };
    let Some(down_at) = node.down_at(started_at, now) else { return Death::Unrelated };
    let after = down_at - started_at;
    if after >= SUSPECT_WITHIN {
        Death::Cleared
    } else if node.is_mass_event {
        Death::Unrelated
    } else {
        Death::Suspect { after_ms: after.num_milliseconds().max(0) as u64 }
    }
}

/// Whether a node that went down at `at` was one of many. `losses`: when each node that is or was away was last heard, this one too.
pub fn is_mass_event(at: Timestamp, losses: &[Timestamp]) -> bool {
    let mut near: Vec<Timestamp> = losses.iter().copied().filter(|loss| (*loss - at).abs() <= MASS_WINDOW).collect();
    near.sort_unstable();
    near.windows(MASS_EVENT_OVER + 1).any(|some| some[MASS_EVENT_OVER] - some[0] <= MASS_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
    }

    #[test]
    fn more_than_three_nodes_in_two_minutes_are_a_mass_event() {
        assert!(!is_mass_event(at(0), &[at(0), at(10), at(20)]));
        assert!(is_mass_event(at(0), &[at(0), at(10), at(20), at(120)]));
        assert!(!is_mass_event(at(0), &[at(-70), at(0), at(10), at(60)]), "never four within two minutes");
        assert!(!is_mass_event(at(0), &[at(500), at(501), at(502), at(503)]));
    }

    #[test]
    fn a_session_that_lasts_since_before_the_start_had_no_restart() {
        let there = Presence { session_since: Some(at(0)), ..Presence::default() };
        assert_eq!(there.down_at(at(5), at(50)), None);
        let back = Presence { session_since: Some(at(40)), last_beat: Some(at(20)), is_mass_event: false };
        assert_eq!(back.down_at(at(5), at(50)), Some(at(20)));
        let silent = Presence { last_beat: Some(at(2)), ..Presence::default() };
        assert_eq!(silent.down_at(at(5), at(95)), Some(at(5)), "it had started, so it was there");
    }
}
