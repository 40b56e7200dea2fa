//! Processes of the platform die or freeze.

use crate::{
    docker::Docker,
    scenario::{Scenario, Seen, long_work},
    wait::until,
    world::{QUIET_WITHIN, Shape, World, heartbeat, offline_after, silence},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    let three_nodes = || Shape { nodes: 3, ..Shape::default() };
    vec![
        Scenario::new("F01", "a gateway is killed", |_, world| Box::pin(gateway_killed(world))),
        Scenario::new("F05", "an agent is killed", |_, world| Box::pin(agent_killed(world))),
        Scenario::new("F02", "the leading scheduler is killed", |_, world| Box::pin(scheduler_killed(world))),
        Scenario::new("F08", "the leading scheduler freezes", |_, world| Box::pin(scheduler_frozen(world)))
            .working(long_work),
        Scenario::new("F03", "the registry is killed", |_, world| Box::pin(registry_killed(world))).working(long_work),
        Scenario::new("F06", "a node dies whole", |run, world| Box::pin(node_dies(&run.docker, world)))
            .shaped(three_nodes)
            .working(long_work)
            .costs_attempts(),
        Scenario::new("F07", "a gateway freezes", |_, world| Box::pin(gateway_frozen(world))).working(long_work),
        Scenario::new("F09", "an agent freezes, its work goes on", |_, world| Box::pin(agent_frozen(world)))
            .shaped(three_nodes)
            .working(long_work)
            .costs_attempts(),
        Scenario::new("F34", "rolling restart of the gateways", |_, world| Box::pin(rolling_restart(world))),
    ]
}

/// Nodes that were connected to what died notice within this.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn gateway_killed(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("gateway 0: kill -9, back after 2 s");
    world.gateway(0)?.kill().await?;
    let killed = Instant::now();
    // The other one serves at once: this is how long a client is without an answer.
    seen.detected = Some(world.probe().await?);
    sleep(Duration::from_secs(2).saturating_sub(killed.elapsed())).await;
    world.start_gateway(0).await?;
    seen.recovered = Some(world.until_recovered().await?);
    seen.notes.push("detected: until a new task, asked for at the other gateway, was done".into());
    Ok(seen)
}

async fn agent_killed(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("agent 0: kill -9, back after 3 s");
    world.nodes[0].agent()?.kill().await?;
    let killed = Instant::now();
    let detected = world.until_missed(0, QUIET_WITHIN).await?;
    seen.promise(detected < AT_ONCE, format!("the dead socket was noticed after {detected:?}"));
    seen.detected = Some(detected);
    sleep(Duration::from_secs(3).saturating_sub(killed.elapsed())).await;
    let back = Instant::now();
    world.start_agent(0).await?;
    seen.notes.push(format!("the agent's session was open {:.2} s after its start", back.elapsed().as_secs_f64()));
    world.until_recovered().await?;
    seen.recovered = Some(back.elapsed());
    Ok(seen)
}

async fn scheduler_killed(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("leading scheduler: kill -9, back after 8 s");
    let leader = world.leading_scheduler().await?;
    let before = world.leader()?;
    world.scheduler(leader)?.kill().await?;
    let (_, detected) =
        until("the other one leads", QUIET_WITHIN, async || world.leader().ok().filter(|now| *now != before).map(drop))
            .await?;
    seen.promise(detected < Duration::from_secs(6), format!("the standby led after {detected:?}"));
    seen.detected = Some(detected);
    seen.recovered = Some(detected + world.until_recovered().await?);
    sleep(Duration::from_secs(3)).await;
    world.start_scheduler(leader).await?;
    seen.notes.push("recovered: until a new task was done, with one scheduler".into());
    Ok(seen)
}

async fn scheduler_frozen(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("leading scheduler: SIGSTOP 10 s, SIGCONT");
    let leader = world.leading_scheduler().await?;
    let before = world.leader()?;
    world.scheduler(leader)?.signal(Signal::SIGSTOP)?;
    let frozen = Instant::now();
    let (_, detected) =
        until("the other one leads", QUIET_WITHIN, async || world.leader().ok().filter(|now| *now != before).map(drop))
            .await?;
    seen.promise(detected < Duration::from_secs(6), format!("the standby led after {detected:?}"));
    seen.detected = Some(detected);
    seen.recovered = Some(detected + world.until_recovered().await?);
    sleep(Duration::from_secs(10).saturating_sub(frozen.elapsed())).await;
    let meanwhile = world.leader()?;
    world.scheduler(leader)?.signal(Signal::SIGCONT)?;
    world.probe().await?;
    seen.promise(world.leader()? == meanwhile, "the woken scheduler took the leadership from the one that works");
    Ok(seen)
}

async fn registry_killed(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("registry: kill -9, back after 12 s");
    if let Some(mut registry) = world.registry.take() {
        registry.kill().await?;
    }
    // Longer than the silence after which it would call a node offline.
    sleep(offline_after() + Duration::from_secs(2)).await;
    world.start_registry().await?;
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn node_dies(docker: &Docker, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0: all processes frozen, network cut, until replaced");
    freeze(docker, world, Signal::SIGSTOP, true)?;
    world.nodes[0].net.cut(crate::network::Way::Both)?;
    let began = Instant::now();
    let offline = world.until_offline(0, offline_after() + Duration::from_secs(10)).await?;
    let (least, most) = (
        offline_after().saturating_sub(heartbeat() + Duration::from_secs(1)),
        offline_after() + Duration::from_secs(3),
    );
    seen.promise(offline >= least && offline <= most, format!("offline after {offline:?}, not {least:?} to {most:?}"));
    seen.detected = Some(offline);
    let (_, replaced) = until("its work runs elsewhere", QUIET_WITHIN, async || {
        let rows =
            world.database.sql("SELECT count(*) FROM attempts WHERE number > 1 AND started_at IS NOT NULL").ok()?;
        (rows.first()? != "0").then_some(())
    })
    .await?;
    seen.recovered = Some(replaced);
    seen.notes.push(format!(
        "recovered: from offline until a lost task ran elsewhere; {:.2} s after the fault",
        began.elapsed().as_secs_f64()
    ));
    let from_beat = "SELECT round(extract(epoch FROM min(offline_since) - min(beat_at)), 2) || ' s, begun again after '
        || round(extract(epoch FROM (SELECT min(placed_at) FROM attempts WHERE number > 1) - min(beat_at)), 2) || ' s'
        FROM node_live WHERE offline_since IS NOT NULL";
    seen.notes.push(format!(
        "by the database, from the last heartbeat: offline after {}",
        world.database.sql(from_beat)?.join("")
    ));
    sleep((offline_after() + Duration::from_secs(15)).saturating_sub(began.elapsed())).await;
    let dropped = world.nodes[0].net.heal()?;
    // Its kernel alone is awake, and need not have anything to say; but the platform had.
    seen.promise(dropped.inward > 0, format!("the cut did nothing: {dropped}"));
    seen.notes.push(dropped.to_string());
    freeze(docker, world, Signal::SIGCONT, false)?;
    let back = world.until_recovered().await?;
    seen.notes.push(format!("the node was back in {:.2} s", back.as_secs_f64()));
    Ok(seen)
}

fn freeze(docker: &Docker, world: &World, signal: Signal, paused: bool) -> anyhow::Result<()> {
    docker.pause(&world.nodes[0].instance(), paused)?;
    for pid in world.nodes[0].net.pids() {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    Ok(())
}

async fn gateway_frozen(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("gateway 0: SIGSTOP 12 s, SIGCONT; no new connections after 3 s");
    world.gateway(0)?.signal(Signal::SIGSTOP)?;
    let frozen = Instant::now();
    // A balancer asks whether its gateways live. Behind one that does not, an agent may dial the frozen one again and wait there for
    // 20 s: at a tenth of the times that is twice the silence that makes a node offline.
    sleep(Duration::from_secs(3)).await;
    world.balance(&[1])?;
    world.probe().await?;
    seen.detected = Some(frozen.elapsed());
    sleep(Duration::from_secs(12).saturating_sub(frozen.elapsed())).await;
    world.gateway(0)?.signal(Signal::SIGCONT)?;
    world.balance(&[0, 1])?;
    seen.recovered = Some(world.until_recovered().await?);
    seen.notes.push("detected: until a new task, asked for after 3 s, was done".into());
    Ok(seen)
}

async fn agent_frozen(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("agent 0: SIGSTOP until its work runs elsewhere, SIGCONT");
    world.nodes[0].agent()?.signal(Signal::SIGSTOP)?;
    let frozen = Instant::now();
    let missed = world.until_missed(0, QUIET_WITHIN).await?;
    let latest = silence() + Duration::from_secs(2);
    seen.promise(missed <= latest, format!("its silence was noticed after {missed:?}, not within {latest:?}"));
    seen.detected = Some(missed);
    let offline = missed + world.until_offline(0, offline_after() + Duration::from_secs(10)).await?;
    seen.notes.push(format!("offline after {:.2} s", offline.as_secs_f64()));
    sleep((offline_after() + Duration::from_secs(10)).saturating_sub(frozen.elapsed())).await;
    world.nodes[0].agent()?.signal(Signal::SIGCONT)?;
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn rolling_restart(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("gateways: SIGTERM and start, one after the other");
    for which in 0..2 {
        let status = world.gateway(which)?.stop().await?;
        seen.promise(status.success(), format!("gateway {which} stopped with {status}"));
        world.start_gateway(which).await?;
        let back = world.until_recovered().await?;
        seen.recovered = seen.recovered.max(Some(back));
    }
    Ok(seen)
}
