//! What a node has, what a task asks for, and what an attempt holds. Never overcommitted.

use crate::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a node offers to tasks, measured by its agent and bounded by its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Free for tasks where containers live (Docker's data root).
    pub disk_bytes: u64,
    pub gpus: Vec<Gpu>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As the driver names it: `GPU-5e9f...`. Unique on its node.
    pub id: String,
    pub model: String,
    pub memory_bytes: u64,
}

/// What a task asks for, in amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub disk_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub gpus: u32,
    /// At least so much memory on each GPU.
    #[serde(skip_serializing_if = "is_default")]
    pub gpu_memory_bytes: u64,
}

impl Amounts {
    /// Whether so much of each is enough for what is asked. With GPUs of several sizes: it may be, only the ledger knows.
    pub fn cover(&self, asked: &Self) -> bool {
        asked.cpu_millis <= self.cpu_millis
            && asked.memory_bytes <= self.memory_bytes
            && asked.disk_bytes <= self.disk_bytes
            && (asked.gpus == 0 || asked.gpus <= self.gpus && asked.gpu_memory_bytes <= self.gpu_memory_bytes)
    }

    /// The larger one of each.
    #[must_use]
    pub fn most(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            disk_bytes: self.disk_bytes.max(other.disk_bytes),
            gpus: self.gpus.max(other.gpus),
            gpu_memory_bytes: self.gpu_memory_bytes.max(other.gpu_memory_bytes),
        }
    }
}

impl Amounts {
    #[must_use]
    pub(crate) fn plus(&self, more: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(more.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(more.disk_bytes),
            ..*self
        }
    }

    #[must_use]
    pub(crate) fn minus(&self, less: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(less.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(less.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(less.disk_bytes),
            ..*self
        }
    }
}

/// What an attempt holds on its node, GPUs by id. It ends when the node reports it released, not when the task ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservation {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub gpu_ids: Vec<String>,
    /// Leased before there was room for it: its node starts it when it has room, and until then it holds nothing there.
    #[serde(skip_serializing_if = "is_default")]
    pub ahead: bool,
}

impl Reservation {
    /// Of amounts that ask for no GPU.
    pub fn of(amounts: &Amounts) -> Self {
        Self {
            cpu_millis: amounts.cpu_millis,
            memory_bytes: amounts.memory_bytes,
            disk_bytes: amounts.disk_bytes,
            ..Self::default()
        }
    }

    /// GPUs aside.
    pub fn amounts(&self) -> Amounts {
        Amounts {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            ..Amounts::default()
        }
    }
}

/// Why amounts do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortage {
    Cpu,
    Memory,
    Disk,
    /// The node has fewer GPUs than asked for.
    GpuCount,
    /// It has enough GPUs, but the largest ones are too small.
    GpuMemory {
        largest_bytes: u64,
    },
}

/// A node's capacity less what attempts hold there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    capacity: Capacity,
    held: Reservation,
    /// GPU id -> how many attempts hold it (more than one only after a mistake, and then it is not free).
    gpu_holders: BTreeMap<String, u32>,
}

impl Ledger {
    pub fn new(capacity: Capacity) -> Self {
        Self { capacity, held: Reservation::default(), gpu_holders: BTreeMap::new() }
    }

    /// Whether an empty node of this capacity could take it.
    pub fn could_ever_fit(&self, asked: &Amounts) -> Result<(), Shortage> {
        Ledger::new(self.capacity.clone()).fit(asked).map(|_| ())
    }

    /// What an attempt would hold here now. GPUs: the smallest that are large enough, then by id, so that large ones
    /// stay free for those who need them.
    pub fn fit(&self, asked: &Amounts) -> Result<Reservation, Shortage> {
        let free = |capacity: u64, held: u64| capacity.saturating_sub(held);
        if asked.cpu_millis > free(self.capacity.cpu_millis, self.held.cpu_millis) {
            return Err(Shortage::Cpu);
        }
        if asked.memory_bytes > free(self.capacity.memory_bytes, self.held.memory_bytes) {
            return Err(Shortage::Memory);
        }
        if asked.disk_bytes > free(self.capacity.disk_bytes, self.held.disk_bytes) {
            return Err(Shortage::Disk);
        }
        Ok(Reservation {
            cpu_millis: asked.cpu_millis,
            memory_bytes: asked.memory_bytes,
            disk_bytes: asked.disk_bytes,
            gpu_ids: self.choose_gpus(asked)?,
            ahead: false,
        })
    }

    fn choose_gpus(&self, asked: &Amounts) -> Result<Vec<String>, Shortage> {
        let wanted = asked.gpus as usize;
        let mut free: Vec<&Gpu> =
            self.capacity.gpus.iter().filter(|gpu| !self.gpu_holders.contains_key(&gpu.id)).collect();
        if free.len() < wanted {
            return Err(Shortage::GpuCount);
        }
        let largest_bytes = free.iter().map(|gpu| gpu.memory_bytes).max().unwrap_or(0);
        free.retain(|gpu| gpu.memory_bytes >= asked.gpu_memory_bytes);
        if free.len() < wanted {
            return Err(Shortage::GpuMemory { largest_bytes });
        }
        free.sort_by(|a, b| (a.memory_bytes, &a.id).cmp(&(b.memory_bytes, &b.id)));
        Ok(free.into_iter().take(wanted).map(|gpu| gpu.id.clone()).collect())
    }

    /// Whether this very reservation can be held now: what [`Ledger::fit`] chose from an older view.
    pub fn has_room_for(&self, reservation: &Reservation) -> bool {
        let fits = |asked: u64, capacity: u64, held: u64| asked <= capacity.saturating_sub(held);
        let is_free =
            |id: &String| self.capacity.gpus.iter().any(|gpu| gpu.id == *id) && !self.gpu_holders.contains_key(id);
        fits(reservation.cpu_millis, self.capacity.cpu_millis, self.held.cpu_millis)
            && fits(reservation.memory_bytes, self.capacity.memory_bytes, self.held.memory_bytes)
            && fits(reservation.disk_bytes, self.capacity.disk_bytes, self.held.disk_bytes)
            && reservation.gpu_ids.iter().all(is_free)
    }

    /// Whether this may wait here for what is held to come free: all that is held and waits is at most twice what there is.
    pub fn has_room_ahead_for(&self, reservation: &Reservation) -> bool {
        let fits = |asked: u64, capacity: u64, held: u64| {
            asked <= capacity && asked <= capacity.saturating_mul(2).saturating_sub(held)
        };
        fits(reservation.cpu_millis, self.capacity.cpu_millis, self.held.cpu_millis)
            && fits(reservation.memory_bytes, self.capacity.memory_bytes, self.held.memory_bytes)
            && fits(reservation.disk_bytes, self.capacity.disk_bytes, self.held.disk_bytes)
            && reservation.gpu_ids.is_empty()
    }

    /// Holds what an attempt has been given. Does not check: what is held is a fact.
    pub fn hold(&mut self, reservation: &Reservation) {
        self.held.cpu_millis += reservation.cpu_millis;
        self.held.memory_bytes += reservation.memory_bytes;
        self.held.disk_bytes += reservation.disk_bytes;
        for gpu in &reservation.gpu_ids {
            *self.gpu_holders.entry(gpu.clone()).or_default() += 1;
        }
    }

    /// Gives back what [`Ledger::hold`] took. The caller holds each reservation once and releases it once.
    pub fn release(&mut self, reservation: &Reservation) {
        self.held.cpu_millis = self.held.cpu_millis.saturating_sub(reservation.cpu_millis);
        self.held.memory_bytes = self.held.memory_bytes.saturating_sub(reservation.memory_bytes);
        self.held.disk_bytes = self.held.disk_bytes.saturating_sub(reservation.disk_bytes);
        for gpu in &reservation.gpu_ids {
            if let Some(holders) = self.gpu_holders.get_mut(gpu) {
                *holders -= 1;
                if *holders == 0 {
                    self.gpu_holders.remove(gpu);
                }
            }
        }
    }

    /// True when some resource is promised more than once. Never, in a right ledger.
    pub fn is_overcommitted(&self) -> bool {
        self.held.cpu_millis > self.capacity.cpu_millis
            || self.held.memory_bytes > self.capacity.memory_bytes
            || self.held.disk_bytes > self.capacity.disk_bytes
            || self.gpu_holders.values().any(|holders| *holders > 1)
    }

    /// What is free: GPUs by their number, and the memory of the largest.
    pub fn free(&self) -> Amounts {
        let free = || self.capacity.gpus.iter().filter(|gpu| !self.gpu_holders.contains_key(&gpu.id));
        Amounts {
            cpu_millis: self.capacity.cpu_millis.saturating_sub(self.held.cpu_millis),
            memory_bytes: self.capacity.memory_bytes.saturating_sub(self.held.memory_bytes),
            disk_bytes: self.capacity.disk_bytes.saturating_sub(self.held.disk_bytes),
            gpus: free().count() as u32,
            gpu_memory_bytes: free().map(|gpu| gpu.memory_bytes).max().unwrap_or(0),
        }
    }

    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }
    pub fn held(&self) -> Reservation {
        Reservation { gpu_ids: self.gpu_holders.keys().cloned().collect(), ..self.held.clone() }
    }
    /// Share in use of the scarcest of CPU, memory and GPUs, in thousandths.
    pub fn load_permille(&self) -> u64 {
        let share = |held: u64, capacity: u64| held.saturating_mul(1000).checked_div(capacity).unwrap_or(0);
        share(self.held.cpu_millis, self.capacity.cpu_millis)
            .max(share(self.held.memory_bytes, self.capacity.memory_bytes))
            .max(share(self.gpu_holders.len() as u64, self.capacity.gpus.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gpu(id: &str, gib: u64) -> Gpu {
        Gpu { id: id.into(), model: "RTX".into(), memory_bytes: gib << 30 }
    }
    fn node() -> Ledger {
        Ledger::new(Capacity {
            cpu_millis: 4_000,
            memory_bytes: 8 << 30,
            disk_bytes: 100 << 30,
            gpus: vec![gpu("b", 24), gpu("a", 8)],
        })
    }

    #[test]
    fn the_smallest_gpu_that_is_large_enough_is_taken() {
        let small = node().fit(&Amounts { gpus: 1, ..Amounts::default() }).expect("fits");
        assert_eq!(small.gpu_ids, ["a"]);
        let large = node().fit(&Amounts { gpus: 1, gpu_memory_bytes: 16 << 30, ..Amounts::default() }).expect("fits");
        assert_eq!(large.gpu_ids, ["b"]);
    }

    #[test]
    fn a_shortage_names_what_is_short() {
        let ask = |amounts: Amounts| node().fit(&amounts).unwrap_err();
        assert_eq!(ask(Amounts { cpu_millis: 4_001, ..Amounts::default() }), Shortage::Cpu);
        assert_eq!(ask(Amounts { gpus: 3, ..Amounts::default() }), Shortage::GpuCount);
        assert_eq!(
            ask(Amounts { gpus: 1, gpu_memory_bytes: 80 << 30, ..Amounts::default() }),
            Shortage::GpuMemory { largest_bytes: 24 << 30 }
        );
    }

    #[test]
    fn a_held_gpu_is_not_given_again() {
        let mut ledger = node();
        let both = ledger.fit(&Amounts { gpus: 2, ..Amounts::default() }).expect("fits");
        ledger.hold(&both);
        assert_eq!(ledger.fit(&Amounts { gpus: 1, ..Amounts::default() }), Err(Shortage::GpuCount));
        ledger.release(&both);
        assert_eq!(ledger, node());
    }

    #[test]
    fn what_was_chosen_has_room_until_somebody_else_takes_it() {
        let mut ledger = node();
        let chosen = ledger.fit(&Amounts { cpu_millis: 3_000, gpus: 1, ..Amounts::default() }).expect("fits");
        assert!(ledger.has_room_for(&chosen));
        ledger.hold(&chosen);
        assert!(!ledger.has_room_for(&chosen));
        assert!(!ledger.has_room_for(&Reservation { gpu_ids: chosen.gpu_ids.clone(), ..Reservation::default() }));
        assert!(!ledger.has_room_for(&Reservation { gpu_ids: vec!["gone".into()], ..Reservation::default() }));
        assert!(ledger.has_room_for(&Reservation::default()), "who asks for nothing needs no room");
    }

    proptest! {
        #[test]
        fn what_fits_never_overcommits(asks in prop::collection::vec((0u64..5_000, 0u64..(9 << 30), 0u32..3, any::<bool>()), 1..40)) {
            let mut ledger = node();
            let mut held: Vec<Reservation> = Vec::new();
            for (cpu_millis, memory_bytes, gpus, release_first) in asks {
                if release_first && !held.is_empty() {
                    ledger.release(&held.remove(0));
                }
                if let Ok(reservation) = ledger.fit(&Amounts { cpu_millis, memory_bytes, gpus, ..Amounts::default() }) {
                    ledger.hold(&reservation);
                    held.push(reservation);
                }
                prop_assert!(!ledger.is_overcommitted());
            }
            for reservation in &held {
                ledger.release(reservation);
            }
            prop_assert_eq!(ledger, node());
        }
    }
}
