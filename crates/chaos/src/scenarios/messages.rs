//! Messages between agents and gateways are late, repeated, overtaken, lost.

use crate::{
    scenario::{Scenario, Seen, long_work},
    world::{Shape, World},
};
use anyhow::Context as _;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::sleep;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("F32", "messages are late, repeated, lost", |_, world| Box::pin(mangled(world)))
            .working(long_work)
            .shaped(|| Shape { ws_proxy: Some(32), ..Shape::default() }),
    ]
}

async fn mangled(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("15 s: 10 % late, 10 % twice, 1 % lost with its line");
    let proxy = world.ws_proxy.as_ref().context("a proxy")?;
    proxy.misbehave(true);
    sleep(Duration::from_secs(15)).await;
    proxy.misbehave(false);
    let deeds = &proxy.deeds;
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (passed, delayed, repeated, lost) =
        (count(&deeds.passed), count(&deeds.delayed), count(&deeds.repeated), count(&deeds.lost));
    seen.notes.push(format!(
        "of {passed} messages {delayed} were late, {repeated} came twice, {lost} were lost with their connection"
    ));
    seen.promise(delayed > 0 && repeated > 0 && lost > 0, "not every kind of fault was made");
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}
