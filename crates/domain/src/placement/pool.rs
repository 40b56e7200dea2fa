//! The nodes that suit one kind of need, in their order. Tasks that differ in amounts only share one, so does the order cost its
//! upkeep once for all of them.

use super::{
    Strategy,
    fleet::{Change, Slot},
    order::{EntryId, Order},
    score::{self, Rank, Wish},
    unfit::suits,
};
use crate::{resources::Amounts, spec::Needs};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// What nodes are chosen by, amounts aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    needs: Needs,
    /// Only nodes on which one of these is at hand, those with more of them first. Empty: all nodes, and warmth does not count.
    pub(super) warm_keys: BTreeSet<String>,
    /// What counts is the room for what waits there, and only nodes on which something may wait.
    pub(super) is_ahead: bool,
}

impl Kind {
    /// The nodes on which such tasks may wait for their place.
    pub(super) fn ahead(needs: &Needs) -> Self {
        Self { is_ahead: true, ..Self::new(needs, BTreeSet::new()) }
    }

    pub(super) fn new(needs: &Needs, warm_keys: BTreeSet<String>) -> Self {
        let mut needs = needs.clone();
        needs.requirements.amounts = Amounts::default();
        needs.requirements.shm_bytes = None;
        Self { needs, warm_keys, is_ahead: false }
    }
}

pub(super) struct Pool {
    kind: Kind,
    members: BTreeMap<u32, Member>,
    order: Order,
    /// How much of the fleet's journal was read.
    pub(super) read: usize,
    /// The pass that asked for it last.
    pub(super) used_at: u64,
}

/// A machine that suits, whether or not it takes work right now.
struct Member {
    wish: Wish,
    /// None: it takes nothing more for now.
    entry: Option<EntryId>,
}

impl Pool {
    /// Without members; the caller shows the nodes by [`Pool::look_at`].
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, members: BTreeMap::new(), order: Order::default(), read: 0, used_at: 0 }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Follows what changed since the last time.
    pub(super) fn catch_up(&mut self, strategy: Strategy, slots: &[Slot], journal: &[Change]) {
        for change in &journal[self.read..] {
            match change {
                Change::Machine(slot) => self.look_at(strategy, slots, *slot),
                Change::Load(slot) => self.refresh(strategy, slots, *slot),
            }
        }
        self.read = journal.len();
    }

    /// The machine itself may have changed.
    pub(super) fn look_at(&mut self, strategy: Strategy, slots: &[Slot], slot: u32) {
        let it = &slots[slot as usize];
        let warm = score::warmth(&it.candidate, &self.kind.warm_keys);
        let is_member = it.is_there
            && (warm > 0 || self.kind.warm_keys.is_empty())
            && (!self.kind.is_ahead || it.lets_wait())
            && suits(&it.candidate, &self.kind.needs).is_ok();
        if !is_member {
            if let Some(entry) = self.members.remove(&slot).and_then(|member| member.entry) {
                self.order.remove(entry);
            }
            return;
        }
        let affinity = score::affinity(&it.candidate, &self.kind.needs.requirements);
        let wish = Wish { affinity: Reverse(affinity), warm: Reverse(warm) };
        self.members.entry(slot).or_insert(Member { wish, entry: None }).wish = wish;
        self.refresh(strategy, slots, slot);
    }

    /// Only what is held there may have changed.
    fn refresh(&mut self, strategy: Strategy, slots: &[Slot], slot: u32) {
        let Some(member) = self.members.get_mut(&slot) else { return };
        if let Some(entry) = member.entry.take() {
            self.order.remove(entry);
        }
        let it = &slots[slot as usize];
        if it.takes_more() {
            let rank = score::rank(strategy, member.wish, &it.candidate, it.given);
            let free = if self.kind.is_ahead { it.room_ahead() } else { it.candidate.ledger.free() };
            member.entry = Some(self.order.insert(rank, slot, free));
        }
    }

    /// The first in order that has room and is not `avoided`.
    pub(super) fn first(&self, slots: &[Slot], asked: &Amounts, avoided: Option<u32>) -> Option<(u32, Wish)> {
        let found = self.order.first(asked, |slot| Some(slot) != avoided && slots[slot as usize].has_room(asked))?;
        Some((self.order.slot(found), self.order.rank(found).wish))
    }

    /// The first in order on which so much may wait and that is accepted.
    pub(super) fn first_ahead(&self, asked: &Amounts, accepts: impl FnMut(u32) -> bool) -> Option<u32> {
        self.order.first(asked, accepts).map(|found| self.order.slot(found))
    }

    /// Whether it suits, takes work and has room.
    pub(super) fn has_room(&self, slots: &[Slot], slot: u32, asked: &Amounts) -> bool {
        self.members.get(&slot).is_some_and(|member| member.entry.is_some()) && slots[slot as usize].has_room(asked)
    }

    /// One of those with this wish that have room, each as likely as the other. One at least has room.
    pub(super) fn draw(
        &self,
        slots: &[Slot],
        asked: &Amounts,
        wish: Wish,
        avoided: Option<u32>,
        randoms: &mut impl FnMut() -> f64,
    ) -> Option<u32> {
        let from = self.order.count_while(|rank: &Rank| rank.wish < wish);
        let until = self.order.count_while(|rank: &Rank| rank.wish <= wish);
        let at = |position: usize| self.order.nth(from + position).map(|entry| self.order.slot(entry));
        let has_room = |slot: &u32| Some(*slot) != avoided && slots[*slot as usize].has_room(asked);
        // Most have room mostly; where few have, they are counted.
        for _ in 0..DRAWS {
            if let Some(slot) = at(pick(until - from, randoms())).filter(has_room) {
                return Some(slot);
            }
        }
        let roomy: Vec<u32> = (0..until - from).filter_map(at).filter(has_room).collect();
        (!roomy.is_empty()).then(|| roomy[pick(roomy.len(), randoms())])
    }
}

/// Draws before those that have room are counted.
pub(super) const DRAWS: usize = 16;

/// One of `count`, by a number from 0 to 1.
pub(super) fn pick(count: usize, random: f64) -> usize {
    (random * count as f64) as usize % count.max(1)
}
