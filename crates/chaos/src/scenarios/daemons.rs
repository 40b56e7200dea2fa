//! Docker restarts or hangs.

use crate::{
    scenario::{Scenario, Seen, long_work},
    wait::until,
    world::{QUIET_WITHIN, Run, World},
};
use domain::node::Condition;
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("F25", "dockerd restarts", |run, world| Box::pin(restarted(run, world))).costs_attempts(),
        Scenario::new("F26", "dockerd hangs", |run, world| Box::pin(hangs(run, world))).working(long_work),
    ]
}

async fn restarted(run: &mut Run, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("dockerd: SIGTERM (its containers end), started again");
    let began = Instant::now();
    run.docker.restart().await?;
    let took = began.elapsed();
    seen.notes.push(format!("dockerd was away for {:.1} s", took.as_secs_f64()));
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn hangs(run: &mut Run, world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("dockerd: SIGSTOP 20 s, SIGCONT");
    run.docker.signal(Signal::SIGSTOP)?;
    let began = Instant::now();
    let told = until("the nodes say that Docker is away", QUIET_WITHIN, async || {
        let nodes = world.ask(async |client| client.nodes().await).await?;
        nodes.iter().all(|node| node.metrics.conditions.contains(&Condition::DockerUnavailable)).then_some(())
    })
    .await;
    seen.detected = told.as_ref().ok().map(|(_, took)| *took);
    seen.promise(told.is_ok(), "no node said that its Docker is away");
    // Processes need no Docker.
    world.probe().await?;
    sleep(Duration::from_secs(20).saturating_sub(began.elapsed())).await;
    run.docker.signal(Signal::SIGCONT)?;
    let healed = Instant::now();
    until("the nodes have Docker again", QUIET_WITHIN, async || {
        let nodes = world.ask(async |client| client.nodes().await).await?;
        nodes.iter().all(|node| !node.metrics.conditions.contains(&Condition::DockerUnavailable)).then_some(())
    })
    .await?;
    world.until_recovered().await?;
    seen.recovered = Some(healed.elapsed());
    Ok(seen)
}
