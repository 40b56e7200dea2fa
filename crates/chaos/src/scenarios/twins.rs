//! Two agents that both say to be one node.

use crate::{
    network::{NodeNet, PLATFORM_PORT},
    program::{self, Program},
    scenario::{Scenario, Seen},
    wait::until,
    world::{QUIET_WITHIN, World, silence},
};
use anyhow::Context as _;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    vec![Scenario::new("F33", "two agents are one node", |_, world| Box::pin(twins(world)))]
}

async fn twins(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0's token in a second installation; then a copy of all of node 0");
    let asked = Instant::now();
    let (dir, net) = (second_installation(world)?, &world.nodes[0].net);
    stays_out(world, "second", net.command(&agent(&dir, &[])?), &mut seen).await?;
    let (dir, net) = (copy(world)?, world.lay_cable(100)?);
    // Its processes have another namespace, so what the records name is not there; and its machine another boot.
    let boot = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", dir.join("boot").display());
    let apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &boot, "sh"];
    stays_out(world, "copy", net.command(&agent(&dir, &apart)?), &mut seen).await?;
    is_empty(&net).await?;
    seen.detected = Some(asked.elapsed());
    seen.notes.push("detected: until both had been refused, each again and again".into());
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

/// What an agent says when its session is open.
const LET_IN: &str = "connected node.name=";

/// Starts it, and promises that it is refused and that the node keeps its session meanwhile. Kills it then.
async fn stays_out(world: &World, name: &str, command: Command, seen: &mut Seen) -> anyhow::Result<()> {
    let before = sessions(world)?;
    let mut twin = Program::spawn(name, command, &world.logs)?;
    let (_, took) = until("it is refused or let in", QUIET_WITHIN, async || {
        let said = twin.said();
        (said.contains("refused this node") || said.contains(LET_IN)).then_some(())
    })
    .await?;
    seen.notes.push(format!("the {name} was answered after {:.2} s", took.as_secs_f64()));
    // The copy asks again after each heartbeat.
    sleep(2 * silence()).await;
    seen.promise(!twin.said().contains(LET_IN), format!("the {name} got in"));
    let opened = sessions(world)? - before;
    seen.promise(opened == 0, format!("{opened} sessions were opened beside the {name}"));
    twin.kill().await
}

/// Sessions that were opened so far, of all nodes.
fn sessions(world: &World) -> anyhow::Result<u64> {
    let rows = world.database.sql("SELECT sum(session_epoch) FROM node_live")?;
    Ok(rows.first().context("a sum")?.parse()?)
}

/// The data directory of somebody who took node 0's token and began anew.
fn second_installation(world: &World) -> anyhow::Result<PathBuf> {
    let dir = world.dir.join("second");
    fs::create_dir_all(&dir)?;
    for file in ["token", "provider.toml"] {
        fs::copy(world.nodes[0].dir.join(file), dir.join(file))?;
    }
    Ok(dir)
}

/// Node 0's data directory as a copy of its machine has it: the same installation, and records of work that is not there. Its Docker is
/// its own, and away.
fn copy(world: &World) -> anyhow::Result<PathBuf> {
    let dir = world.dir.join("copy");
    crate::inside::run("cp", &["-a", &world.nodes[0].dir.display().to_string(), &dir.display().to_string()])?;
    fs::write(dir.join("provider.toml"), format!("docker_socket = \"{}\"\n", dir.join("docker.sock").display()))?;
    fs::write(dir.join("boot"), "00000000-0000-4000-8000-000000000000\n")?;
    Ok(dir)
}

fn agent(dir: &Path, before: &[&str]) -> anyhow::Result<Command> {
    let server = format!("http://127.0.0.1:{PLATFORM_PORT}");
    let mut agent = program::prefixed(before, program::command(&["provider", "--server", &server])?);
    agent.arg("--token-file").arg(dir.join("token")).arg("--data-dir").arg(dir);
    Ok(agent)
}

/// Everything of it ends with the first process of its namespace.
async fn is_empty(net: &NodeNet) -> anyhow::Result<()> {
    until("nothing of the copy is left", QUIET_WITHIN, async || net.pids().is_empty().then_some(())).await.map(drop)
}
