//! Nodes in the order in which they are tried. Every subtree knows the most that is free in it, so whatever is too full or too
//! small for what is asked is passed by as a whole: the first that fits is found in the depth of the tree, not in its size.
//!
//! A treap: a search tree by rank whose shape follows from fixed pseudo-random weights, so it is balanced whatever the order of
//! changes, and the same for the same nodes.

use super::score::Rank;
use crate::resources::Amounts;

const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Entry {
    rank: Rank,
    slot: u32,
    free: Amounts,
    /// The most of each amount that is free on one node of this subtree, not necessarily on the same one.
    most: Amounts,
    count: u32,
    weight: u32,
    left: u32,
    right: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Order {
    entries: Vec<Entry>,
    unused: Vec<u32>,
    root: u32,
}

impl Default for Order {
    fn default() -> Self {
        Self { entries: Vec::new(), unused: Vec::new(), root: NONE }
    }
}

/// Names an entry until it is removed.
pub(super) type EntryId = u32;

impl Order {
    pub(super) fn insert(&mut self, rank: Rank, slot: u32, free: Amounts) -> EntryId {
        let entry = Entry { rank, slot, free, most: free, count: 1, weight: mix(slot), left: NONE, right: NONE };
        let id = match self.unused.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.root = self.insert_under(self.root, id);
        id
    }

    pub(super) fn remove(&mut self, id: EntryId) {
        self.root = self.remove_under(self.root, id);
        self.unused.push(id);
    }

    pub(super) fn rank(&self, id: EntryId) -> &Rank {
        &self.entries[id as usize].rank
    }
    pub(super) fn slot(&self, id: EntryId) -> u32 {
        self.entries[id as usize].slot
    }

    /// The first in order on which so much is free and that is accepted.
    pub(super) fn first(&self, asked: &Amounts, mut accepts: impl FnMut(u32) -> bool) -> Option<EntryId> {
        self.first_under(self.root, asked, &mut accepts)
    }

    /// How many come before the first whose rank is not `before`. `before` is true for a beginning of the order, then false.
    pub(super) fn count_while(&self, before: impl Fn(&Rank) -> bool) -> usize {
        let (mut at, mut count) = (self.root, 0);
        while at != NONE {
            let entry = &self.entries[at as usize];
            if before(&entry.rank) {
                count += self.count(entry.left) + 1;
                at = entry.right;
            } else {
                at = entry.left;
            }
        }
        count as usize
    }

    /// The one at this position of the order.
    pub(super) fn nth(&self, position: usize) -> Option<EntryId> {
        let (mut at, mut left_of_it) = (self.root, position as u32);
        while at != NONE {
            let entry = &self.entries[at as usize];
            let before = self.count(entry.left);
            if left_of_it < before {
                at = entry.left;
            } else if left_of_it == before {
                return Some(at);
            } else {
                left_of_it -= before + 1;
                at = entry.right;
            }
        }
        None
    }

    fn first_under(&self, at: u32, asked: &Amounts, accepts: &mut impl FnMut(u32) -> bool) -> Option<EntryId> {
        let entry = self.entries.get(at as usize)?;
        if !entry.most.cover(asked) {
            return None;
        }
        if let Some(found) = self.first_under(entry.left, asked, accepts) {
            return Some(found);
        }
        if entry.free.cover(asked) && accepts(entry.slot) {
            return Some(at);
        }
        self.first_under(entry.right, asked, accepts)
    }

    fn insert_under(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        if self.entries[new as usize].weight > self.entries[at as usize].weight {
            let rank = self.entries[new as usize].rank;
            let (left, right) = self.split(at, &rank);
            self.entries[new as usize].left = left;
            self.entries[new as usize].right = right;
            self.sum_up(new);
            return new;
        }
        if self.entries[new as usize].rank < self.entries[at as usize].rank {
            self.entries[at as usize].left = self.insert_under(self.entries[at as usize].left, new);
        } else {
            self.entries[at as usize].right = self.insert_under(self.entries[at as usize].right, new);
        }
        self.sum_up(at);
        at
    }

    fn remove_under(&mut self, at: u32, id: u32) -> u32 {
        let Some(entry) = self.entries.get(at as usize) else { return at };
        let (left, right) = (entry.left, entry.right);
        if at == id {
            return self.join(left, right);
        }
        if self.entries[id as usize].rank < entry.rank {
            self.entries[at as usize].left = self.remove_under(left, id);
        } else {
            self.entries[at as usize].right = self.remove_under(right, id);
        }
        self.sum_up(at);
        at
    }

    /// (those before `rank`, the others).
    fn split(&mut self, at: u32, rank: &Rank) -> (u32, u32) {
        let Some(entry) = self.entries.get(at as usize) else { return (NONE, NONE) };
        let (left, right) = (entry.left, entry.right);
        if entry.rank < *rank {
            let (before, after) = self.split(right, rank);
            self.entries[at as usize].right = before;
            self.sum_up(at);
            (at, after)
        } else {
            let (before, after) = self.split(left, rank);
            self.entries[at as usize].left = after;
            self.sum_up(at);
            (before, at)
        }
    }

    /// All of `before` come before all of `after`.
    fn join(&mut self, before: u32, after: u32) -> u32 {
        if before == NONE || after == NONE {
            return if before == NONE { after } else { before };
        }
        if self.entries[before as usize].weight > self.entries[after as usize].weight {
            self.entries[before as usize].right = self.join(self.entries[before as usize].right, after);
            self.sum_up(before);
            before
        } else {
            self.entries[after as usize].left = self.join(before, self.entries[after as usize].left);
            self.sum_up(after);
            after
        }
    }

    fn count(&self, at: u32) -> u32 {
        self.entries.get(at as usize).map_or(0, |entry| entry.count)
    }

    fn sum_up(&mut self, at: u32) {
        let entry = &self.entries[at as usize];
        let (mut most, mut count) = (entry.free, 1);
        for child in [entry.left, entry.right] {
            if let Some(child) = self.entries.get(child as usize) {
                most = most.most(&child.most);
                count += child.count;
            }
        }
        let entry = &mut self.entries[at as usize];
        (entry.most, entry.count) = (most, count);
    }
}

/// Spreads the bits of a slot's number.
fn mix(slot: u32) -> u32 {
    let mut bits = u64::from(slot).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 32) as u32
}
