//! An exclusive task never has two attempts that may be alive, whatever people and nodes do.

use crate::world::{Node, World, hello, origin};
use domain::{
    attempt::Report,
    ids::{InstanceId, NodeTokenId, TaskId},
    principal::Scope,
    sweep::Findings,
};
use serde_json::json;
use std::time::Duration;
use store::{Cancelled, LeaderRole, Opened, OutboxItem, ReportVerdict, Retried, Revoked, StoreError};
use uuid::Uuid;

async fn exclusive_task(world: &World) -> TaskId {
    world.submit(json!({"on_node_loss": {"exclusive": true, "replace_after": "10m"}})).await
}

/// It is offered to the scheduler, and a placement of it is taken.
async fn may_start(world: &World, task: TaskId, node: Node) -> bool {
    let is_offered = world.heads(64).await.iter().any(|head| head.task == task);
    let is_placed = world.commit(task, node).await.expect("committed").placed == 1;
    assert_eq!(is_offered, is_placed, "a scheduler that is offered what is never taken would spin");
    is_placed
}

async fn offline_for(world: &World, node: Node, seconds: u32) {
    let set = format!(
        "offline_since = now() - interval '{seconds} s', offline_at_ms = (SELECT seen_ms FROM sweep) - {seconds} * 1000, connected = false"
    );
    world.database.execute(&format!("UPDATE node_live SET {set} WHERE node_id = '{}'", node.id)).await;
}

#[tokio::test]
async fn it_is_replaced_not_before_its_wait_after_its_node_was_called_offline() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = exclusive_task(&world).await;
    world.start_on(task, node).await;
    for (seconds, queued) in [(0, 0), (598, 0), (601, 1)] {
        offline_for(&world, node, seconds).await;
        assert_eq!(world.replace().await, queued, "offline for {seconds} s");
        assert_eq!(may_start(&world, task, other).await, queued == 1, "offline for {seconds} s");
    }
}

#[tokio::test]
async fn who_cancels_it_on_a_lost_node_and_runs_it_again_waits_as_well() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = exclusive_task(&world).await;
    let held = world.start_on(task, node).await;
    offline_for(&world, node, 1).await;
    assert_eq!(world.store.cancel_task(Scope::All, task, &origin()).await.expect("asked"), Cancelled::Done);
    assert_eq!(world.store.retry_task(Scope::All, task, &origin()).await.expect("asked"), Retried::Queued);
    assert!(!may_start(&world, task, other).await);
    // The node is back, and still has it.
    let back = world.store.open_session(&hello(node.id, node.instance, &[held])).await.expect("opened");
    let Opened::Session { key, .. } = back else { panic!("{back:?}") };
    assert!(!may_start(&world, task, other).await);
    let node = Node { session: key, ..node };
    assert_eq!(world.report(node, held, Report::Released).await, ReportVerdict::Recorded);
    assert!(may_start(&world, task, other).await);
}

#[tokio::test]
async fn a_new_installation_under_the_nodes_token_says_nothing_of_the_old_one() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = exclusive_task(&world).await;
    let plain = world.submit(json!({})).await;
    for task in [task, plain] {
        world.start_on(task, node).await;
    }
    offline_for(&world, node, 1).await;
    let reinstalled = hello(node.id, InstanceId::from_uuid(Uuid::now_v7()), &[]);
    assert!(matches!(world.store.open_session(&reinstalled).await.expect("opened"), Opened::Session { .. }));
    assert!(may_start(&world, plain, other).await);
    assert!(!may_start(&world, task, other).await);
    let wait = "SELECT count(*) FROM task_state WHERE queued AND not_before > now() + interval '11 minutes'";
    assert_eq!(world.count(wait).await, 1, "90 s and its own ten minutes");
    // The first sweep begins to count.
    world.database.execute("UPDATE task_state SET not_before = now()").await;
    for (seconds, starts) in [(3_600, false), (689, false), (1, true)] {
        world.pass_time(seconds).await;
        assert_eq!(may_start(&world, task, other).await, starts, "{seconds} s later");
    }
}

#[tokio::test]
async fn a_revoked_node_has_its_time_to_stop_it() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (running, cancelled) = (exclusive_task(&world).await, exclusive_task(&world).await);
    for task in [running, cancelled] {
        world.start_on(task, node).await;
    }
    let token = NodeTokenId::from_uuid(node.id.as_uuid());
    let evicted = world.store.revoke_node_token(token, true, &origin()).await.expect("asked");
    assert_eq!(evicted, Revoked::IsExclusive(running), "nobody moves it at once");
    assert_eq!(world.store.revoke_node_token(token, false, &origin()).await.expect("asked"), Revoked::Done);
    let counted = "SELECT count(*) FROM node_live WHERE offline_since BETWEEN now() + interval '80 s' AND now() + interval '90 s'";
    assert_eq!(world.count(counted).await, 1, "it may have been heard a moment ago");
    world.store.cancel_task(Scope::All, cancelled, &origin()).await.expect("asked");
    world.store.retry_task(Scope::All, cancelled, &origin()).await.expect("asked");
    for (seconds, starts) in [(0, false), (598, false), (601, true)] {
        offline_for(&world, node, seconds).await;
        world.replace().await;
        for task in [running, cancelled] {
            assert_eq!(may_start(&world, task, other).await, starts, "offline for {seconds} s");
        }
    }
}

/// After how much silence the node ends the task by itself, as it is told; less the task's own ten minutes.
async fn lease_s(world: &World, task: TaskId, node: Node) -> u64 {
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    let lease = outbox.items.iter().find_map(|item| match item {
        OutboxItem::Assign { task: sent, lease, .. } if *sent == task => *lease,
        _ => None,
    });
    lease.expect("it is sent, and it is exclusive").period_ms / 1_000 - 600
}

async fn set_offline_after(world: &World, seconds: u64) {
    // Another process: what it was told counts for all.
    let other = crate::world::connect(&world.database).await;
    other.set_offline_after(Duration::from_secs(seconds)).await.expect("set");
}

#[tokio::test]
async fn who_sweeps_and_who_leases_have_one_value_and_a_lease_keeps_what_it_was_made_from() {
    let world = World::start().await;
    let (old, new) = (world.node("old").await, world.node("new").await);
    let (first, second, plain) =
        (exclusive_task(&world).await, exclusive_task(&world).await, world.submit(json!({})).await);
    set_offline_after(&world, 240).await;
    world.place(first, old).await;
    assert_eq!((lease_s(&world, first, old).await, world.store.liveness().await.expect("read").longer.len()), (200, 0));
    set_offline_after(&world, 60).await;
    world.place(second, new).await;
    world.place(plain, new).await;
    assert_eq!((lease_s(&world, first, old).await, lease_s(&world, second, new).await), (200, 50));
    let seen = world.store.liveness().await.expect("read");
    assert_eq!((seen.offline_after_ms, seen.longer), (60_000, [(old.id, 240_000)].into()));
    // Nobody can ask it any more. It counts as offline when its process has heard of it, by its own lease.
    let token = NodeTokenId::from_uuid(old.id.as_uuid());
    assert_eq!(world.store.revoke_node_token(token, false, &origin()).await.expect("asked"), Revoked::Done);
    let counted = "SELECT count(*) FROM node_live WHERE offline_since BETWEEN now() + interval '220 s' AND now() + interval '240 s'";
    assert_eq!(world.count(counted).await, 1);
}

#[tokio::test]
async fn another_installation_waits_for_what_the_old_lease_was_made_from() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    set_offline_after(&world, 3_600).await;
    let task = exclusive_task(&world).await;
    world.start_on(task, node).await;
    set_offline_after(&world, 60).await;
    offline_for(&world, node, 1).await;
    let reinstalled = hello(node.id, InstanceId::from_uuid(Uuid::now_v7()), &[]);
    assert!(matches!(world.store.open_session(&reinstalled).await.expect("opened"), Opened::Session { .. }));
    assert!(!may_start(&world, task, other).await);
    let wait = "SELECT count(*) FROM task_state WHERE queued AND not_before > now() + interval '69 minutes'";
    assert_eq!(world.count(wait).await, 1, "an hour and its own ten minutes");
}

#[tokio::test]
async fn what_was_decided_by_the_value_of_before_is_not_written() {
    let world = World::start().await;
    let node = world.node("n").await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    let (as_of, findings) = world.find_silent(node).await;
    set_offline_after(&world, 90).await;
    let counts = Findings { alarm_changed: true, ..Findings::default() };
    assert!(world.store.record_sweep(&sweeper, as_of, &counts).await.is_ok(), "nothing was changed");
    set_offline_after(&world, 120).await;
    let written = world.store.record_sweep(&sweeper, as_of, &findings).await;
    assert!(matches!(written, Err(StoreError::NotLeader)), "{written:?}");
    let again = world.leads(LeaderRole::Sweeper).await;
    assert_eq!(again.epoch, sweeper.epoch + 1, "it goes on at once");
}

/// As if the database's clock had been set forward: all that it has stamped is older by so much.
async fn set_clock_forward(world: &World) {
    for (table, column) in [("node_live", "offline_since"), ("node_live", "beat_at"), ("task_state", "not_before")] {
        world.database.execute(&format!("UPDATE {table} SET {column} = {column} - interval '1 day'")).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_forward_shortens_no_wait() {
    let world = World::start().await;
    let (lost, reinstalled, revoked) =
        (world.node("lost").await, world.node("again").await, world.node("revoked").await);
    let other = world.node("other").await;
    let mut tasks = Vec::new();
    for node in [lost, reinstalled, revoked] {
        let task = exclusive_task(&world).await;
        world.start_on(task, node).await;
        tasks.push(task);
    }
    offline_for(&world, lost, 0).await;
    world.store.cancel_task(Scope::All, tasks[0], &origin()).await.expect("asked");
    world.store.retry_task(Scope::All, tasks[0], &origin()).await.expect("asked");
    offline_for(&world, reinstalled, 0).await;
    let new = hello(reinstalled.id, InstanceId::from_uuid(Uuid::now_v7()), &[]);
    assert!(matches!(world.store.open_session(&new).await.expect("opened"), Opened::Session { .. }));
    let token = NodeTokenId::from_uuid(revoked.id.as_uuid());
    world.store.revoke_node_token(token, false, &origin()).await.expect("asked");
    set_clock_forward(&world).await;
    // The lost one's silence was noticed by a sweep already; the others get their 90 s from the next one on.
    for (seconds, starts) in
        [(0, [false; 3]), (599, [false; 3]), (1, [true, false, false]), (89, [true, false, false]), (1, [true; 3])]
    {
        world.pass_time(seconds).await;
        world.replace().await;
        for (task, starts) in tasks.iter().zip(starts) {
            let is_placed = world.task(*task).await.view.node.as_deref() == Some("other");
            assert_eq!(is_placed || may_start(&world, *task, other).await, starts, "{seconds} s later");
        }
    }
}
