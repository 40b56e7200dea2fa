//! Leasing: what no longer holds is stale, a former leader writes nothing, a crowd that fits nowhere is in nobody's way.

use crate::world::{World, new_task, origin, placement};
use domain::{ids::TaskId, principal::Scope, task::TaskState};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use store::{CommitReport, LeaderRole, QueueLook, QueuePlace, StoreError};
use uuid::Uuid;

const HEADS_PER_CLASS: i64 = 64;
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
        let heads = world.heads(HEADS_PER_CLASS).await;
        (began.elapsed(), heads)
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
    assert!(seen.iter().any(|head| head.task == fitting), "it is looked at");
    assert_eq!(seen.len(), 100 * HEADS_PER_CLASS as usize + 1, "of each class only the first ones are read");
    assert!(among_many < Duration::from_secs(1), "alone {alone:?}, among many {among_many:?}");
}

#[tokio::test]
async fn equal_needs_are_one_class_whatever_else_differs() {
    let world = World::start().await;
    world.submit(json!({"name": "a", "env": {"A": "1"}, "timeout": "1h"})).await;
    world.submit(json!({"name": "b", "priority": "high"})).await;
    world.submit(json!({"name": "c", "requirements": {"memory": "1GiB"}})).await;
    assert_eq!(world.count("SELECT count(*) FROM requirement_classes").await, 2);
    assert_eq!(world.heads(1).await.len(), 2);
}

#[tokio::test]
async fn a_look_reads_what_it_asks_for_and_begins_where_it_is_told() {
    let world = World::start().await;
    let submit = async |memory: u64, priority: &str| {
        world.submit(json!({"priority": priority, "requirements": {"memory": memory}})).await
    };
    let a: Vec<TaskId> = vec![submit(1, "normal").await, submit(1, "normal").await, submit(1, "normal").await];
    let b = submit(2, "normal").await;
    let all = world.heads(10).await;
    let class_of = |task: TaskId| all.iter().find(|head| head.task == task).expect("read").class;
    let place_of = |task: TaskId| QueuePlace::from(all.iter().find(|head| head.task == task).expect("read"));
    let look = async |look: QueueLook| {
        let found = world.store.queue_heads(&look, &mut BTreeMap::new()).await.expect("read");
        (found.heads.iter().map(|head| head.task).collect::<BTreeSet<TaskId>>(), found.read)
    };
    let (class_a, class_b) = (class_of(a[0]), class_of(b));
    // None of a class is asked for: it is there, and that is all.
    let none_of_b = QueueLook { wanted: [(class_b, 0)].into(), ..QueueLook::of_all(2) };
    assert_eq!(look(none_of_b).await, ([a[0], a[1]].into(), [(class_a, 2), (class_b, 0)].into()));
    // Behind a class come those with higher numbers only.
    let behind = QueueLook { after_class: class_a.min(class_b), ..QueueLook::of_all(10) };
    assert_eq!(look(behind).await.1.into_keys().collect::<Vec<i64>>(), [class_a.max(class_b)]);
    // From a place on, with what is more urgent before it and what is less urgent after it.
    let (urgent, low) = (submit(1, "urgent").await, submit(1, "low").await);
    let from = |task| QueueLook { begin_at: [(class_a, place_of(task))].into(), ..QueueLook::of_all(10) };
    assert_eq!(look(from(a[1])).await.0, [urgent, a[1], a[2], low, b].into());
    let limited = QueueLook { wanted: [(class_a, 2)].into(), ..from(a[2]) };
    assert_eq!(look(limited).await.0, [urgent, a[2], b].into(), "the most urgent first");
}
