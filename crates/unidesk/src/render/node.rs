//! Nodes: the list, one of them, and their tokens.

use super::View;
use crate::{
    style::{Tone, tone_of_state},
    table::{Cell, Table},
    text::{clean, plural, show_age, show_clock, show_cpus},
};
use api_types::node::{Node, NodeToken, SilenceAlarm};
use domain::{
    node::{Admission, Presence},
    quantity::show_bytes,
};

pub fn list_for_people(nodes: &[Node], server_version: Option<&str>, view: &View) -> String {
    table(nodes, server_version, view).for_people(&view.style, view.width)
}

/// The last column is the full id.
pub fn list_for_programs(nodes: &[Node], view: &View) -> String {
    let mut table = table(nodes, None, view);
    table.append("ID", nodes.iter().map(|node| node.id.to_string().into()));
    table.for_programs()
}

fn table(nodes: &[Node], server_version: Option<&str>, view: &View) -> Table {
    let mut table = Table::new(["NODE", "STATE", "TASKS", "CPU", "MEMORY", "GPU", "AGENT", "SEEN"]);
    for node in nodes {
        let old = server_version.is_some_and(|version| {
            !node.facts.agent_version.is_empty() && is_older(&node.facts.agent_version, version)
        });
        table.row([
            node.name.as_str().into(),
            Cell::toned(state(node, view), tone_of(node)),
            match node.waiting {
                0 => node.tasks.to_string().into(),
                waiting => format!("{} +{waiting}", node.tasks).into(),
            },
            format!("{}/{}", show_cpus(node.reserved.cpu_millis), show_cpus(node.facts.capacity.cpu_millis)).into(),
            share(node.reserved.memory_bytes, node.facts.capacity.memory_bytes).into(),
            gpus(node).into(),
            format!("{}{}", node.facts.agent_version, if old { " !" } else { "" }).into(),
            node.last_seen_at.map_or_else(|| "never".into(), |at| show_age(view.now.to_utc() - at)).into(),
        ]);
    }
    table
}

/// `16/62 GiB`.
fn share(part: u64, whole: u64) -> String {
    let (part, whole) = (show_bytes(part), show_bytes(whole));
    match (part.split_once(' '), whole.split_once(' ')) {
        (Some((figure, unit)), Some((_, whole_unit))) if unit == whole_unit => format!("{figure}/{whole}"),
        (Some(("0", _)), _) => format!("0/{whole}"),
        _ => format!("{part}/{whole}"),
    }
}

fn gpus(node: &Node) -> String {
    let all = &node.facts.capacity.gpus;
    match all.first() {
        Some(first) => {
            format!("{}/{} {}", node.reserved.gpu_ids.len(), all.len(), first.model.trim_start_matches("NVIDIA "))
        }
        None => "-".into(),
    }
}

/// `connected, draining`, `offline 26m`.
fn state(node: &Node, view: &View) -> String {
    let presence = match (node.presence, node.last_seen_at) {
        (Presence::Offline, Some(seen)) => format!("offline {}", show_age(view.now.to_utc() - seen)),
        (presence, _) => presence.to_string(),
    };
    match node.admission {
        Admission::Open => presence,
        Admission::Revoked => "revoked".into(),
        other if node.probe_at.is_some() => format!("{presence}, {other} by rule"),
        other => format!("{presence}, {other}"),
    }
}

fn tone_of(node: &Node) -> Tone {
    match node.admission {
        Admission::Open => tone_of_state(node.presence.as_str()),
        other => tone_of_state(other.as_str()),
    }
}

/// By their numbers; what can't be compared is not older.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    numbers(version).zip(numbers(than)).is_some_and(|(version, than)| version < than)
}

pub fn list_footer(nodes: &[Node], server_version: Option<&str>) -> String {
    if nodes.is_empty() {
        return "No nodes yet. Make a token for one: unidesk node-token create --name NAME".into();
    }
    let count = |test: &dyn Fn(&Node) -> bool| nodes.iter().filter(|node| test(node)).count() as u64;
    let mut parts = vec![format!("{} connected", count(&|node| node.presence == Presence::Connected))];
    for (number, word) in [
        (count(&|node| node.admission == Admission::Draining), "draining"),
        (count(&|node| node.admission == Admission::Drained), "drained"),
        (count(&|node| node.admission == Admission::Cordoned), "cordoned"),
        (count(&|node| node.presence == Presence::Disconnected), "disconnected"),
        (count(&|node| node.presence == Presence::Offline), "offline"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    let old =
        server_version.is_some_and(|version| nodes.iter().any(|node| is_older(&node.facts.agent_version, version)));
    let old = if old { ". ! older than the server" } else { "" };
    format!("{}: {}{old}", plural(nodes.len() as u64, "node"), parts.join(", "))
}

/// `12 of 15 nodes fell silent at once; nothing is called offline before 10:32:05`
pub fn alarm(alarm: &SilenceAlarm, view: &View) -> String {
    format!(
        "{} of {} fell silent at once; nothing is called offline before {}",
        alarm.silent_nodes,
        plural(alarm.of_nodes, "node"),
        show_clock(alarm.nothing_offline_before, view.now)
    )
}

pub fn show(node: &Node, view: &View) -> String {
    let facts = &node.facts;
    let capacity = &facts.capacity;
    let since = node.connected_since.filter(|_| node.presence == Presence::Connected);
    let since = since.map_or_else(String::new, |at| format!(" for {}", show_age(view.now.to_utc() - at)));
    let presence = view.style.paint(tone_of_state(node.presence.as_str()), &node.presence.to_string());
    let admission = match node.admission {
        Admission::Open => String::new(),
        other => {
            let note = if node.admission_note.is_empty() {
                String::new()
            } else {
                format!(" ({})", clean(&node.admission_note))
            };
            let until =
                node.drain_deadline.map_or_else(String::new, |at| format!(" until {}", show_clock(at, view.now)));
            format!(", {}{until}{note}", view.style.paint(tone_of_state(other.as_str()), other.as_str()))
        }
    };
    let seen = match (node.presence, node.last_seen_at) {
        (Presence::Connected, _) => String::new(),
        (_, Some(at)) => format!(", seen {}", show_clock(at, view.now)),
        (_, None) => ", never seen".into(),
    };
    let tasks = plural(node.tasks.into(), "task");
    let name = clean(&node.name);
    let mut lines = vec![format!("{name:<10} {presence}{since}{admission}{seen}: {tasks} here")];

    lines.extend(node.probe_at.map(|at| {
        let when = if at > view.now { format!("at {}", show_clock(at, view.now)) } else { "with the next task".into() };
        format!(
            "probe      {when} it gets one real task; if that runs, it gets work again (or: unidesk node resume {name})"
        )
    }));

    let mut machine: Vec<String> = [&facts.os, &facts.arch, &facts.cpu_model]
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| clean(text))
        .collect();
    machine.push(format!("{} cores", show_cpus(capacity.cpu_millis)));
    machine.push(show_bytes(capacity.memory_bytes));
    machine.push(format!("disk {} for tasks", show_bytes(capacity.disk_bytes)));
    for gpu in &capacity.gpus {
        machine.push(format!("{} {}", clean(&gpu.model), show_bytes(gpu.memory_bytes)));
    }
    machine.extend(facts.gpu_driver.as_ref().map(|driver| format!("driver {}", clean(driver))));
    machine.extend(facts.docker_version.as_ref().map(|version| format!("Docker {}", clean(version))));
    lines.push(format!("machine    {}", machine.join(", ")));

    let executors: Vec<String> = facts.executors.keys().map(|name| clean(name)).collect();
    lines.push(format!("runs       {}; agent {}", executors.join(", "), clean(&facts.agent_version)));
    let words: Vec<String> = facts
        .tags
        .iter()
        .map(|tag| clean(tag))
        .chain(facts.labels.iter().map(|(key, value)| clean(&format!("{key}={value}"))))
        .collect();
    if !words.is_empty() {
        lines.push(format!("labels     {}", words.join(" ")));
    }
    if capacity.cpu_millis > 0 {
        let bar = |word: &str, part: u64, whole: u64| {
            let share = part as f64 / whole.max(1) as f64;
            format!("{word} {} {:.0} %", view.style.bar(share, 16), share * 100.0)
        };
        let mut bars = vec![
            bar("cpu ", node.reserved.cpu_millis, capacity.cpu_millis),
            bar("memory", node.reserved.memory_bytes, capacity.memory_bytes),
        ];
        if !capacity.gpus.is_empty() {
            let held = node.reserved.gpu_ids.len();
            let share = held as f64 / capacity.gpus.len() as f64;
            bars.push(format!("gpu {} {held} of {}", view.style.bar(share, 8), capacity.gpus.len()));
        }
        lines.push(format!("reserved   {}", bars.join("   ")));
        if node.waiting > 0 {
            let (tasks, they) =
                if node.waiting == 1 { ("task waits", "it starts") } else { ("tasks wait", "they start") };
            lines.push(format!("waiting    {} short {tasks} here; {they} as soon as one ends", node.waiting));
        }
    }
    if node.presence == Presence::Connected {
        let metrics = &node.metrics;
        let disk = if metrics.disk_total_bytes > 0 {
            format!("   disk {} of {}", show_bytes(metrics.disk_used_bytes), show_bytes(metrics.disk_total_bytes))
        } else {
            String::new()
        };
        lines.push(format!(
            "really     cpu {:.0} %   memory {}{disk}",
            metrics.cpu_percent,
            show_bytes(metrics.memory_used_bytes)
        ));
    }
    lines.extend(
        node.metrics
            .conditions
            .iter()
            .map(|condition| view.style.paint(Tone::Bad, &format!("fault      {}", condition.describe()))),
    );
    lines.push(format!("id         {}", node.id));
    lines.join("\n") + "\n"
}

pub fn tokens(tokens: &[NodeToken], view: &View) -> Table {
    let mut table = Table::new(["ID", "NODE", "AGE", "BY", "STATE"]);
    for token in tokens {
        let state = if token.revoked_at.is_some() { "revoked" } else { "valid" };
        table.row([
            token.id.to_string().into(),
            token.name.as_str().into(),
            show_age(view.now.to_utc() - token.created_at).into(),
            token.created_by.as_str().into(),
            state.into(),
        ]);
    }
    table
}
