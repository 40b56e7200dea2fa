//! Nodes that come back, late or changed, and what their work is worth then.

use crate::world::{World, failed, hello, origin, placement};
use domain::{
    attempt::{AttemptState, Report},
    ids::{InstanceId, NodeTokenId},
    node::NodeMetrics,
    outcome::FailureKind,
    principal::Scope,
    task::TaskState,
};
use serde_json::json;
use store::{Cancelled, CommitReport, LeaderRole, OpenSession, Opened};
use uuid::Uuid;

#[tokio::test]
async fn a_node_that_comes_back_with_its_work_keeps_it_though_it_has_nothing_to_report() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.lose(node).await;
    assert!(world.task(task).await.view.queued);
    let opened = world.store.open_session(&hello(node.id, node.instance, &[held])).await.expect("opened");
    assert!(matches!(opened, Opened::Session { stop, .. } if stop.is_empty()));
    let kept = world.task(task).await;
    assert_eq!((kept.view.state, kept.view.queued), (TaskState::Running, false));
    assert_eq!(world.commit(task, other).await.expect("committed"), CommitReport { placed: 0, stale: 1 });
}

#[tokio::test]
async fn a_node_comes_back_though_it_has_not_cleaned_up_after_a_task_that_waits_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.report(node, held, failed(FailureKind::NodeError)).await;
    assert!(world.task(task).await.view.queued, "it is to run again, and its first attempt is not released");
    for inventory in [&[held][..], &[]] {
        let opened = world.store.open_session(&hello(node.id, node.instance, inventory)).await.expect("opened");
        assert!(matches!(opened, Opened::Session { .. }), "{opened:?}");
    }
}

#[tokio::test]
async fn a_hello_over_a_connection_that_was_given_up_changes_nothing_however_late_it_is() {
    let world = World::start().await;
    let node = world.node("n").await;
    let token = NodeTokenId::from_uuid(node.id.as_uuid());
    let newest_epoch = world.store.node_token(token).await.expect("read").expect("there").newest_epoch;
    assert_eq!(newest_epoch, node.session.epoch);
    let newer = world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened");
    let Opened::Session { key, .. } = newer else { panic!("{newer:?}") };
    let node = crate::world::Node { session: key, ..node };
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let late = OpenSession { newest_epoch, ..hello(node.id, node.instance, &[]) };
    assert_eq!(world.store.open_session(&late).await.expect("answered"), Opened::Superseded);
    assert_eq!((world.state(task).await, world.held(task).await), (TaskState::Running, held));
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert_eq!(outbox.session_epoch, key.epoch, "the session that is open stays the newest");
}

#[tokio::test]
async fn a_new_installation_is_not_given_what_was_sent_to_the_old_one() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    world.place(task, node).await;
    world.store.close_session(node.session).await.expect("closed");
    let fresh = InstanceId::from_uuid(Uuid::from_u128(42));
    let opened = world.store.open_session(&hello(node.id, fresh, &[])).await.expect("answered");
    assert!(matches!(opened, Opened::Session { .. }), "{opened:?}");
    let task = world.task(task).await;
    assert_eq!((task.view.state, task.view.queued), (TaskState::Pending, true));
    assert_eq!(
        task.attempts[0].row.state,
        AttemptState::Lost,
        "it may have begun there, so its fence is not used again"
    );
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_a_node_that_never_comes_back() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let asked = world.store.cancel_task(Scope::All, task, &origin()).await.expect("answered");
    assert_eq!(asked, Cancelled::Requested);
    world.lose(node).await;
    assert_eq!(world.state(task).await, TaskState::Cancelled);
    assert_eq!(world.report(node, held, Report::Started).await, store::ReportVerdict::Fenced);
}

#[tokio::test]
async fn a_commit_takes_no_more_than_is_free_now_whatever_its_plan_saw() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (first, second) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let mut small = hello(node.id, node.instance, &[]);
    small.facts.capacity.cpu_millis = 1_500;
    world.store.open_session(&small).await.expect("opened");
    let leader = world.leads(LeaderRole::Scheduler).await;
    let plan = [placement(first, node), placement(second, node)];
    let report = world.store.commit_placements(&leader, &plan).await.expect("committed");
    assert_eq!(report, CommitReport { placed: 1, stale: 1 });
}

#[tokio::test]
async fn a_node_comes_back_though_the_clock_was_set_back_since_it_connected() {
    let world = World::start().await;
    let node = world.node("n").await;
    world.database.execute("UPDATE node_live SET connected_since = now() + interval '10 minutes', beat_at = now() + interval '10 minutes'").await;
    let newest = OpenSession { newest_epoch: node.session.epoch, ..hello(node.id, node.instance, &[]) };
    let opened = world.store.open_session(&newest).await.expect("answered");
    assert!(matches!(opened, Opened::Session { .. }), "{opened:?}");
}

#[tokio::test]
async fn a_heartbeat_ends_the_offline_time_and_the_node_keeps_its_work() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, unanswered) = (world.submit(json!({})).await, world.submit(json!({})).await);
    world.start_on(task, node).await;
    world.place(unanswered, node).await;
    world.lose(node).await;
    assert!(world.task(task).await.view.queued && world.task(unanswered).await.view.queued);
    let metrics = NodeMetrics::default();
    let counted = world.store.heartbeat(&[(node.session, metrics.clone()), (other.session, metrics.clone())]).await;
    assert_eq!(counted.expect("written"), [other.session], "before its work is its own again nothing is acknowledged");
    assert!(world.store.end_offline(node.session, &metrics).await.expect("done"));
    assert!(world.store.end_offline(node.session, &metrics).await.expect("safe to repeat"));
    let kept = world.task(task).await;
    assert_eq!((kept.view.state, kept.view.queued, kept.view.node_offline), (TaskState::Running, false, false));
    assert_eq!(world.commit(task, other).await.expect("committed"), CommitReport { placed: 0, stale: 1 });
    // It may never have got this one: whoever accepts first has it.
    assert!(world.task(unanswered).await.view.queued);
    assert_eq!(world.store.outbox(node.id, &[]).await.expect("read").items.len(), 1);
    assert_eq!(world.store.heartbeat(&[(node.session, metrics)]).await.expect("written"), [node.session]);
}

#[tokio::test]
async fn a_heartbeat_of_a_former_session_ends_no_offline_time() {
    let world = World::start().await;
    let node = world.node("n").await;
    world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened");
    world.lose(node).await;
    assert!(!world.store.end_offline(node.session, &NodeMetrics::default()).await.expect("answered"));
    assert_eq!(world.count("SELECT count(*) FROM node_live WHERE offline_since IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_node_that_returns_while_its_work_is_about_to_be_queued_keeps_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    world.start_on(task, node).await;
    world
        .database
        .execute("UPDATE node_live SET offline_since = now() - interval '1 second', offline_at_ms = -1000")
        .await;
    let pool = world.database.pool().await;
    let mut returning = pool.begin().await.expect("begun");
    let back = "UPDATE node_live SET offline_since = NULL";
    sqlx::query(back).execute(&mut *returning).await.expect("it is back, and nobody knows yet");
    let (queued, ()) = tokio::join!(world.replace(), async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while world.count(waits).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        returning.commit().await.expect("committed");
    });
    assert_eq!(queued, 0);
    assert!(!world.task(task).await.view.queued);
}
