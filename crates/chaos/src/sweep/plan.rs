//! Which process dies next, and at which of its calls. Pure: the same seed gives the same kills, from any number on.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Gateway,
    Agent,
    Scheduler,
    Registry,
    /// One server process of PostgreSQL, which ends all the others; every other time the whole of it.
    Postgres,
    /// Of a process task.
    Supervisor,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::Scheduler => "scheduler",
            Self::Registry => "registry",
            Self::Postgres => "postgres",
            Self::Supervisor => "supervisor",
        }
    }

    /// How many there are. Of supervisors and PostgreSQL's processes one is taken that lives just then.
    fn copies(self) -> u8 {
        match self {
            Self::Gateway | Self::Agent | Self::Scheduler => 2,
            Self::Registry | Self::Postgres | Self::Supervisor => 1,
        }
    }

    /// Calls that leave a trace outside or bring something in, with the highest k: what one thread makes of them within about a
    /// second under this sweep's load.
    fn calls(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Gateway => &[("sendto", 90), ("recvfrom", 120), ("writev", 16), ("write", 6)],
            Self::Agent => &[
                ("sendto", 10),
                ("recvfrom", 12),
                ("write", 20),
                ("fdatasync", 3),
                ("fsync", 3),
                ("rename", 3),
                ("unlink", 3),
                ("mkdir", 2),
                ("clone3", 2),
                ("openat", 30),
            ],
            Self::Scheduler => &[("sendto", 12), ("recvfrom", 24)],
            Self::Registry => &[("sendto", 8), ("recvfrom", 16)],
            Self::Postgres => &[("fdatasync", 4), ("pwrite64", 6), ("sendto", 24), ("recvfrom", 24)],
            Self::Supervisor => &[("write", 3), ("read", 12), ("fsync", 1), ("rename", 1)],
        }
    }

    /// What a process of its kind does until it is ready and a little later, with the highest k.
    fn first_calls(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Gateway => &[("sendto", 40), ("recvfrom", 60), ("connect", 4), ("write", 4), ("listen", 1)],
            Self::Agent => &[
                ("sendto", 8),
                ("recvfrom", 8),
                ("write", 12),
                ("fdatasync", 2),
                ("fsync", 2),
                ("rename", 2),
                ("connect", 3),
                ("openat", 90),
            ],
            Self::Scheduler | Self::Registry => &[("sendto", 10), ("recvfrom", 16), ("connect", 2)],
            Self::Postgres | Self::Supervisor => &[],
        }
    }
}

/// Of 24 kills in a row so many are of each kind. A supervisor's costs an attempt, PostgreSQL's halts everything for a moment.
const DECK: [(Kind, u32); 6] = [
    (Kind::Agent, 9),
    (Kind::Gateway, 8),
    (Kind::Scheduler, 3),
    (Kind::Postgres, 2),
    (Kind::Registry, 1),
    (Kind::Supervisor, 1),
];

/// One kill that is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Strike {
    pub number: u32,
    pub kind: Kind,
    /// Which of several.
    pub which: u8,
    pub call: &'static str,
    /// The k-th that any one thread makes, counted from the moment of arming.
    pub k: u32,
    /// Armed before its first instruction, so that it dies on its way up; else in the middle of its work.
    pub from_birth: bool,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.from_birth { "from its start" } else { "at work" };
        write!(f, "#{} {} {} at {} k={} {when}", self.number, self.kind.name(), self.which, self.call, self.k)
    }
}

/// The kill of this number. A third are of the one that was killed just before, as it comes up again, where
/// that can be.
pub fn strike(seed: u64, number: u32) -> Strike {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    dice.set_stream(u64::from(number));
    let again = number > 0 && dice.random_ratio(1, 3);
    if again {
        let last = strike(seed, number - 1);
        // Once, not for ever: a node that never comes up is offline, which is another fault.
        if !last.from_birth
            && let Some((call, k)) = draw(&mut dice, last.kind.first_calls())
        {
            return Strike { number, call, k, from_birth: true, ..last };
        }
    }
    let kind = from_deck(seed, number);
    let which = dice.random_range(0..kind.copies());
    let (call, k) = draw(&mut dice, kind.calls()).unwrap_or(("write", 1));
    Strike { number, kind, which, call, k, from_birth: false }
}

fn draw(dice: &mut ChaCha8Rng, calls: &[(&'static str, u32)]) -> Option<(&'static str, u32)> {
    if calls.is_empty() {
        return None;
    }
    let (call, most) = calls[dice.random_range(0..calls.len())];
    Some((call, dice.random_range(1..=most)))
}

/// Each deck is shuffled anew.
fn from_deck(seed: u64, number: u32) -> Kind {
    let mut deck: Vec<Kind> =
        DECK.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count as usize)).collect();
    let size = deck.len() as u32;
    let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0xdec4);
    dice.set_stream(u64::from(number / size));
    for at in (1..deck.len()).rev() {
        deck.swap(at, dice.random_range(0..=at));
    }
    deck[(number % size) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_stretch_of_kills_can_be_made_again_by_itself() {
        let all: Vec<Strike> = (0..200).map(|number| strike(7, number)).collect();
        let stretch: Vec<Strike> = (120..145).map(|number| strike(7, number)).collect();
        assert_eq!(all[120..145], stretch);
        let other: Vec<Strike> = (0..200).map(|number| strike(8, number)).collect();
        assert_ne!(all, other);
    }

    #[test]
    fn a_hundred_kills_reach_every_kind_and_two_thousand_every_call() {
        for seed in 0..20 {
            let kinds: BTreeSet<Kind> = (0..100).map(|number| strike(seed, number).kind).collect();
            assert_eq!(kinds.len(), DECK.len(), "seed {seed}: {kinds:?}");
        }
        let hit: BTreeSet<_> =
            (0..2_000).map(|number| strike(1, number)).map(|s| (s.kind, s.call, s.from_birth)).collect();
        for (kind, _) in DECK {
            for (calls, from_birth) in [(kind.calls(), false), (kind.first_calls(), true)] {
                for (call, _) in calls {
                    assert!(hit.contains(&(kind, *call, from_birth)), "{kind:?} never at {call}");
                }
            }
        }
    }
}
