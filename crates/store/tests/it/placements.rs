//! Leasing: what no longer holds is stale, a former leader writes nothing, a crowd that fits nowhere is in nobody's way.

use crate::world::{World, new_task, origin, placement};
use domain::{ids::TaskId, principal::Scope, task::TaskState};
use serde_json::json;
use std::time::{Duration, Instant};
use store::{CommitReport, HEADS_PER_CLASS, LeaderRole, StoreError};
use uuid::Uuid;

const STALE: CommitReport = CommitReport { placed: 0, stale: 1 };

#[tokio::test]
async fn a_placement_that_no_longer_holds_is_stale() {
    let world = World::start().await;
    let node = world.node("n").await;
    let placed = world.submit(json!({})).await;
    world.place(placed, node).await;
    assert_eq!(world.commit(placed, node).await.expect("checked"), STALE, "it is placed already");
    let cancelled = world.submit(json!({})).await;
    world.store.cancel_task(Scope::All, cancelled, &origin()).await.expect("cancelled");
    assert_eq!(world.commit(cancelled, node).await.expect("checked"), STALE);
    assert_eq!(world.commit(TaskId::from_uuid(Uuid::from_u128(1)), node).await.expect("checked"), STALE);
    let waiting = world.submit(json!({})).await;
    world
        .database
        .execute(&format!("UPDATE task_state SET not_before = now() + interval '1 hour' WHERE task_id = '{waiting}'"))
        .await;
    assert_eq!(world.commit(waiting, node).await.expect("checked"), STALE, "its backoff is not over");
    let task = world.submit(json!({})).await;
    world.store.drain_node(node.id, "", None, &origin()).await.expect("set");
    assert_eq!(world.commit(task, node).await.expect("checked"), STALE, "the node takes nothing new");
    world.store.resume_node(node.id, &origin()).await.expect("set");
    world.store.close_session(node.session).await.expect("closed");
    assert_eq!(world.commit(task, node).await.expect("checked"), STALE, "the node is not connected");
    assert_eq!(world.state(task).await, TaskState::Pending);
}

#[tokio::test]
async fn what_still_holds_is_placed_beside_what_does_not() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (good, gone) = (world.submit(json!({})).await, world.submit(json!({})).await);
    world.store.cancel_task(Scope::All, gone, &origin()).await.expect("cancelled");
    let leader = world.leads(LeaderRole::Scheduler).await;
    let plan = [placement(gone, node), placement(good, node)];
    assert_eq!(
        world.store.commit_placements(&leader, &plan).await.expect("committed"),
        CommitReport { placed: 1, stale: 1 }
    );
    assert_eq!(world.state(good).await, TaskState::Assigned);
}

#[tokio::test]
async fn of_two_commits_at_once_one_places_the_task() {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let leader = world.leads(LeaderRole::Scheduler).await;
    for _ in 0..10 {
        let task = world.submit(json!({})).await;
        let (plan_one, plan_two) = ([placement(task, one)], [placement(task, two)]);
        let (a, b) = tokio::join!(
            world.store.commit_placements(&leader, &plan_one),
            world.store.commit_placements(&leader, &plan_two)
        );
        assert_eq!(a.expect("committed").placed + b.expect("committed").placed, 1);
        assert_eq!(world.task(task).await.attempts.len(), 1);
    }
}

#[tokio::test]
async fn a_former_leader_writes_nothing() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let former = world.leads(LeaderRole::Scheduler).await;
    world.database.execute("UPDATE leader SET renewed_at = now() - interval '5 seconds'").await;
    let current =
        world.store.lead(LeaderRole::Scheduler, Uuid::from_u128(10), None).await.expect("asked").expect("takes over");
    assert!(current.epoch > former.epoch);
    let refused = world.store.commit_placements(&former, &[placement(task, node)]).await;
    assert!(matches!(refused, Err(StoreError::NotLeader)), "{refused:?}");
    assert_eq!(world.state(task).await, TaskState::Pending);
    let placed = world.store.commit_placements(&current, &[placement(task, node)]).await.expect("committed");
    assert_eq!(placed.placed, 1);
}

#[tokio::test]
async fn ten_thousand_tasks_that_fit_nowhere_do_not_slow_the_one_that_does() {
    let world = World::start().await;
    world.node("n").await;
    let fitting = world.submit(json!({"priority": "low"})).await;
    let snapshot = async || {
        let began = Instant::now();
        let snapshot = world.store.placement_snapshot(HEADS_PER_CLASS).await.expect("read");
        (began.elapsed(), snapshot)
    };
    snapshot().await;
    let (alone, _) = snapshot().await;
    // A hundred classes of need, a hundred tasks each, all more urgent.
    for class in 0..100 {
        let task = new_task(json!({"priority": "urgent", "requirements": {"gpus": 1, "memory": class + 1}}));
        world.store.submit_tasks(&vec![task; 100]).await.expect("accepted");
    }
    world.database.execute("ANALYZE").await;
    snapshot().await;
    let (among_many, seen) = snapshot().await;
    assert!(seen.heads.iter().any(|head| head.task == fitting), "it is looked at");
    assert_eq!(seen.heads.len(), 100 * HEADS_PER_CLASS as usize + 1, "of each class only the first ones are read");
    assert!(among_many < Duration::from_secs(1), "alone {alone:?}, among many {among_many:?}");
}

#[tokio::test]
async fn equal_needs_are_one_class_whatever_else_differs() {
    let world = World::start().await;
    world.submit(json!({"name": "a", "env": {"A": "1"}, "timeout": "1h"})).await;
    world.submit(json!({"name": "b", "priority": "high"})).await;
    world.submit(json!({"name": "c", "requirements": {"memory": "1GiB"}})).await;
    assert_eq!(world.count("SELECT count(*) FROM requirement_classes").await, 2);
    let snapshot = world.store.placement_snapshot(1).await.expect("read");
    assert_eq!(snapshot.heads.len(), 2);
}
