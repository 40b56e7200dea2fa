//! What decides whose turn it is: the first tasks of every project are seen, who has how much is known, and so is what is old.

use crate::world::{World, new_task, succeeded};
use domain::{
    attempt::Report,
    ids::{DEFAULT_PROJECT, ProjectId, TaskId},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use store::{NewTask, QueueLook, Submitted};
use uuid::Uuid;

const VISION: ProjectId = ProjectId::from_uuid(Uuid::from_u128(2));

async fn world_of_two() -> World {
    let world = World::start().await;
    world.database.execute(&format!("INSERT INTO projects (id, slug) VALUES ('{VISION}', 'vision')")).await;
    world
}

async fn submit(world: &World, project: ProjectId, body: Value) -> TaskId {
    match world.store.submit_tasks(&[NewTask { project, ..new_task(body) }]).await.expect("accepted")[..] {
        [Submitted::Accepted { id }] => id,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_tasks_of_each_project_are_seen_however_many_another_has_queued() {
    let world = world_of_two().await;
    world.store.submit_tasks(&vec![new_task(json!({"priority": "urgent"})); 200]).await.expect("accepted");
    let theirs = submit(&world, VISION, json!({})).await;
    let heads = world.heads(10).await;
    let of = |project| heads.iter().filter(|head| head.project == project).count();
    assert_eq!((of(DEFAULT_PROJECT), of(VISION)), (10, 1));
    assert!(heads.iter().any(|head| head.task == theirs));
}

#[tokio::test]
async fn live_tasks_are_those_on_a_node_of_each_project_that_is_asked_for() {
    let world = world_of_two().await;
    let node = world.node("n").await;
    let live = async || {
        let asked: BTreeSet<ProjectId> = [DEFAULT_PROJECT, VISION].into();
        let live = world.store.live_tasks(&asked).await.expect("counted");
        (live[&DEFAULT_PROJECT], live[&VISION])
    };
    let tasks = [submit(&world, DEFAULT_PROJECT, json!({})).await, submit(&world, DEFAULT_PROJECT, json!({})).await];
    submit(&world, VISION, json!({})).await;
    assert_eq!(live().await, (0, 0), "what waits is not live");
    let held = world.start_on(tasks[0], node).await;
    world.place(tasks[1], node).await;
    assert_eq!(live().await, (2, 0));
    world.report(node, held, succeeded()).await;
    world.report(node, held, Report::Released).await;
    assert_eq!(live().await, (1, 0));
    assert_eq!(world.store.live_tasks(&[VISION].into()).await.expect("counted"), [(VISION, 0)].into());
}

#[tokio::test]
async fn old_tasks_of_every_urgency_are_found_behind_any_number_of_more_urgent_ones() {
    let world = world_of_two().await;
    let low: Vec<TaskId> = vec![
        submit(&world, VISION, json!({"priority": "low"})).await,
        submit(&world, VISION, json!({"priority": "low"})).await,
    ];
    let normal = submit(&world, VISION, json!({})).await;
    world.database.execute("UPDATE task_state SET queued_at = now() - interval '2 hours'").await;
    let young = submit(&world, VISION, json!({"priority": -7})).await;
    let high = NewTask { project: VISION, ..new_task(json!({"priority": "high"})) };
    world.store.submit_tasks(&vec![high; 100]).await.expect("accepted");

    let old_after = async |hours: u64| {
        let mut needs = BTreeMap::new();
        let mut found = world.store.queue_heads(&QueueLook::of_all(5), &mut needs).await.expect("read");
        assert_eq!(found.heads.len(), 5);
        let classes: Vec<i64> = found.read.keys().copied().collect();
        let waited = Duration::from_secs(hours * 3_600);
        world.store.add_old_heads(&mut found, &classes, waited, &needs).await.expect("read");
        assert_eq!(found.heads.len(), 5 + found.old.len(), "each is there once");
        assert!(found.heads.iter().all(|head| head.project == VISION));
        found.old
    };
    assert_eq!(old_after(1).await, [low[0], low[1], normal].into());
    assert_eq!(old_after(3).await, [].into());
    assert_eq!(old_after(0).await, [low[0], low[1], normal, young].into(), "the oldest urgent ones were seen already");
    world.store.cancel_task(domain::principal::Scope::All, low[0], &crate::world::origin()).await.expect("cancelled");
    let later = format!("UPDATE task_state SET not_before = now() + interval '1 hour' WHERE task_id = '{normal}'");
    world.database.execute(&later).await;
    assert_eq!(old_after(1).await, [low[1]].into(), "only what may be placed");
    assert!(!old_after(1).await.contains(&young));
}
