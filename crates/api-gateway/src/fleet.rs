//! Could any node of this fleet ever run it? Asked at every submission, so the nodes are remembered for a second.

mod cache;

pub(crate) use cache::FleetCache;

use domain::{
    fault::Fault,
    placement::{Candidate, check_fit},
    quantity::show_bytes,
    resources::Capacity,
    spec::Needs,
};
use std::collections::BTreeMap;

/// Why no node can ever run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impossible {
    /// The field that asks for too much.
    pub(crate) pointer: &'static str,
    /// Without a full stop: `gpu_memory 80GiB, the most is 24 GiB (lab-3)`.
    pub(crate) what: String,
}

impl Impossible {
    pub(crate) fn into_warning(self) -> Fault {
        Fault::new(self.pointer, "no_node_fits", format!("No node of this fleet can ever run it: {}.", self.what))
            .hint("it waits until such a node joins")
    }
}

/// None: some node could, when it is well and has room.
pub(crate) fn impossible(nodes: &[Candidate], needs: &Needs) -> Option<Impossible> {
    if nodes.iter().any(|node| check_fit(node, needs).map_or_else(|unfit| !unfit.is_permanent(), |_| true)) {
        return None;
    }
    let (pointer, what) =
        nothing_has_it(nodes, needs).unwrap_or_else(|| ("#/requirements", no_node_has_all(nodes, needs)));
    Some(Impossible { pointer, what })
}

/// The first need that not even one node meets by itself.
fn nothing_has_it(nodes: &[Candidate], needs: &Needs) -> Option<(&'static str, String)> {
    let wants = &needs.requirements;
    let amounts = &wants.amounts;
    if nodes.is_empty() {
        return Some(("#", "it has no node yet".into()));
    }
    if let Some(name) = &wants.node
        && !nodes.iter().any(|n| n.node.name == *name || n.node.id.to_string() == *name)
    {
        return Some(("#/requirements/node", format!("there is no node {name}")));
    }
    // Only the named node counts, where one is named.
    let chosen: Vec<&Candidate> = nodes
        .iter()
        .filter(|n| wants.node.as_ref().is_none_or(|name| n.node.name == *name || n.node.id.to_string() == *name))
        .collect();
    let nobody = |has: &dyn Fn(&Candidate) -> bool| !chosen.iter().any(|node| has(node));
    let offered = |of: &dyn Fn(&Candidate) -> String| {
        let all: std::collections::BTreeSet<String> =
            chosen.iter().map(|node| of(node)).filter(|word| !word.is_empty()).collect();
        all.into_iter().take(5).collect::<Vec<_>>().join(", ")
    };
    if nobody(&|n| n.node.facts.executors.contains_key(&needs.executor)) {
        return Some(("#/executor", format!("no node offers the executor {}", needs.executor)));
    }
    if let Some(platform) = &wants.platform
        && nobody(&|n| n.node.facts.platform == *platform)
    {
        let has = offered(&|n| n.node.facts.platform.clone());
        return Some(("#/requirements/platform", format!("platform {platform}, and there is {has}")));
    }
    if let Some(arch) = &wants.arch
        && nobody(&|n| n.node.facts.arch == *arch)
    {
        return Some((
            "#/requirements/arch",
            format!("arch {arch}, and there is {}", offered(&|n| n.node.facts.arch.clone())),
        ));
    }
    if let Some(role) = &wants.role
        && nobody(&|n| n.node.facts.role == *role)
    {
        return Some((
            "#/requirements/role",
            format!("role {role}, and there is {}", offered(&|n| n.node.facts.role.clone())),
        ));
    }
    if nobody(&|n| wants.tags.is_subset(&n.node.facts.tags)) {
        let tags: Vec<&str> = wants.tags.iter().map(String::as_str).collect();
        return Some(("#/requirements/tags", format!("no node has the tags {}", tags.join(", "))));
    }
    if nobody(&|n| wants.labels.iter().all(|(key, value)| n.node.facts.labels.get(key) == Some(value))) {
        return Some(("#/requirements/labels", format!("no node has the labels {}", pairs(&wants.labels))));
    }
    if wants.internet && nobody(&|n| n.node.facts.internet) {
        return Some(("#/requirements/internet", "no node has internet".into()));
    }
    let short = |asked: u64, of: fn(&Capacity) -> u64| {
        let most = chosen.iter().map(|n| of(&n.node.facts.capacity)).max().unwrap_or(0);
        let names: Vec<&str> = chosen
            .iter()
            .filter(|n| of(&n.node.facts.capacity) == most)
            .map(|n| n.node.name.as_str())
            .take(5)
            .collect();
        (asked > most).then(|| (most, names.join(", ")))
    };
    let sized = |name: &str, asked: u64, (most, names): (u64, String)| {
        format!("{name} {}, the most is {} ({names})", setting(asked), show_bytes(most))
    };
    if let Some((most, names)) = short(amounts.cpu_millis, |c| c.cpu_millis) {
        let what = format!("cpu_cores {}, the most is {} ({names})", cores(amounts.cpu_millis), cores(most));
        return Some(("#/requirements/cpu_cores", what));
    }
    if let Some(short) = short(amounts.memory_bytes, |c| c.memory_bytes) {
        return Some(("#/requirements/memory", sized("memory", amounts.memory_bytes, short)));
    }
    if let Some(short) = short(amounts.disk_bytes, |c| c.disk_bytes) {
        return Some(("#/requirements/disk", sized("disk", amounts.disk_bytes, short)));
    }
    if let Some((most, names)) = short(u64::from(amounts.gpus), |c| c.gpus.len() as u64) {
        let what = match most {
            0 => format!("gpus {}, and no node has one", amounts.gpus),
            most => format!("gpus {}, the most is {most} ({names})", amounts.gpus),
        };
        return Some(("#/requirements/gpus", what));
    }
    let largest = |c: &Capacity| c.gpus.iter().map(|gpu| gpu.memory_bytes).max().unwrap_or(0);
    if amounts.gpus > 0
        && let Some(short) = short(amounts.gpu_memory_bytes, largest)
    {
        return Some(("#/requirements/gpu_memory", sized("gpu_memory", amounts.gpu_memory_bytes, short)));
    }
    None
}

/// Each need is met somewhere, but never all on one node.
fn no_node_has_all(nodes: &[Candidate], needs: &Needs) -> String {
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for node in nodes {
        if let Err(unfit) = check_fit(node, needs) {
            *reasons.entry(unfit.words()).or_default() += 1;
        }
    }
    let counted: Vec<String> = reasons.into_iter().map(|(words, count)| format!("{count} {words}")).collect();
    format!("no node has all that it needs ({})", counted.join(", "))
}

/// As one writes it in a task: `80GiB`.
pub(crate) fn setting(bytes: u64) -> String {
    show_bytes(bytes).replace(' ', "")
}

pub(crate) fn cores(millis: u64) -> String {
    format!("{}", millis as f64 / 1_000.0)
}

pub(crate) fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}
