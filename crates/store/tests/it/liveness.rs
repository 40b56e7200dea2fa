//! Who is heard, who is not, and whether the platform was there to hear.

use crate::world::{Node, World, connect, hello};
use chrono::TimeDelta;
use domain::{
    node::{NodeMetrics, Presence},
    sweep::{ABSENT_AFTER_MS, Alarm, Findings, Step},
    task::TaskState,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use store::{LeaderRole, QueueLook};

async fn presence(world: &World, node: Node) -> Presence {
    world.store.find_node(&node.id.to_string()).await.expect("read").expect("there").node.presence
}

#[tokio::test]
async fn a_silent_node_is_offline_and_its_work_is_queued() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    world.start_on(task, node).await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    let (as_of, findings) = world.find_silent(node).await;
    assert_eq!(world.store.record_sweep(&sweeper, as_of, &findings).await.expect("swept"), [(node.id, "n".to_owned())]);
    assert!(world.store.record_sweep(&sweeper, as_of, &findings).await.expect("swept").is_empty(), "told once");
    assert_eq!((presence(&world, node).await, presence(&world, other).await), (Presence::Offline, Presence::Connected));
    let seen = world.store.liveness().await.expect("read");
    assert_eq!(seen.nodes.keys().copied().collect::<Vec<_>>(), [other.id]);
    assert_eq!((world.replace().await, world.replace().await), (1, 0));
    assert_eq!(world.state(task).await, TaskState::Running);
}

#[tokio::test]
async fn a_node_whose_heartbeat_arrives_meanwhile_is_not_called_offline() {
    let world = World::start().await;
    let node = world.node("n").await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    let (as_of, findings) = world.find_silent(node).await;
    let counted = world.store.heartbeat(&[(node.session, NodeMetrics::default())]).await.expect("written");
    assert_eq!(counted, [node.session]);
    assert!(world.store.record_sweep(&sweeper, as_of, &findings).await.expect("swept").is_empty());
    assert_eq!(presence(&world, node).await, Presence::Connected);
}

#[tokio::test]
async fn what_was_never_here_or_is_revoked_is_not_looked_at() {
    let world = World::start().await;
    let seen = world.store.liveness().await.expect("read");
    assert!(seen.nodes.is_empty() && seen.platform.is_none());
    let node = world.node("n").await;
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    world.store.revoke_node_token(token, false, &crate::world::origin()).await.expect("revoked");
    assert!(!world.store.liveness().await.expect("read").nodes.contains_key(&node.id));
}

#[tokio::test]
async fn the_platform_is_there_since_the_last_gap_of_ten_seconds() {
    let world = World::start().await;
    let renewed = async || {
        world.store.renew_presence(ABSENT_AFTER_MS).await.expect("renewed");
        world.store.liveness().await.expect("read").platform.expect("there")
    };
    let first = renewed().await;
    assert_eq!(first.since, first.renewed_at);
    world.database.execute("UPDATE platform_presence SET renewed_at = renewed_at - interval '9 seconds'").await;
    let again = renewed().await;
    assert!(again.since == first.since && again.renewed_at > first.renewed_at);
    for gap in ["- interval '11 seconds'", "+ interval '11 seconds'"] {
        world.database.execute(&format!("UPDATE platform_presence SET renewed_at = now() {gap}")).await;
        let anew = renewed().await;
        assert_eq!(anew.since, anew.renewed_at, "{gap}");
    }
}

#[tokio::test]
async fn a_step_of_the_clock_is_added_to_every_deadline_and_only_once() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let patient = world.submit(json!({"on_node_loss": {"replace_after": "1h"}})).await;
    world.start_on(patient, node).await;
    let (waiting, waited) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    let (as_of, findings) = world.find_silent(node).await;
    world.store.record_sweep(&sweeper, as_of, &findings).await.expect("swept");
    world
        .database
        .execute(&format!(
            "UPDATE task_state SET not_before = now() + interval '605 seconds' WHERE task_id = '{waiting}'"
        ))
        .await;
    // Its wait was over by the old clock, and by the new one it is not.
    world
        .database
        .execute(&format!(
            "UPDATE task_state SET not_before = now() + interval '580 seconds' WHERE task_id = '{waited}'"
        ))
        .await;
    let since_ms = async || {
        let query = format!(
            "SELECT floor(extract(epoch FROM offline_since) * 1000)::bigint FROM node_live WHERE node_id = '{}'",
            node.id
        );
        world.count(&query).await - as_of.timestamp_millis()
    };
    assert_eq!(since_ms().await, 0, "by the clock that the decision was made by");
    let step = async |since, by_ms, offline: &Findings| {
        let findings = Findings { step: Some(Step { since, by_ms }), ..offline.clone() };
        world.store.record_sweep(&sweeper, as_of, &findings).await.expect("swept")
    };
    let nobody = Findings::default();
    step(as_of, 7_200_000, &nobody).await;
    step(as_of, 7_200_000, &nobody).await;
    assert_eq!(since_ms().await, 7_200_000);
    // Not known to be written, found again, and more of it.
    step(as_of, 7_200_500, &nobody).await;
    assert_eq!(since_ms().await, 7_200_500);
    let later = as_of + TimeDelta::seconds(5);
    let (_, gone) = world.find_silent(other).await;
    step(later, -600_000, &gone).await;
    assert_eq!(since_ms().await, 6_600_500);
    let other_since = format!(
        "SELECT floor(extract(epoch FROM offline_since) * 1000)::bigint FROM node_live WHERE node_id = '{}'",
        other.id
    );
    assert_eq!(world.count(&other_since).await, as_of.timestamp_millis(), "after the step, so not moved by it");
    let due_in = async |task| {
        let query =
            format!("SELECT extract(epoch FROM not_before - now())::bigint FROM task_state WHERE task_id = '{task}'");
        world.count(&query).await
    };
    assert!((0..=5).contains(&due_in(waiting).await), "a retry does not wait for the old clock");
    assert!(due_in(waited).await < 0, "nor does one that had waited for long enough");
    // Two hours forward by the clock alone: its hour is not over.
    assert_eq!(world.replace().await, 0);
}

#[tokio::test]
async fn an_alarm_is_shown_until_its_time_or_until_it_is_taken_back() {
    let world = World::start().await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    let now = world.store.now().await.expect("read");
    let told = async |alarm: Option<Alarm>| {
        let findings = Findings { alarm, alarm_changed: true, ..Findings::default() };
        world.store.record_sweep(&sweeper, now, &findings).await.expect("swept");
        world.store.silence_alarm().await.expect("read")
    };
    assert_eq!(world.store.silence_alarm().await.expect("read"), None);
    let alarm = Alarm { silent: 12, of: 15, until: now + TimeDelta::seconds(90) };
    assert_eq!(told(Some(alarm)).await, Some(alarm));
    assert_eq!(told(None).await, None);
    assert_eq!(told(Some(Alarm { until: now - TimeDelta::seconds(1), ..alarm })).await, None);
}

#[tokio::test]
async fn a_heartbeat_of_the_future_makes_no_node_a_place_for_work() {
    let world = World::start().await;
    let node = world.node("n").await;
    world.database.execute("UPDATE node_live SET beat_at = now() + interval '10 minutes'").await;
    assert_eq!(presence(&world, node).await, Presence::Disconnected);
    world.store.heartbeat(&[(node.session, NodeMetrics::default())]).await.expect("written");
    assert_eq!(presence(&world, node).await, Presence::Connected);
}

#[tokio::test]
async fn heartbeats_are_recorded_while_tasks_are_locked_and_every_connection_waits() {
    let world = World::start().await;
    let node = world.node("n").await;
    let before = world.store.liveness().await.expect("read").nodes[&node.id];
    let pool = world.database.pool().await;
    let mut holder = pool.begin().await.expect("begun");
    sqlx::query("LOCK TABLE task_state").execute(&mut *holder).await.expect("locked");
    // More readers than the store has connections.
    let starved = connect(&world.database).await;
    let look = async || starved.queue_heads(&QueueLook::of_all(1), &mut BTreeMap::new()).await;
    let mut waiting: Vec<_> = (0..12).map(|_| Box::pin(look())).collect();
    let poll = futures::future::select_all(waiting.iter_mut());
    assert!(tokio::time::timeout(Duration::from_millis(500), poll).await.is_err(), "all wait");
    let began = Instant::now();
    let metrics = NodeMetrics::default();
    assert_eq!(starved.heartbeat(&[(node.session, metrics)]).await.expect("written"), [node.session]);
    starved.renew_presence(ABSENT_AFTER_MS).await.expect("renewed");
    starved.close_session(node.session).await.expect("closed");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    holder.rollback().await.expect("freed");
    assert!(world.store.liveness().await.expect("read").nodes[&node.id] > before);
    drop(waiting);
    // A hello is not kept out for long either.
    world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened");
}
