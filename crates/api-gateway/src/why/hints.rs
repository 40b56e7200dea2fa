//! What would help, as settings and commands that can be pasted. Every setting is tried before it is named.

use crate::fleet::{cores, setting};
use domain::{
    node::{Admission, Presence},
    placement::{Candidate, check_fit},
    resources::Amounts,
    spec::Needs,
};
use std::cmp::Reverse;

/// More than this is no help.
const MAX_HINTS: usize = 3;

/// One need that may be lowered: its name, its value, how to set it, how to show it, and what a node has free of it.
struct Knob {
    name: &'static str,
    get: fn(&Amounts) -> u64,
    set: fn(&mut Amounts, u64),
    show: fn(u64) -> String,
    free: fn(&Candidate) -> u64,
}

const KNOBS: [Knob; 4] = [
    Knob {
        name: "gpu_memory",
        get: |amounts| amounts.gpu_memory_bytes,
        set: |amounts, bytes| amounts.gpu_memory_bytes = bytes,
        show: setting,
        free: |node| {
            let held = node.ledger.held().gpu_ids;
            let gpus = node.ledger.capacity().gpus.iter().filter(|gpu| !held.contains(&gpu.id));
            gpus.map(|gpu| gpu.memory_bytes).max().unwrap_or(0)
        },
    },
    Knob {
        name: "memory",
        get: |amounts| amounts.memory_bytes,
        set: |amounts, bytes| amounts.memory_bytes = bytes,
        show: setting,
        // Whole GiB where there are any: a setting that people can read.
        free: |node| {
            let free = node.ledger.capacity().memory_bytes.saturating_sub(node.ledger.held().memory_bytes);
            if free >= 1 << 30 { free >> 30 << 30 } else { free >> 20 << 20 }
        },
    },
    Knob {
        name: "disk",
        get: |amounts| amounts.disk_bytes,
        set: |amounts, bytes| amounts.disk_bytes = bytes,
        show: setting,
        free: |node| node.ledger.capacity().disk_bytes.saturating_sub(node.ledger.held().disk_bytes) >> 30 << 30,
    },
    Knob {
        name: "cpu_cores",
        get: |amounts| amounts.cpu_millis,
        set: |amounts, millis| amounts.cpu_millis = millis,
        show: cores,
        free: |node| node.ledger.capacity().cpu_millis.saturating_sub(node.ledger.held().cpu_millis),
    },
];

/// Nothing is said where a node has room: then it is placed in a moment.
pub(super) fn for_waiting(nodes: &[Candidate], needs: &Needs) -> Vec<String> {
    if nodes.iter().any(|node| check_fit(node, needs).is_ok()) {
        return Vec::new();
    }
    let lowered = KNOBS.iter().filter_map(|knob| {
        let asked = (knob.get)(&needs.requirements.amounts);
        let would = |node: &Candidate| {
            let free = (knob.free)(node);
            let mut less = needs.clone();
            (knob.set)(&mut less.requirements.amounts, free);
            (free > 0 && free < asked && check_fit(node, &less).is_ok()).then_some(free)
        };
        let best = nodes.iter().filter_map(|node| Some((would(node)?, Reverse(&node.node.name)))).max();
        best.map(|(free, Reverse(node))| format!("{} {} would fit {node} now", knob.name, (knob.show)(free)))
    });
    let resumed = nodes.iter().filter(|node| {
        let mut open = (*node).clone();
        open.node.admission = Admission::Open;
        let is_kept_away =
            matches!(node.node.admission, Admission::Cordoned | Admission::Draining | Admission::Drained);
        is_kept_away && node.node.presence == Presence::Connected && check_fit(&open, needs).is_ok()
    });
    lowered.chain(resumed.map(|node| format!("unidesk node resume {}", node.node.name))).take(MAX_HINTS).collect()
}

/// For a task that was killed at its memory limit: the next size up, and how many nodes have it.
pub(super) fn more_memory(nodes: &[Candidate], needs: &Needs) -> Option<String> {
    const SIZES_GIB: [u64; 17] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512];
    let limit = needs.requirements.amounts.memory_bytes;
    let next = SIZES_GIB.iter().map(|gib| gib << 30).find(|bytes| *bytes >= limit + limit / 2)?;
    let mut more = needs.clone();
    more.requirements.amounts.memory_bytes = next;
    let count =
        nodes.iter().filter(|node| check_fit(node, &more).map_or_else(|unfit| !unfit.is_permanent(), |_| true)).count();
    Some(match count {
        0 => format!("memory {} fits no node", setting(next)),
        1 => format!("memory {} fits 1 node", setting(next)),
        count => format!("memory {} fits {count} nodes", setting(next)),
    })
}
