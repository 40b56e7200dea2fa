//! What is sent to a node before there is room for it.

use crate::world::{Node, World, hello, origin, placement, succeeded};
use domain::{
    attempt::Report,
    ids::{InstanceId, NodeId, TaskId},
    outcome::{Ending, FailureKind},
    placement::{AHEAD, Placement},
    resources::Reservation,
    task::TaskState,
};
use serde_json::json;
use std::time::Duration;
use store::{CommitReport, Depth, LeaderRole, Opened, OutboxItem, Outcome, ReportVerdict};
use uuid::Uuid;

const PLACED: CommitReport = CommitReport { placed: 1, stale: 0 };
const STALE: CommitReport = CommitReport { placed: 0, stale: 1 };

/// A node with room for two of the tasks that [`placement`] places.
async fn small(world: &World, name: &str, can_wait: bool) -> Node {
    let (id, instance) = (NodeId::from_uuid(Uuid::now_v7()), InstanceId::from_uuid(Uuid::now_v7()));
    assert!(world.store.create_node_token(&crate::world::new_node(id, name), &origin()).await.expect("made"));
    let mut hello = hello(id, instance, &[]);
    hello.facts.capacity.cpu_millis = 2_000;
    if can_wait {
        hello.facts.features.insert(AHEAD.to_owned());
    }
    match world.store.open_session(&hello).await.expect("opened") {
        Opened::Session { key, .. } => Node { id, instance, session: key },
        other => panic!("{other:?}"),
    }
}

fn ahead(task: TaskId, node: Node) -> Placement {
    let with_room = placement(task, node);
    Placement { reservation: Reservation { ahead: true, ..with_room.reservation }, ..with_room }
}

async fn commit(world: &World, plan: &[Placement]) -> CommitReport {
    let leader = world.leads(LeaderRole::Scheduler).await;
    world.store.commit_placements(&leader, plan).await.expect("committed")
}

async fn assert_sound(world: &World) {
    let findings = world.store.audit(Depth::Living, Duration::from_secs(60)).await.expect("audited");
    let broken: Vec<_> = findings.iter().filter(|it| !matches!(it.outcome, Outcome::Holds)).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[tokio::test]
async fn as_much_as_fits_once_more_may_wait_on_a_node_and_what_has_room_comes_first() {
    let world = World::start().await;
    let node = small(&world, "n", true).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(world.submit(json!({})).await);
    }
    // Whatever their order in a plan: what there is room for is leased first.
    let plan = [ahead(tasks[0], node), ahead(tasks[1], node), placement(tasks[2], node), placement(tasks[3], node)];
    assert_eq!(commit(&world, &plan).await, CommitReport { placed: 4, stale: 0 });
    assert_eq!(commit(&world, &[ahead(tasks[4], node)]).await, STALE, "as much as fits once more waits already");
    assert_eq!(commit(&world, &[placement(tasks[5], node)]).await, STALE, "there is no room");
    assert_sound(&world).await;

    let sent = world.store.outbox(node.id, &[]).await.expect("read").items;
    let is_ahead = |task: TaskId| {
        sent.iter().find_map(|item| match item {
            OutboxItem::Assign { task: sent, ahead, .. } if *sent == task => Some(*ahead),
            _ => None,
        })
    };
    assert_eq!([0, 1, 2, 3].map(|n| is_ahead(tasks[n])), [Some(true), Some(true), Some(false), Some(false)]);

    // What waits is shown as waiting, and holds nothing.
    for task in &tasks[..4] {
        let held = world.held(*task).await;
        assert_eq!(world.report(node, held, Report::Accepted).await, ReportVerdict::Recorded);
    }
    let seen = world.store.find_node("n").await.expect("read").expect("there");
    assert_eq!((seen.tasks, seen.waiting, seen.reserved.cpu_millis), (2, 2, 2_000));

    // One ends, and what waited runs: the place that it held while it waited is free for another to wait.
    let (first, next) = (world.held(tasks[2]).await, world.held(tasks[0]).await);
    for report in [Report::Started, succeeded(), Report::Released] {
        world.report(node, first, report).await;
    }
    assert_eq!(world.report(node, next, Report::Started).await, ReportVerdict::Recorded);
    assert_eq!(world.state(tasks[0]).await, TaskState::Running);
    assert_eq!(commit(&world, &[placement(tasks[5], node)]).await, STALE, "the node is full all the same");
    assert_eq!(commit(&world, &[ahead(tasks[4], node)]).await, PLACED);
    assert_sound(&world).await;
}

#[tokio::test]
async fn nothing_is_sent_ahead_to_an_agent_that_knows_nothing_of_it() {
    let world = World::start().await;
    let node = small(&world, "older", false).await;
    let task = world.submit(json!({})).await;
    assert_eq!(commit(&world, &[ahead(task, node)]).await, STALE);
    assert_eq!(commit(&world, &[placement(task, node)]).await, PLACED);
}

#[tokio::test]
async fn what_its_node_gives_back_waits_again_where_it_was_and_has_lost_nothing() {
    let world = World::start().await;
    let node = small(&world, "n", true).await;
    let (task, younger) = (world.submit(json!({})).await, world.submit(json!({})).await);
    assert_eq!(commit(&world, &[ahead(task, node)]).await, PLACED);
    let held = world.held(task).await;
    let ending = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "given back by its node") };
    for report in [Report::Accepted, Report::Ended { ending }, Report::Released] {
        assert_eq!(world.report(node, held, report).await, ReportVerdict::Recorded);
    }
    let view = world.task(task).await.view;
    assert_eq!((view.state, view.infra_failures, view.node_losses), (TaskState::Pending, 0, 0));
    let order: Vec<TaskId> = world.heads(10).await.iter().map(|head| head.task).collect();
    assert_eq!(order, [task, younger], "it keeps its place in the queue");
    assert_sound(&world).await;
}
