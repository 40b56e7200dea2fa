//! An exclusive task never has two attempts that may be alive, whatever people and nodes do.

use crate::world::{Node, World, hello, origin};
use domain::{
    attempt::Report,
    ids::{InstanceId, NodeTokenId, TaskId},
    principal::Scope,
};
use serde_json::json;
use store::{Cancelled, Opened, ReportVerdict, Retried, Revoked};
use uuid::Uuid;

async fn exclusive_task(world: &World) -> TaskId {
    world.submit(json!({"on_node_loss": {"exclusive": true, "replace_after": "10m"}})).await
}

/// It is offered to the scheduler, and a placement of it is taken.
async fn may_start(world: &World, task: TaskId, node: Node) -> bool {
    let snapshot = world.store.placement_snapshot(64).await.expect("read");
    let is_offered = snapshot.heads.iter().any(|head| head.task == task);
    let is_placed = world.commit(task, node).await.expect("committed").placed == 1;
    assert_eq!(is_offered, is_placed, "a scheduler that is offered what is never taken would spin");
    is_placed
}

async fn offline_for(world: &World, node: Node, seconds: u32) {
    let set = format!("offline_since = now() - interval '{seconds} seconds', connected = false");
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
    world.database.execute("UPDATE task_state SET not_before = now()").await;
    assert!(may_start(&world, task, other).await);
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

#[tokio::test]
async fn after_a_restore_it_waits_for_nodes_that_may_have_it() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, plain) = (exclusive_task(&world).await, world.submit(json!({})).await);
    // What runs where was forgotten; the other node has said hello since.
    world.database.execute("UPDATE cluster SET restored_at = now(), epoch = epoch + 1").await;
    let forgetful = format!("UPDATE node_live SET connected_since = NULL WHERE node_id = '{}'", node.id);
    world.database.execute(&forgetful).await;
    for (seconds, starts) in [(1, false), (601, true)] {
        offline_for(&world, node, seconds).await;
        assert_eq!(may_start(&world, task, other).await, starts, "offline for {seconds} s");
    }
    assert!(may_start(&world, plain, other).await);
}
