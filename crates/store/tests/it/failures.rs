//! What happens after an attempt went wrong: by exit facts, poison, nodes that fail everything, drains with a deadline.

use crate::world::{Node, World, exited, failed, hello, origin, succeeded};
use chrono::TimeDelta;
use domain::{
    attempt::{AttemptState, Report},
    ids::TaskId,
    lifecycle::Event,
    node::{Admission, NodeView},
    outcome::{Ending, FailureKind},
    principal::Scope,
    task::TaskState,
};
use serde_json::json;
use store::{CommitReport, Opened, OutboxItem, ReportVerdict, Retried};

const STALE: CommitReport = CommitReport { placed: 0, stale: 1 };

/// The node comes back, and its agent has what it has.
async fn back(world: &World, node: Node, has: &[domain::ids::Held]) -> Node {
    match world.store.open_session(&hello(node.id, node.instance, has)).await.expect("opened") {
        Opened::Session { key, .. } => Node { session: key, ..node },
        other => panic!("{other:?}"),
    }
}
async fn seen(world: &World, name: &str) -> NodeView {
    world.store.find_node(name).await.expect("read").expect("there").node
}
async fn events(world: &World, task: TaskId) -> Vec<Event> {
    let entries = world.store.task_history(Scope::All, task, 0, 100).await.expect("read");
    entries.into_iter().flat_map(|entry| entry.events).collect()
}

#[tokio::test]
async fn a_task_whose_exit_is_committed_ends_by_it_when_its_node_is_lost() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (silent, without) = (world.submit(json!({})).await, world.submit(json!({"retry": {"max_retries": 1}})).await);
    for task in [silent, without] {
        let held = world.start_on(task, node).await;
        assert_eq!(world.report(node, held, exited(if task == silent { 0 } else { 3 })).await, ReportVerdict::Recorded);
    }
    // Its agent comes back without the second one.
    let kept = world.held(silent).await;
    let node = back(&world, node, &[kept]).await;
    let retried = world.task(without).await.view;
    assert_eq!(
        (retried.state, retried.queued, retried.user_failures),
        (TaskState::Pending, true, 1),
        "as its user wishes"
    );
    world.lose(node).await;
    let ended = world.task(silent).await;
    assert_eq!((ended.view.state, ended.view.exit_code, ended.view.queued), (TaskState::Succeeded, Some(0), false));
    assert_eq!(ended.attempts[0].row.state, AttemptState::Succeeded);
    assert!(!ended.view.ending.expect("an ending").log.complete);
    assert!(ended.view.message.contains("the rest of its log is missing"), "{}", ended.view.message);
    assert_eq!(world.commit(silent, other).await.expect("checked"), STALE);
    // What the node says later changes nothing, and it may clean up.
    assert_eq!(world.report(node, kept, failed(FailureKind::NodeError)).await, ReportVerdict::Conflict);
    assert_eq!(world.report(node, kept, Report::Released).await, ReportVerdict::Recorded);
}

#[tokio::test]
async fn a_task_that_took_two_nodes_down_waits_for_a_person() {
    let world = World::start().await;
    let (first, second) = (world.node("first").await, world.node("second").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, first).await;
    // The machine restarts, and the agent finds it gone.
    let first = back(&world, first, &[held]).await;
    // Coming back with it alive would clear it: this hello was a blip, and nothing was suspected.
    world.report(first, held, failed(FailureKind::NodeLost)).await;
    assert_eq!(world.state(task).await, TaskState::Pending);
    world.start_on(task, second).await;
    world.lose(second).await;
    let poisoned = world.task(task).await;
    assert_eq!((poisoned.view.state, poisoned.view.failure), (TaskState::Failed, Some(FailureKind::Poison)));
    let down: Vec<_> = events(&world, task)
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::NodeWentDown { node, .. } => Some(node),
            _ => None,
        })
        .collect();
    assert_eq!(down, [first.id, second.id]);
    assert_eq!(world.commit(task, first).await.expect("checked"), STALE);
    assert_eq!(world.store.retry_task(Scope::All, task, &origin()).await.expect("asked"), Retried::Queued);
    assert_eq!(world.commit(task, first).await.expect("committed").placed, 1);
}

#[tokio::test]
async fn a_node_that_comes_back_with_the_old_attempt_alive_clears_the_suspicion() {
    let world = World::start().await;
    let (first, second) = (world.node("first").await, world.node("second").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, first).await;
    world.lose(first).await;
    world.start_on(task, second).await;
    // Replaced meanwhile, and it was only out of reach.
    back(&world, first, &[held]).await;
    world.lose(second).await;
    let view = world.task(task).await.view;
    assert_eq!(
        (view.state, view.queued),
        (TaskState::Running, true),
        "the second one is the first that may have died of it"
    );
}

#[tokio::test]
async fn when_many_nodes_go_at_once_no_task_is_to_blame() {
    let world = World::start().await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        nodes.push(world.node(name).await);
    }
    let task = world.submit(json!({})).await;
    world.start_on(task, nodes[0]).await;
    world.database.execute("UPDATE node_live SET offline_since = now() - interval '1 second', offline_at_ms = -1000, connected = false").await;
    let leader = world.leads(store::LeaderRole::Sweeper).await;
    world.store.queue_replaceable(&leader, 100).await.expect("queued");
    assert_eq!(world.count("SELECT count(*) FROM task_state WHERE died_with IS NOT NULL").await, 0);
    assert!(world.task(task).await.view.queued);
}

/// So many tasks fail there, one after another.
async fn fail_there(world: &World, node: Node, count: usize) {
    for _ in 0..count {
        let task = world.submit(json!({})).await;
        let held = world.place(task, node).await;
        assert_eq!(world.report(node, held, failed(FailureKind::NodeError)).await, ReportVerdict::Recorded);
        world.report(node, held, Report::Released).await;
    }
}
async fn probe_is_due(world: &World) {
    world
        .database
        .execute("UPDATE node_faults SET record = jsonb_set(record, '{cordon,probe_at}', '\"2020-01-01T00:00:00Z\"')")
        .await;
}

#[tokio::test]
async fn a_node_on_which_everything_fails_gets_nothing_until_a_probe_succeeds() {
    let world = World::start().await;
    let node = world.node("n").await;
    let good = world.submit(json!({})).await;
    let held = world.start_on(good, node).await;
    world.report(node, held, succeeded()).await;
    assert_eq!(world.count("SELECT count(*) FROM node_faults").await, 0, "nothing is kept of a healthy node");
    fail_there(&world, node, 5).await;
    let cordoned = seen(&world, "n").await;
    assert_eq!(cordoned.admission, Admission::Cordoned);
    assert!(
        cordoned.probe_at.is_some() && cordoned.admission_note.starts_with("by the rule: 5 attempts of 5 tasks failed")
    );
    assert!(cordoned.admission_note.ends_with("so it was"), "{}", cordoned.admission_note);
    let next = world.submit(json!({})).await;
    assert_eq!(world.commit(next, node).await.expect("checked"), STALE);
    // One real task, and only one.
    probe_is_due(&world).await;
    assert!(world.store.candidates().await.expect("read")[0].may_probe);
    let probe = world.place(next, node).await;
    let second = world.submit(json!({})).await;
    assert_eq!(world.commit(second, node).await.expect("checked"), STALE);
    assert!(!world.store.candidates().await.expect("read")[0].may_probe);
    // It fails for the node's sake: charged to nobody, and the wait is doubled.
    world.report(node, probe, failed(FailureKind::NodeError)).await;
    let view = world.task(next).await.view;
    assert_eq!((view.state, view.infra_failures), (TaskState::Pending, 0));
    assert_eq!(world.count("SELECT (record #>> '{cordon,wait_ms}')::bigint FROM node_faults").await, 600_000);
    probe_is_due(&world).await;
    let probe = world.start_on(second, node).await;
    world.report(node, probe, succeeded()).await;
    assert_eq!(seen(&world, "n").await.admission, Admission::Open);
    assert_eq!(world.count("SELECT count(*) FROM node_faults").await, 0);
}

#[tokio::test]
async fn what_a_person_set_counts_before_the_rule_and_resume_begins_anew() {
    let world = World::start().await;
    let node = world.node("n").await;
    fail_there(&world, node, 5).await;
    world.store.drain_node(node.id, "", None, &origin()).await.expect("set");
    probe_is_due(&world).await;
    assert_eq!(seen(&world, "n").await.admission, Admission::Draining);
    assert!(!world.store.candidates().await.expect("read")[0].may_probe);
    let task = world.submit(json!({})).await;
    assert_eq!(world.commit(task, node).await.expect("checked"), STALE, "no probe goes to a draining node");
    world.store.resume_node(node.id, &origin()).await.expect("set");
    assert_eq!(seen(&world, "n").await.admission, Admission::Open);
    fail_there(&world, node, 4).await;
    assert_eq!(seen(&world, "n").await.admission, Admission::Open, "the count began anew");
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_of_a_drain_is_moved() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (running, sent, finishing) =
        (world.submit(json!({})).await, world.submit(json!({})).await, world.submit(json!({})).await);
    let running_held = world.start_on(running, node).await;
    let sent_held = world.place(sent, node).await;
    let finishing_held = world.start_on(finishing, node).await;
    world.report(node, finishing_held, exited(0)).await;
    let evicted = |outbox: store::Outbox| {
        outbox
            .items
            .into_iter()
            .filter_map(|item| match item {
                OutboxItem::Evict { held } => Some(held),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    world.store.drain_node(node.id, "", Some(TimeDelta::hours(1)), &origin()).await.expect("set");
    let deadline = seen(&world, "n").await.drain_deadline.expect("shown");
    assert!((deadline - world.store.now().await.expect("read") - TimeDelta::hours(1)).abs() < TimeDelta::minutes(1));
    assert_eq!(evicted(world.store.outbox(node.id, &[]).await.expect("read")), []);
    // Asked again, the newer one counts.
    world.store.drain_node(node.id, "", Some(TimeDelta::zero()), &origin()).await.expect("set");
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert!(outbox.draining);
    assert_eq!(evicted(outbox), [running_held, sent_held], "what has ended is not stopped");
    let stopped = Ending { planned_stop: true, ..Ending::failed(FailureKind::NodeError, "moved") };
    world.report(node, running_held, Report::Ended { ending: stopped }).await;
    let view = world.task(running).await.view;
    assert_eq!((view.state, view.queued, view.infra_failures, view.user_failures), (TaskState::Pending, true, 0, 0));
    world.store.resume_node(node.id, &origin()).await.expect("set");
    assert_eq!(seen(&world, "n").await.drain_deadline, None);
}
