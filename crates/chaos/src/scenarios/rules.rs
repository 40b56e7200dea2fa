//! Faults that a rule of the platform answers: exclusive work, poison, black holes. A build without the rule is told so, not failed.

use crate::{
    network::Way,
    scenario::{Scenario, Seen},
    wait::until,
    workload::Wanted,
    world::{QUIET_WITHIN, Run, Shape, World, offline_after},
};
use anyhow::Context as _;
use api_types::task::Task;
use domain::{ids::TaskId, node::Admission};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    let three_nodes = || Shape { nodes: 3, ..Shape::default() };
    vec![
        Scenario::new("F14", "exclusive work is cut off", |_, world| Box::pin(exclusive(world)))
            .shaped(three_nodes)
            .costs_attempts(),
        Scenario::new("F37", "a task that takes its node down", |run, world| Box::pin(poison(run, world)))
            .shaped(three_nodes)
            .working(Vec::new)
            .costs_attempts(),
        Scenario::new("F38", "a node that fails everything at once", |_, world| Box::pin(black_hole(world)))
            .shaped(|| Shape { nodes: 3, first_docker_fails: true, ..Shape::default() })
            .working(Vec::new)
            .costs_attempts(),
    ]
}

/// Where the last attempt of a task is, as a place in the world's nodes.
async fn place_of(world: &World, id: TaskId) -> anyhow::Result<usize> {
    let (node, _) =
        until("it runs", QUIET_WITHIN, async || world.task(id).await.filter(|task| task.started_at.is_some())?.node)
            .await?;
    world.nodes.iter().position(|host| host.name == node).with_context(|| format!("{node} is none of ours"))
}

async fn exclusive(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("a node with exclusive work: cut off until replaced");
    let also = json!({ "on_node_loss": { "exclusive": true, "replace_after": "1s" } });
    let wanted = |name: &str, is_container| Wanted {
        exclusive: true,
        is_container,
        also: also.clone(),
        ..Wanted::process(name, 240, Duration::from_millis(200))
    };
    let first = world.submitter.submit(wanted("exclusive-process", false)).await;
    let process = first.context("an exclusive task is taken")?;
    world.submitter.submit(wanted("exclusive-container", true)).await?;
    let place = place_of(world, process).await?;
    world.nodes[place].net.cut(Way::Both)?;
    let cut = Instant::now();
    seen.detected = Some(world.until_offline(place, offline_after() + Duration::from_secs(10)).await?);
    let replaced = until("it runs elsewhere", Duration::from_secs(120), async || {
        world.task(process).await.filter(|task| task.attempt > 1 && is_running_again(task)).map(drop)
    })
    .await;
    seen.promise(replaced.is_ok(), "exclusive work was not begun again");
    seen.recovered = replaced.ok().map(|_| cut.elapsed());
    sleep(Duration::from_secs(3)).await;
    seen.swallowed(world.nodes[place].net.heal()?, Way::Both);
    world.until_recovered().await?;
    seen.notes
        .push("recovered: from the cut until the replacement ran; the ledger says whether the first was dead".into());
    Ok(seen)
}

fn is_running_again(task: &Task) -> bool {
    let attempts = task.attempts.as_deref().unwrap_or_default();
    attempts.iter().any(|attempt| attempt.number == task.attempt && attempt.started_at.is_some())
}

async fn poison(run: &mut Run, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("every node that runs the task dies and comes back");
    // What it ends with is not its own doing, so the oracle is told below.
    let wanted = Wanted { steps: 0, ..Wanted::process("poison", 0, Duration::ZERO) };
    let id = world.submitter.submit(Wanted { also: json!({ "command": "sleep 600" }), ..wanted }).await?;
    let began = Instant::now();
    for round in 1..=3u32 {
        let (task, _) = until("the poisonous task runs or is given up", QUIET_WITHIN, async || {
            let task = world.task(id).await?;
            (task.state.is_terminal() || (task.attempt >= round && is_running_again(&task))).then_some(task)
        })
        .await?;
        if task.state.is_terminal() {
            break;
        }
        if round == 3 {
            world.ask(async |client| client.cancel(id).await).await;
            world.submitter.forget(id);
            anyhow::bail!("a third attempt began: {task:#?}");
        }
        let place = place_of(world, id).await?;
        let node = &mut world.nodes[place];
        for container in run.docker.containers(Some(&node.instance()))? {
            let _ = crate::inside::run("docker", &["kill", &container]);
        }
        for pid in node.net.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        node.agent()?.kill().await?;
        sleep(Duration::from_millis(500)).await;
        world.start_agent(place).await?;
    }
    seen.detected = Some(began.elapsed());
    let task = world.task(id).await.context("the task")?;
    seen.notes.push(format!("it ended as {} after {} attempts", task.outcome.as_deref().unwrap_or("-"), task.attempt));
    seen.promise(task.outcome.as_deref() == Some("poison"), format!("it ended as {:?}", task.outcome));
    world.submitter.forget(id);
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn black_hole(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0: Docker makes no container; 24 are wanted");
    let began = Instant::now();
    for number in 0..24 {
        world.submitter.submit(Wanted::container(format!("hole-{number}"), 2, Duration::from_millis(50))).await?;
    }
    let cordoned = until("the node is cordoned", QUIET_WITHIN, async || {
        world.node(0).await.filter(|node| node.admission == Admission::Cordoned)
    })
    .await;
    let counter = world.docker_proxy.as_ref().context("a proxy")?.refused.clone();
    let refused = || counter.load(Ordering::Relaxed);
    match &cordoned {
        Ok((node, took)) => {
            seen.detected = Some(*took);
            seen.notes.push(format!("{} is cordoned {}", node.name, node.admission_note));
            // What was on its way when the rule struck may still arrive; then no more, until a probe is due.
            let (before, held) = (refused(), node.tasks.into());
            world.probe().await?;
            sleep(Duration::from_secs(2)).await;
            let after = refused();
            seen.promise(
                after - before <= held,
                format!("{} tries went into the hole behind the cordon", after - before),
            );
            // Every task has a budget of its own; a hole that swallows more than its share would use them up.
            seen.promise(after <= 24, format!("{after} tries went into the hole"));
        }
        Err(error) => seen.promise(false, format!("the node that fails everything was not cordoned: {error:#}")),
    }
    seen.notes.push(format!("{} containers could not be made", refused()));
    world.docker_proxy.as_ref().context("a proxy")?.mend();
    let first = until("all went elsewhere", QUIET_WITHIN, async || {
        let page = world.ask(async |client| client.cluster_status().await).await?;
        let live = |state: &str| page.tasks.get(state).copied().unwrap_or(0);
        (live("pending") + live("assigned") + live("preparing") == 0).then_some(())
    })
    .await;
    seen.promise(first.is_ok(), "the tasks did not get around the hole");
    seen.recovered = Some(began.elapsed());
    Ok(seen)
}
