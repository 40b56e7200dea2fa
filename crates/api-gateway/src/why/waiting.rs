//! A waiting task: every node counted once, what never fits apart from what is busy now, and what would help.

use super::{Known, counted, hints, lasted, nodes_that, queued_since};
use crate::fleet::{self, cores, pairs};
use api_types::why::{Verdict, Waiting, Why};
use domain::{
    lifecycle::Event,
    placement::{Candidate, Unfit, check_fit},
    quantity::{show_bytes, show_duration_ms},
    spec::{Needs, TaskSpec},
};
use std::collections::BTreeMap;
use store::PLACES_COUNTED;

const EXAMPLES: usize = 5;

pub(super) fn explain(known: &Known<'_>, why: &mut Why) {
    let view = &known.task.view;
    let needs = known.task.spec.needs();
    let (waiting, fleet) = verdicts(known);
    let long = lasted(known.now, waiting.since);
    let impossible = fleet::impossible(known.nodes, &needs);
    why.summary = match (&impossible, view.not_before.filter(|moment| *moment > known.now)) {
        _ if known.nodes.is_empty() => {
            format!("{} is pending for {long}: no node has joined this fleet yet.", view.name)
        }
        (Some(impossible), _) => format!(
            "{} is pending for {long}, and no node of this fleet can ever run it: {}. {}",
            view.name,
            impossible.what,
            until_it_gives_up(known)
        ),
        (None, Some(moment)) => format!(
            "{} waits {} more before its next attempt{}.",
            view.name,
            lasted(moment, known.now),
            last_requeue(known)
                .map_or_else(String::new, |because| format!(", after {}", because.trim_end_matches('.')))
        ),
        (None, None) => format!("{} is pending for {long}: {}.", view.name, fleet.sentence(known.before)),
    };
    if known.nodes.is_empty() {
        why.hints.push("unidesk node-token create --name NAME".to_owned());
    }
    why.hints.extend(hints::for_waiting(known.nodes, &needs));
    why.waiting = Some(waiting);
}

/// How many nodes are in which of the three conditions that decide the sentence.
#[derive(Default)]
pub(super) struct Fleet {
    fit: u32,
    full: u32,
    away: Vec<(String, u32)>,
}

impl Fleet {
    fn sentence(&self, before: u64) -> String {
        let Self { fit, full, away } = self;
        match (fit, full) {
            (0, 0) => {
                let away: Vec<String> = away.iter().map(|(words, count)| format!("{count} {words}")).collect();
                format!("no node that would fit takes work now ({})", away.join(", "))
            }
            (0, 1) => "1 node fits, and it is full".to_owned(),
            (0, 2) => "2 nodes fit, and both are full".to_owned(),
            (0, full) => format!("{full} nodes fit, and all are full"),
            (fit, _) if before > 0 => {
                let tasks = match before {
                    1 => "1 task is".to_owned(),
                    before if before > PLACES_COUNTED => format!("more than {} tasks are", counted(PLACES_COUNTED)),
                    before => format!("{} tasks are", counted(before)),
                };
                format!("{} and {} room; {tasks} before it by priority and age", nodes_that(*fit, "fit"), has(*fit))
            }
            (fit, _) => format!("{} and {} room; it is placed in a moment", nodes_that(*fit, "fit"), has(*fit)),
        }
    }
}

fn has(count: u32) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

/// Each node under the first reason against it.
pub(super) fn verdicts(known: &Known<'_>) -> (Waiting, Fleet) {
    let needs = known.task.spec.needs();
    let mut groups: BTreeMap<(u8, String), (bool, Vec<String>)> = BTreeMap::new();
    let mut fleet = Fleet::default();
    let mut away: BTreeMap<String, u32> = BTreeMap::new();
    for node in known.nodes {
        let (rank, words, would_fit, example) = match check_fit(node, &needs) {
            Ok(_) => {
                fleet.fit += 1;
                (0, "has room".to_owned(), true, node.node.name.clone())
            }
            Err(Unfit::Full) => {
                fleet.full += 1;
                (1, Unfit::Full.words(), true, node.node.name.clone())
            }
            Err(unfit) => {
                let rank = if unfit.is_permanent() { 2 } else { 3 };
                if rank == 3 {
                    *away.entry(unfit.words()).or_default() += 1;
                }
                (rank, unfit.words(), rank == 3, example(known, node, &unfit))
            }
        };
        let (_, examples) = groups.entry((rank, words)).or_insert_with(|| (would_fit, Vec::new()));
        examples.push(example);
    }
    fleet.away = away.into_iter().collect();
    let mut verdicts: Vec<(u8, Verdict)> = groups
        .into_iter()
        .map(|((rank, reason), (would_fit, mut examples))| {
            let count = examples.len() as u32;
            examples.sort();
            examples.truncate(EXAMPLES);
            (rank, Verdict { count, reason, would_fit, examples })
        })
        .collect();
    verdicts.sort_by(|(a_rank, a), (b_rank, b)| {
        a_rank.cmp(b_rank).then(b.count.cmp(&a.count)).then_with(|| a.reason.cmp(&b.reason))
    });
    let waiting = Waiting {
        since: queued_since(known),
        needs: needs_text(&known.task.spec),
        nodes: known.nodes.len() as u32,
        verdicts: verdicts.into_iter().map(|(_, verdict)| verdict).collect(),
        before: known.before.min(PLACES_COUNTED),
        more_before: known.before > PLACES_COUNTED,
        not_before: known.task.view.not_before.filter(|moment| *moment > known.now),
        never_fits: fleet::impossible(known.nodes, &needs).is_some(),
    };
    (waiting, fleet)
}

/// A node's name with the figure that matters.
fn example(known: &Known<'_>, candidate: &Candidate, unfit: &Unfit) -> String {
    let node = &candidate.node;
    let capacity = &node.facts.capacity;
    let aside = match unfit {
        Unfit::GpuMemoryTooSmall { largest_bytes } => show_bytes(*largest_bytes),
        Unfit::TooFewGpus => capacity.gpus.len().to_string(),
        Unfit::CpuTooSmall => cores(capacity.cpu_millis),
        Unfit::MemoryTooSmall => show_bytes(capacity.memory_bytes),
        Unfit::DiskTooSmall => show_bytes(capacity.disk_bytes),
        Unfit::OtherPlatform { platform } => platform.clone(),
        Unfit::OtherArch { arch } => arch.clone(),
        Unfit::OtherRole { role } => role.clone(),
        Unfit::Offline | Unfit::Disconnected => {
            node.last_seen_at.map_or_else(|| "never seen".to_owned(), |seen| format!("for {}", lasted(known.now, seen)))
        }
        Unfit::Cordoned | Unfit::Draining => node.admission_note.clone(),
        Unfit::NotTheNamedNode
        | Unfit::NoSuchExecutor { .. }
        | Unfit::CannotSelfFence
        | Unfit::CannotMoveArtifacts
        | Unfit::CannotCheckpoint
        | Unfit::MissingTags
        | Unfit::MissingLabels
        | Unfit::NoInternet
        | Unfit::NoGpu
        | Unfit::Revoked
        | Unfit::Unwell { .. }
        | Unfit::Full => String::new(),
    };
    if aside.is_empty() { node.name.clone() } else { format!("{} ({aside})", node.name) }
}

fn until_it_gives_up(known: &Known<'_>) -> String {
    let spec = &known.task.spec;
    let Some(timeout_ms) = spec.queue_timeout_ms else { return "It waits until such a node joins.".to_owned() };
    let waited_ms = (known.now - queued_since(known)).num_milliseconds().max(0) as u64;
    let left = show_duration_ms(timeout_ms.saturating_sub(waited_ms));
    format!("It fails in {left} (queue_timeout) unless such a node joins.")
}

fn last_requeue<'a>(known: &'a Known<'_>) -> Option<&'a str> {
    known.history.iter().rev().flat_map(|entry| entry.events.iter().rev()).find_map(|event| match event {
        Event::Requeued { because, .. } => Some(because.as_str()),
        _ => None,
    })
}

/// `1 gpu with 24 GiB, 4 cpu, 16 GiB, internet`
pub(super) fn needs_text(spec: &TaskSpec) -> String {
    let Needs { executor, requirements, exclusive, artifacts: _, checkpoints: _ } = spec.needs();
    let amounts = requirements.amounts;
    let mut parts = Vec::new();
    if amounts.gpus > 0 {
        let plural = if amounts.gpus == 1 { "" } else { "s" };
        let memory = match amounts.gpu_memory_bytes {
            0 => String::new(),
            bytes => format!(" with {}", show_bytes(bytes)),
        };
        parts.push(format!("{} gpu{plural}{memory}", amounts.gpus));
    }
    parts.push(format!("{} cpu", cores(amounts.cpu_millis)));
    parts.push(show_bytes(amounts.memory_bytes));
    // The default is not worth a word.
    if amounts.disk_bytes > 1 << 30 {
        parts.push(format!("{} disk", show_bytes(amounts.disk_bytes)));
    }
    if requirements.internet {
        parts.push("internet".to_owned());
    }
    parts.extend([requirements.platform, requirements.arch].into_iter().flatten());
    parts.extend(requirements.role.map(|role| format!("role {role}")));
    if !requirements.tags.is_empty() {
        parts.push(format!("tags {}", requirements.tags.into_iter().collect::<Vec<_>>().join(" ")));
    }
    if !requirements.labels.is_empty() {
        parts.push(pairs(&requirements.labels));
    }
    parts.extend(requirements.node.map(|node| format!("node {node}")));
    if exclusive {
        parts.push("exclusive".to_owned());
    }
    if executor != "container" && executor != "process" {
        parts.push(format!("executor {executor}"));
    }
    parts.join(", ")
}
