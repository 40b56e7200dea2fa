//! What is sent to a node before there is room for it: it waits there, and starts as soon as the node finds room, without the way to
//! the platform and back. Worth it for short tasks only, and harmless only behind short ones; so this learns which are.
//!
//! A class is short once many of its tasks in a row have given back their place soon after they were leased. One that takes longer
//! ends that, and next time it takes twice as many.

use super::Head;
use crate::{Timestamp, ids::AttemptId, node::NodeFacts, resources::Amounts, spec::Needs};
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};

/// What an agent says of itself that keeps such tasks waiting until it has room for them.
pub const FEATURE: &str = "ahead";

/// Only what has waited for so long is sent ahead: while room comes free sooner than that, the first to come free is the better place.
const WAITED_MS: i64 = 200;
/// After a plan that found nothing to do, no room is seen for so long: what is read of the queue for it would be read in vain.
pub(super) const REST_MS: u64 = 500;
/// So many in a row at the most, however often it was wrong.
const MOST_IN_A_ROW: u32 = 4_096;
/// Classes remembered.
const CLASSES: usize = 20_000;

impl NodeFacts {
    pub fn can_wait(&self) -> bool {
        self.features.contains(FEATURE)
    }
}

/// Whether such tasks may ever be sent ahead. Not exclusive ones, whose lease runs from when they are placed; nor such that want GPUs,
/// which are given by name and may become free elsewhere first.
pub fn may_go_ahead(needs: &Needs) -> bool {
    !needs.exclusive && needs.requirements.amounts.gpus == 0
}

/// Whether it has waited for long enough at this moment.
pub(super) fn has_waited(head: &Head, at: Timestamp) -> bool {
    at - head.queued_at >= TimeDelta::milliseconds(WAITED_MS)
}

/// What is room for what waits on a node, where so much is held and this part of it by short tasks: as much once more as the short
/// ones have, or could have beside what is long.
pub(super) fn room(capacity: &Amounts, held: &Amounts, short: &Amounts) -> Amounts {
    let of = |capacity: u64, held: u64, short: u64| {
        let for_short = capacity.saturating_sub(held.saturating_sub(short));
        for_short.saturating_sub(held.saturating_sub(capacity))
    };
    Amounts {
        cpu_millis: of(capacity.cpu_millis, held.cpu_millis, short.cpu_millis),
        memory_bytes: of(capacity.memory_bytes, held.memory_bytes, short.memory_bytes),
        disk_bytes: of(capacity.disk_bytes, held.disk_bytes, short.disk_bytes),
        gpus: 0,
        gpu_memory_bytes: 0,
    }
}

/// What counts as short.
#[derive(Clone, Copy, Debug)]
pub struct Short {
    /// From the lease until the place was given back. What was sent ahead may take twice as long, since it waited for one like it.
    pub within_ms: u64,
    /// So many in a row.
    pub in_a_row: u32,
}

impl Default for Short {
    fn default() -> Self {
        Self { within_ms: 2_000, in_a_row: 16 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Class {
    in_a_row: u32,
    needed: u32,
    is_short: bool,
}

/// How long the tasks of each class take, as far as that matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    pub(super) rule: Short,
    classes: BTreeMap<i64, Class>,
    short: usize,
    /// When those that count as short should be over.
    due: BTreeSet<(u64, AttemptId)>,
}

impl Pace {
    pub(super) fn is_short(&self, class: i64) -> bool {
        self.classes.get(&class).is_some_and(|class| class.is_short)
    }
    pub(super) fn knows_any(&self) -> bool {
        self.short > 0
    }

    fn within_ms(&self, is_ahead: bool) -> u64 {
        self.rule.within_ms * if is_ahead { 2 } else { 1 }
    }

    pub(super) fn leased(&mut self, attempt: AttemptId, is_ahead: bool, now_ms: u64) {
        self.due.insert((now_ms + self.within_ms(is_ahead), attempt));
    }

    /// It gave back its place, so long after it was leased.
    pub(super) fn ended(&mut self, class: i64, took_ms: u64, is_ahead: bool) {
        if took_ms > self.within_ms(is_ahead) {
            return self.was_long(class);
        }
        if self.classes.len() >= CLASSES {
            (self.classes, self.short) = (BTreeMap::new(), 0);
        }
        let needed = self.rule.in_a_row;
        let class = self.classes.entry(class).or_insert(Class { in_a_row: 0, needed, is_short: false });
        class.in_a_row = class.in_a_row.saturating_add(1);
        if !class.is_short && class.in_a_row >= class.needed {
            class.is_short = true;
            self.short += 1;
        }
    }

    /// One takes longer than short ones do.
    pub(super) fn was_long(&mut self, class: i64) {
        let Some(class) = self.classes.get_mut(&class) else { return };
        class.in_a_row = 0;
        if std::mem::take(&mut class.is_short) {
            self.short -= 1;
            class.needed = class.needed.saturating_mul(2).min(MOST_IN_A_ROW);
        }
    }

    /// Those that should be over by now. Told once; whoever ended meanwhile may be among them.
    pub(super) fn overdue(&mut self, now_ms: u64) -> Vec<AttemptId> {
        let later = self.due.split_off(&(now_ms, AttemptId::from_uuid(uuid::Uuid::max())));
        std::mem::replace(&mut self.due, later).into_iter().map(|(_, attempt)| attempt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(cpu_millis: u64) -> Amounts {
        Amounts { cpu_millis, ..Amounts::default() }
    }

    #[test]
    fn a_class_is_short_after_many_short_ones_in_a_row_and_no_longer_after_one_that_is_not() {
        let mut pace = Pace { rule: Short { within_ms: 100, in_a_row: 3 }, ..Pace::default() };
        let learned_after = |pace: &mut Pace| {
            (1..100).find(|_| {
                pace.ended(7, 90, false);
                pace.is_short(7)
            })
        };
        assert_eq!(learned_after(&mut pace), Some(3));
        assert!(pace.knows_any() && !pace.is_short(8));
        pace.ended(7, 190, true);
        assert!(pace.is_short(7), "it waited for another one first");
        pace.ended(7, 101, false);
        assert!(!pace.is_short(7) && !pace.knows_any());
        assert_eq!(learned_after(&mut pace), Some(6), "who was wrong once looks longer");
        pace.was_long(7);
        pace.was_long(7);
        assert_eq!(learned_after(&mut pace), Some(12));
    }

    #[test]
    fn what_should_be_over_is_told_once() {
        let mut pace = Pace { rule: Short { within_ms: 100, in_a_row: 3 }, ..Pace::default() };
        let id = |n| AttemptId::from_uuid(uuid::Uuid::from_u128(n));
        pace.leased(id(1), false, 0);
        pace.leased(id(2), true, 0);
        pace.leased(id(3), false, 50);
        assert_eq!(pace.overdue(99), []);
        assert_eq!(pace.overdue(150), [id(1), id(3)]);
        assert_eq!(pace.overdue(1_000), [id(2)], "sent ahead: it may take twice as long");
        assert_eq!(pace.overdue(1_000), []);
    }

    #[test]
    fn there_is_room_ahead_for_as_much_once_more_as_short_tasks_can_have() {
        let room = |held, short| room(&cpus(4_000), &cpus(held), &cpus(short)).cpu_millis;
        assert_eq!(room(4_000, 4_000), 4_000, "full of short ones: as much once more");
        assert_eq!(room(6_000, 6_000), 2_000, "half of that is waiting already");
        assert_eq!(room(8_000, 8_000), 0);
        assert_eq!(room(4_000, 0), 0, "nothing comes free soon where all is long");
        assert_eq!(room(4_000, 1_000), 1_000, "one of four: behind that one waits one at the most");
        assert_eq!(room(5_000, 2_000), 0);
    }
}
