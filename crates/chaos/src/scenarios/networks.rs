//! Cables are cut.

use crate::{
    network::{Dropped, Way},
    scenario::{Scenario, Seen, long_work},
    wait::until,
    world::{QUIET_WITHIN, Shape, World, offline_after, silence},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    let three_nodes = || Shape { nodes: 3, ..Shape::default() };
    vec![
        Scenario::new("F13", "a node is cut off for a moment", |_, world| Box::pin(cut_off(world))),
        Scenario::new("F11", "what a node sends is lost", |_, world| Box::pin(one_way(world, Way::Out)))
            .shaped(three_nodes)
            .working(long_work)
            .costs_attempts(),
        Scenario::new("F12", "what is sent to a node is lost", |_, world| Box::pin(one_way(world, Way::In)))
            .shaped(three_nodes)
            .working(long_work)
            .costs_attempts(),
        Scenario::new("F15", "a cable that comes and goes", |_, world| Box::pin(flapping(world))).working(long_work),
        Scenario::new("F17", "a router forgets the connection", |_, world| Box::pin(half_open(world))),
    ]
}

/// A peer's silence is noticed within this.
const NOTICED: Duration = Duration::from_secs(7);

async fn cut_off(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0: both directions dropped for 8 s");
    world.nodes[0].net.cut(Way::Both)?;
    let cut = Instant::now();
    let missed = world.until_missed(0, QUIET_WITHIN).await?;
    seen.promise(missed < NOTICED, format!("its silence was noticed after {missed:?}"));
    seen.detected = Some(missed);
    sleep(Duration::from_secs(8).saturating_sub(cut.elapsed())).await;
    seen.swallowed(world.nodes[0].net.heal()?, Way::Both);
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn one_way(world: &mut World, way: Way) -> anyhow::Result<Seen> {
    let direction = if way == Way::Out { "to the platform" } else { "from the platform" };
    let mut seen = Seen::of(format!("node 0: packets {direction} dropped for 18 s"));
    world.nodes[0].net.cut(way)?;
    let cut = Instant::now();
    seen.detected = Some(world.until_missed(0, QUIET_WITHIN).await?);
    let offline = world.until_offline(0, offline_after() + silence() + Duration::from_secs(10)).await;
    if offline.is_ok() {
        seen.notes.push(format!("offline after {:.2} s", cut.elapsed().as_secs_f64()));
    }
    seen.promise(offline.is_ok(), "a node that can't be talked with stayed online");
    sleep(Duration::from_secs(18).saturating_sub(cut.elapsed())).await;
    seen.swallowed(world.nodes[0].net.heal()?, way);
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn flapping(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0: 2 s cut, 2 s whole, six times");
    let mut all = Dropped::default();
    for _ in 0..6 {
        let net = &world.nodes[0].net;
        net.cut(Way::Both)?;
        let cut = Instant::now();
        // An agent that waits before it dials again has nothing to send: the cut waits for it, or it would be none.
        until("the cut has swallowed something", silence(), async || {
            net.dropped().ok().filter(|dropped| dropped.out > 0).map(drop)
        })
        .await?;
        sleep(Duration::from_secs(2).saturating_sub(cut.elapsed())).await;
        let dropped = net.heal()?;
        all = Dropped { out: all.out + dropped.out, inward: all.inward + dropped.inward };
        sleep(Duration::from_secs(2)).await;
    }
    seen.swallowed(all, Way::Both);
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn half_open(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("node 0: its open connections go silent for good");
    let epoch = "SELECT session_epoch FROM node_live l JOIN nodes n ON n.id = l.node_id WHERE n.name = 'node-0'";
    let before = world.database.sql(epoch)?;
    let forgotten = world.nodes[0].net.forget_connections()?;
    seen.promise(forgotten > 0, "there was no connection to forget");
    let began = Instant::now();
    let (_, redialled) = until("the agent has dialled anew", QUIET_WITHIN, async || {
        world.database.sql(epoch).ok().filter(|now| *now != before).map(drop)
    })
    .await?;
    seen.promise(
        redialled < NOTICED + Duration::from_secs(3),
        format!("the agent had dialled anew after {redialled:?}"),
    );
    seen.detected = Some(redialled);
    world.until_recovered().await?;
    seen.recovered = Some(began.elapsed());
    seen.swallowed(world.nodes[0].net.heal()?, Way::Both);
    Ok(seen)
}
