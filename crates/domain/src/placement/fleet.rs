//! The nodes as the leader knows them, from pass to pass. A decision looks at few of them, however many there are: for every kind
//! of need the nodes that suit are found once and kept in their order, and what changes on a node moves it there.

use super::{
    Candidate, Head, Placement, Strategy, Turns, ahead,
    pool::{Kind, Pool},
    unfit::may_have,
};
use crate::{
    ids::NodeId,
    node::Admission,
    resources::{Amounts, Reservation},
    spec::Needs,
};
use std::collections::{BTreeMap, BTreeSet};

/// Members of all pools together; beyond, those that nobody asked for lately go.
const MEMBERS: usize = 500_000;
/// Classes whose pool is remembered.
const CLASSES: usize = 20_000;

/// Nodes looked at for one task that is to be sent ahead, where others need the place on many.
const LOOKED_AT: u32 = 64;

/// One node.
pub(super) struct Slot {
    pub(super) candidate: Candidate,
    /// False: it is gone, and its place is kept in case it returns.
    pub(super) is_there: bool,
    /// Placements that this planner gave it so far.
    pub(super) given: u64,
    /// What short tasks hold of what is held.
    short: Amounts,
}

impl Slot {
    /// Whether it takes one more task, if that has room.
    pub(super) fn takes_more(&self) -> bool {
        let (node, most) = (&self.candidate.node, self.candidate.node.facts.max_tasks);
        (node.admission != Admission::Cordoned || self.candidate.may_probe)
            && (most == 0 || self.candidate.holding < most)
    }

    /// Whether something may wait there for its place.
    pub(super) fn lets_wait(&self) -> bool {
        self.candidate.node.admission == Admission::Open && self.candidate.node.facts.can_wait()
    }

    pub(super) fn room_ahead(&self) -> Amounts {
        let (capacity, held) = (self.candidate.ledger.capacity(), self.candidate.ledger.held());
        let capacity = Amounts {
            cpu_millis: capacity.cpu_millis,
            memory_bytes: capacity.memory_bytes,
            disk_bytes: capacity.disk_bytes,
            ..Amounts::default()
        };
        ahead::room(&capacity, &held.amounts(), &self.short)
    }

    pub(super) fn has_room(&self, asked: &Amounts) -> bool {
        self.candidate.ledger.fit(asked).is_ok()
    }
}

/// What every pool has to look at again.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// Everything about this node.
    Machine(u32),
    /// What is held there.
    Load(u32),
}

/// See the module.
pub struct Fleet {
    strategy: Strategy,
    slots: Vec<Slot>,
    slot_of: BTreeMap<NodeId, u32>,
    /// What is at hand on which nodes.
    warm: BTreeMap<String, BTreeSet<u32>>,
    pools: BTreeMap<u32, Pool>,
    pool_of_kind: BTreeMap<Kind, u32>,
    pool_of_class: BTreeMap<i64, u32>,
    /// (pool of the class, warm keys) -> the part of that pool in which something is at hand.
    warm_part_of: BTreeMap<(u32, BTreeSet<String>), u32>,
    journal: Vec<Change>,
    next_pool: u32,
    pass: u64,
}

impl Fleet {
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            slots: Vec::new(),
            slot_of: BTreeMap::new(),
            warm: BTreeMap::new(),
            pools: BTreeMap::new(),
            pool_of_kind: BTreeMap::new(),
            pool_of_class: BTreeMap::new(),
            warm_part_of: BTreeMap::new(),
            journal: Vec::new(),
            next_pool: 0,
            pass: 0,
        }
    }

    /// These are all nodes, and this is what is held on them. What did not change costs nothing but the look.
    pub fn replace_all(&mut self, candidates: impl IntoIterator<Item = Candidate>) {
        let mut seen = BTreeSet::new();
        for candidate in candidates {
            seen.insert(candidate.node.id);
            self.replace(candidate);
        }
        let gone: Vec<NodeId> = self.nodes().map(|it| it.node.id).filter(|node| !seen.contains(node)).collect();
        gone.into_iter().for_each(|node| self.remove(node));
    }

    /// This is the node now, and what is held on it.
    pub fn replace(&mut self, candidate: Candidate) {
        self.replace_knowing(candidate, Amounts::default());
    }

    /// As [`Fleet::replace`], where so much of what is held is held by short tasks.
    pub(super) fn replace_knowing(&mut self, candidate: Candidate, short: Amounts) {
        let next = self.slots.len() as u32;
        let slot = *self.slot_of.entry(candidate.node.id).or_insert(next);
        let is_as_warm = self.slots.get(slot as usize).is_some_and(|known| is_as_warm(&known.candidate, &candidate));
        if !is_as_warm {
            self.note_warm(slot, &candidate);
        }
        let Some(known) = self.slots.get_mut(slot as usize) else {
            self.slots.push(Slot { candidate, is_there: true, given: 0, short });
            return self.journal.push(Change::Machine(slot));
        };
        let is_same_machine = known.is_there && is_same_machine(&known.candidate, &candidate);
        let is_same_load = known.candidate.ledger == candidate.ledger
            && known.candidate.holding == candidate.holding
            && known.short == short
            && known.candidate.may_probe == candidate.may_probe;
        known.candidate = candidate;
        known.short = short;
        known.is_there = true;
        if !is_same_machine {
            self.journal.push(Change::Machine(slot));
        } else if !is_same_load {
            self.journal.push(Change::Load(slot));
        }
    }

    fn note_warm(&mut self, slot: u32, candidate: &Candidate) {
        for key in self.slots.get(slot as usize).into_iter().flat_map(|known| &known.candidate.node.metrics.warm) {
            if let Some(slots) = self.warm.get_mut(key) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.warm.remove(key);
                }
            }
        }
        for key in &candidate.node.metrics.warm {
            self.warm.entry(key.clone()).or_default().insert(slot);
        }
    }

    /// The node is no more.
    pub fn remove(&mut self, node: NodeId) {
        if let Some(slot) = self.slot_of.get(&node) {
            self.slots[*slot as usize].is_there = false;
            self.journal.push(Change::Machine(*slot));
        }
    }

    /// An attempt there has given back what it held.
    pub fn release(&mut self, node: NodeId, reservation: &Reservation) {
        if let Some(slot) = self.slot_of.get(&node) {
            let candidate = &mut self.slots[*slot as usize].candidate;
            candidate.ledger.release(reservation);
            candidate.holding = candidate.holding.saturating_sub(1);
            self.journal.push(Change::Load(*slot));
        }
    }

    /// So much of what is held there is held by short tasks, or is no more.
    pub(super) fn note_short(&mut self, node: NodeId, amounts: &Amounts, is_held: bool) {
        if let Some(slot) = self.slot_of.get(&node) {
            let short = &mut self.slots[*slot as usize].short;
            *short = if is_held { short.plus(amounts) } else { short.minus(amounts) };
            self.journal.push(Change::Load(*slot));
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Candidate> {
        self.slots.iter().filter(|slot| slot.is_there).map(|slot| &slot.candidate)
    }

    /// Whether a task of this class would be placed now.
    pub fn has_room_for(&mut self, class: i64, needs: &Needs) -> bool {
        let pool = self.pool_of(class, needs);
        self.pools[&pool].first(&self.slots, &needs.requirements.amounts, None).is_some()
    }

    /// Whether a task of this class may wait for its place on some node.
    pub(super) fn has_room_ahead_for(&mut self, needs: &Needs) -> bool {
        let pool = self.pool_for(Kind::ahead(needs));
        self.catch_up(pool);
        self.pools[&pool].first_ahead(&needs.requirements.amounts, |_| true).is_some()
    }

    /// Where these tasks, which are short and for which there is no room, may wait for it; each on a node that has at hand what it needs,
    /// and that none of `others` may have, which wait for room too and are not short. `heads` are in the order of urgency and age.
    pub(super) fn plan_ahead(&mut self, heads: &[Head], turns: &mut Turns, others: &[&Needs]) -> Vec<Placement> {
        let mut placements = Vec::new();
        let mut full_classes: BTreeSet<i64> = BTreeSet::new();
        let mut line = turns.line(heads);
        while let Some(head) = line.next() {
            if full_classes.contains(&head.class) {
                continue;
            }
            let Some(slot) = self.choose_ahead(head, others) else {
                full_classes.insert(head.class);
                continue;
            };
            let amounts = &head.needs.requirements.amounts;
            let reservation = Reservation { ahead: true, ..Reservation::of(amounts) };
            let it = &mut self.slots[slot as usize];
            it.candidate.ledger.hold(&reservation);
            it.candidate.holding += 1;
            it.given += 1;
            it.short = it.short.plus(amounts);
            let node = it.candidate.node.id;
            self.journal.push(Change::Load(slot));
            line.placed(head);
            placements.push(Placement { task: head.task, node, reservation });
        }
        placements
    }

    fn choose_ahead(&mut self, head: &Head, others: &[&Needs]) -> Option<u32> {
        let avoided = head.avoid_node.and_then(|node| self.slot_of.get(&node).copied());
        let pool = self.pool_for(Kind::ahead(&head.needs));
        self.catch_up(pool);
        let mut looked_at = 0;
        let slots = &self.slots;
        let found = self.pools[&pool].first_ahead(&head.needs.requirements.amounts, |slot| {
            looked_at += 1;
            let candidate = &slots[slot as usize].candidate;
            let is_needed = || others.iter().any(|needs| may_have(candidate, needs));
            let is_at_hand = head.warm_keys.is_subset(&candidate.node.metrics.warm);
            looked_at > LOOKED_AT || Some(slot) != avoided && is_at_hand && !is_needed()
        });
        found.filter(|_| looked_at <= LOOKED_AT)
    }

    /// Places what fits, in the order of [`Turns`], ties by id. What is taken counts at once, here and in later passes: whoever learns
    /// that a placement was not committed loads the node again.
    ///
    /// `randoms` yields numbers from 0 to 1 for the random strategy; the shell draws them. Sorts `heads` by urgency and age.
    pub fn plan(&mut self, heads: &mut [Head], turns: &mut Turns, mut randoms: impl FnMut() -> f64) -> Vec<Placement> {
        self.tidy();
        heads.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.queued_at.cmp(&b.queued_at)).then(a.task.cmp(&b.task)));
        let mut placements = Vec::new();
        // Once the first of a class found no room, neither will the next: free room only shrinks within a pass.
        let mut full_classes: BTreeSet<i64> = BTreeSet::new();
        let mut line = turns.line(heads);
        while let Some(head) = line.next() {
            if full_classes.contains(&head.class) {
                continue;
            }
            let Some((slot, reservation)) = self.choose(head, &mut randoms) else {
                full_classes.insert(head.class);
                continue;
            };
            let node = self.take(slot, &reservation);
            line.placed(head);
            placements.push(Placement { task: head.task, node, reservation });
        }
        placements
    }

    fn take(&mut self, slot: u32, reservation: &Reservation) -> NodeId {
        let it = &mut self.slots[slot as usize];
        it.candidate.ledger.hold(reservation);
        it.candidate.holding += 1;
        // One, and no more until that one has ended.
        it.candidate.may_probe = false;
        it.given += 1;
        self.journal.push(Change::Load(slot));
        it.candidate.node.id
    }

    fn choose(&mut self, head: &Head, randoms: &mut impl FnMut() -> f64) -> Option<(u32, Reservation)> {
        let asked = &head.needs.requirements.amounts;
        let avoided = head.avoid_node.and_then(|node| self.slot_of.get(&node).copied());
        let pool = self.pool_of(head.class, &head.needs);
        let warm_part = self.warm_part_of(pool, head);
        let (slots, whole) = (&self.slots, &self.pools[&pool]);
        let chosen = match whole.first(slots, asked, avoided) {
            // The node that failed last, rather than none.
            None => avoided.filter(|slot| whole.has_room(slots, *slot, asked))?,
            Some((first, wish)) => {
                let warm_part = warm_part.map(|part| &self.pools[&part]);
                let warm = warm_part.and_then(|part| Some((part, part.first(slots, asked, avoided)?)));
                // What the task prefers comes before what is warm.
                let (pool, (first, wish)) = match warm {
                    Some((part, found)) if found.1.affinity == wish.affinity => (part, found),
                    Some(_) | None => (whole, (first, wish)),
                };
                match self.strategy {
                    Strategy::Random => pool.draw(slots, asked, wish, avoided, randoms)?,
                    Strategy::LeastLoaded | Strategy::RoundRobin | Strategy::Weighted | Strategy::Pack => first,
                }
            }
        };
        let reservation = self.slots[chosen as usize].candidate.ledger.fit(asked).ok()?;
        Some((chosen, reservation))
    }

    fn pool_of(&mut self, class: i64, needs: &Needs) -> u32 {
        let pool = match self.pool_of_class.get(&class) {
            Some(pool) => *pool,
            None => {
                let pool = self.pool_for(Kind::new(needs, BTreeSet::new()));
                self.pool_of_class.insert(class, pool);
                pool
            }
        };
        self.catch_up(pool);
        pool
    }

    fn warm_part_of(&mut self, pool: u32, head: &Head) -> Option<u32> {
        if head.warm_keys.is_empty() {
            return None;
        }
        let key = (pool, head.warm_keys.clone());
        let part = match self.warm_part_of.get(&key) {
            Some(part) => *part,
            // Work of which nothing is at hand anywhere is not remembered.
            None if !head.warm_keys.iter().any(|key| self.warm.contains_key(key)) => return None,
            None => {
                let part = self.pool_for(Kind::new(&head.needs, head.warm_keys.clone()));
                self.warm_part_of.insert(key, part);
                part
            }
        };
        self.catch_up(part);
        Some(part)
    }

    fn pool_for(&mut self, kind: Kind) -> u32 {
        if let Some(pool) = self.pool_of_kind.get(&kind) {
            return *pool;
        }
        let id = self.next_pool;
        self.next_pool += 1;
        self.pool_of_kind.insert(kind.clone(), id);
        let warm: Option<BTreeSet<u32>> = (!kind.warm_keys.is_empty())
            .then(|| kind.warm_keys.iter().filter_map(|key| self.warm.get(key)).flatten().copied().collect());
        let mut pool = Pool::new(kind);
        pool.read = self.journal.len();
        match warm {
            Some(warm) => warm.into_iter().for_each(|slot| pool.look_at(self.strategy, &self.slots, slot)),
            None => (0..self.slots.len() as u32).for_each(|slot| pool.look_at(self.strategy, &self.slots, slot)),
        }
        self.pools.insert(id, pool);
        id
    }

    fn catch_up(&mut self, pool: u32) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.used_at = self.pass;
            pool.catch_up(self.strategy, &self.slots, &self.journal);
        }
    }

    /// Between two passes: forgets pools that are not worth their room, and what all have read.
    fn tidy(&mut self) {
        self.pass += 1;
        // Reading more than there are nodes is dearer than to begin anew, and begin anew does who is asked for again.
        if self.journal.len() > 4 * self.slots.len() + 1_024 {
            let (end, pass) = (self.journal.len(), self.pass);
            self.drop_pools(|pool| pool.read < end && pool.used_at + 16 < pass);
            for pool in self.pools.values_mut() {
                pool.catch_up(self.strategy, &self.slots, &self.journal);
                pool.read = 0;
            }
            self.journal.clear();
        }
        if self.pools.values().map(Pool::len).sum::<usize>() > MEMBERS {
            let mut by_use: Vec<(u64, usize)> = self.pools.values().map(|pool| (pool.used_at, pool.len())).collect();
            by_use.sort_unstable();
            let mut kept = 0;
            let oldest = by_use.iter().rev().find(|(_, len)| {
                kept += len;
                kept > MEMBERS / 2
            });
            let oldest = oldest.map_or(0, |(used_at, _)| *used_at);
            self.drop_pools(|pool| pool.used_at <= oldest);
        }
        if self.pool_of_class.len() > CLASSES || self.warm_part_of.len() > CLASSES {
            self.pool_of_class.clear();
            self.warm_part_of.clear();
            // Small ones of many kinds: nobody would find them again.
            if self.pools.len() > CLASSES {
                self.drop_pools(|_| true);
            }
        }
    }

    fn drop_pools(&mut self, is_to_go: impl Fn(&Pool) -> bool) {
        let gone: BTreeSet<u32> = self.pools.iter().filter(|(_, pool)| is_to_go(pool)).map(|(id, _)| *id).collect();
        if gone.is_empty() {
            return;
        }
        for pool in gone.iter().filter_map(|id| self.pools.remove(id)) {
            self.pool_of_kind.remove(pool.kind());
        }
        self.pool_of_class.retain(|_, pool| !gone.contains(pool));
        self.warm_part_of.retain(|(pool, _), part| !gone.contains(pool) && !gone.contains(part));
    }
}

/// Whether nothing changed that decides who may have work there: figures and times do not.
fn is_same_machine(x: &Candidate, y: &Candidate) -> bool {
    let (a, b) = (&x.node, &y.node);
    a.presence == b.presence
        && a.admission == b.admission
        && a.metrics.conditions == b.metrics.conditions
        && is_as_warm(x, y)
        && a.name == b.name
        && a.facts == b.facts
}

fn is_as_warm(a: &Candidate, b: &Candidate) -> bool {
    a.node.metrics.warm == b.node.metrics.warm
}
