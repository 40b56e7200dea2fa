//! After the fault: wait until all is quiet, then look at what should be gone.

use crate::{
    docker::Docker,
    inside::run,
    program::Usage,
    wait::until,
    world::{World, work_ends_within},
};
use api_types::audit::InvariantState;
use std::{collections::BTreeMap, fs};

/// Waits until every task has ended and nodes hold nothing, at most a minute; gives back what is not so.
pub async fn quiet(world: &World, docker: &Docker) -> Vec<String> {
    let mut left = Vec::new();
    let waited = until("all is quiet", work_ends_within(), async || {
        left = leftovers(world, docker).await;
        left.is_empty().then_some(())
    });
    let waited = waited.await;
    if waited.is_ok() { Vec::new() } else { left }
}

async fn leftovers(world: &World, docker: &Docker) -> Vec<String> {
    let mut left = Vec::new();
    for asked in world.submitter.asked() {
        let Some(id) = asked.id else { continue };
        match world.task(id).await {
            Some(task) if task.state.is_terminal() => {}
            Some(task) => left.push(format!("{} is {}: {}", asked.wanted.name, task.state.as_str(), task.message)),
            None => left.push(format!("{} can't be asked for", asked.wanted.name)),
        }
        // The rest would be the same.
        if left.len() > 5 {
            return left;
        }
    }
    match world.ask(async |client| client.nodes().await).await {
        Some(nodes) => {
            left.extend(
                nodes
                    .iter()
                    .filter(|node| node.tasks > 0)
                    .map(|node| format!("{} holds {} reservations", node.name, node.tasks)),
            );
        }
        None => left.push("no gateway answers".into()),
    }
    for node in &world.nodes {
        left.extend(node.attempts().iter().map(|path| format!("{} has the directory {}", node.name, path.display())));
        let agent = node.agent.as_ref().map_or(0, |agent| agent.pid());
        for pid in node.net.pids().into_iter().filter(|pid| *pid != agent) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // Git and the like come and go; a supervisor or a task's shell stays only when it was forgotten.
            if name.starts_with("unidesk-shim") || name.trim() == "sh" {
                left.push(format!("{} has the process {pid} {}", node.name, name.trim()));
            }
        }
    }
    match docker.containers(None) {
        Ok(containers) => left.extend(containers.iter().map(|id| format!("the container {id} is left"))),
        Err(error) => left.push(format!("docker: {error}")),
    }
    left
}

/// What holds clearly more than before. A pool may have grown to its size, a cache may have been filled.
pub fn grown(before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>) -> Vec<String> {
    const FDS: u64 = 24;
    const RSS_KIB: u64 = 24 * 1024;
    let mut grown = Vec::new();
    for (name, now) in after {
        let Some(then) = before.get(name) else { continue };
        if now.fds > then.fds + FDS {
            grown.push(format!("{name} has {} open files, {} before", now.fds, then.fds));
        }
        if now.rss_kib > then.rss_kib + then.rss_kib / 4 + RSS_KIB {
            grown.push(format!("{name} holds {} KiB, {} before", now.rss_kib, then.rss_kib));
        }
    }
    grown
}

/// After everything was stopped: nothing of the nodes is alive.
pub fn processes_left() -> Vec<String> {
    let mut left = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if name.starts_with("unidesk") {
            left.push(format!("process {} {} is left", process.file_name().to_string_lossy(), name.trim()));
        }
    }
    left
}

/// Cables and namespaces that outlived their nodes.
pub fn networks_left() -> Vec<String> {
    let spaces = run("ip", &["netns", "list"]).unwrap_or_default();
    let links = run("ip", &["-o", "link"]).unwrap_or_default();
    let cables = links
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|name| name.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())));
    spaces
        .lines()
        .map(|name| format!("the namespace {name} is left"))
        .chain(cables.map(|name| format!("the cable {name} is left")))
        .collect()
}

/// What the platform's own audit says: the same as `unidesk audit`.
pub async fn audit(world: &World) -> Vec<String> {
    let audit = match world.clients[0].audit().await {
        Ok(audit) => audit,
        Err(error) => return vec![format!("the audit was not answered: {error}")],
    };
    let broken = audit.invariants.iter().filter(|invariant| invariant.state != InvariantState::Holds);
    broken
        .map(|invariant| {
            let because = invariant.because.as_deref().unwrap_or_default();
            format!("audit: {}: {}{because} {}", invariant.id, invariant.says, invariant.rows.join("; "))
        })
        .collect()
}
