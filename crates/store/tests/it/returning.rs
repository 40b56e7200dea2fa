//! Nodes that come back, late or changed, and what their work is worth then.

use crate::world::{World, failed, hello, origin, placement};
use domain::{
    attempt::{AttemptState, Report},
    ids::InstanceId,
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
    assert!(matches!(opened, Opened::Session { unknown, .. } if unknown.is_empty()));
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
    let accepted_at = world.store.now().await.expect("read");
    let newer = world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened");
    let Opened::Session { key, .. } = newer else { panic!("{newer:?}") };
    let node = crate::world::Node { session: key, ..node };
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let late = OpenSession { accepted_at, ..hello(node.id, node.instance, &[]) };
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
