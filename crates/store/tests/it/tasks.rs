//! Cancels, retries, and waits that are over.

use crate::world::{World, exited, failed, origin, other_project, succeeded};
use domain::{
    attempt::{AttemptState, Report},
    ids::TaskId,
    outcome::FailureKind,
    principal::Scope,
    task::TaskState,
};
use serde_json::json;
use store::{Cancelled, ReportVerdict, Retried};
use uuid::Uuid;

#[tokio::test]
async fn a_cancel_says_what_became_of_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (waiting, running) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let held = world.start_on(running, node).await;
    let cancel = async |scope, task| world.store.cancel_task(scope, task, &origin()).await.expect("answered");
    assert_eq!(cancel(other_project(), waiting).await, Cancelled::NotFound);
    assert_eq!(cancel(Scope::All, TaskId::from_uuid(Uuid::from_u128(1))).await, Cancelled::NotFound);
    assert_eq!(cancel(Scope::All, waiting).await, Cancelled::Done);
    assert_eq!(cancel(Scope::All, waiting).await, Cancelled::AlreadyEnded(TaskState::Cancelled));
    assert_eq!(cancel(Scope::All, running).await, Cancelled::Requested);
    assert_eq!(cancel(Scope::All, running).await, Cancelled::Requested);
    // Once it was answered, no success counts.
    assert_eq!(world.report(node, held, exited(0)).await, ReportVerdict::Recorded);
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Recorded);
    assert_eq!(world.state(running).await, TaskState::Cancelled);
}

#[tokio::test]
async fn a_task_of_an_offline_node_is_cancelled_at_once() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({"on_node_loss": {"replace_after": "1h"}})).await;
    let held = world.start_on(task, node).await;
    world.lose(node).await;
    assert_eq!(world.store.cancel_task(Scope::All, task, &origin()).await.expect("answered"), Cancelled::Done);
    assert_eq!(world.task(task).await.attempts[0].row.state, AttemptState::Lost);
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Fenced);
    assert_eq!(world.state(task).await, TaskState::Cancelled);
}

#[tokio::test]
async fn a_retry_says_what_became_of_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let retry = async |scope, task| world.store.retry_task(scope, task, &origin()).await.expect("answered");
    assert_eq!(retry(Scope::All, task).await, Retried::NotEnded(TaskState::Pending));
    let held = world.start_on(task, node).await;
    world.report(node, held, failed(FailureKind::ExitNonzero)).await;
    assert_eq!(world.state(task).await, TaskState::Failed);
    assert_eq!(retry(other_project(), task).await, Retried::NotFound);
    assert_eq!(retry(Scope::All, task).await, Retried::Queued);
    assert_eq!(retry(Scope::All, task).await, Retried::NotEnded(TaskState::Pending));
    let again = world.start_on(task, node).await;
    assert!(again.fence > held.fence);
}

#[tokio::test]
async fn a_wait_that_is_over_ends_a_task_and_running_is_no_wait() {
    let world = World::start().await;
    let node = world.node("n").await;
    let late = world.submit(json!({"queue_timeout": "1h"})).await;
    let ran = world.submit(json!({"queue_timeout": "1h"})).await;
    let held = world.start_on(ran, node).await;
    world.database.execute("UPDATE task_state SET queue_expires_at = now() - interval '1 second'").await;
    assert_eq!(world.store.expire_queued(10).await.expect("done"), 1);
    let view = world.task(late).await.view;
    assert_eq!((view.state, view.failure), (TaskState::Failed, Some(FailureKind::QueueTimeout)));
    assert_eq!(world.state(ran).await, TaskState::Running);
    // It waits again, from now on: the hour in which it ran does not count.
    world.report(node, held, failed(FailureKind::NodeError)).await;
    assert_eq!(world.state(ran).await, TaskState::Pending);
    assert_eq!(world.store.expire_queued(10).await.expect("done"), 0);
    assert_eq!(world.state(ran).await, TaskState::Pending);
    // And so does one that a person runs once more.
    world.store.retry_task(Scope::All, late, &origin()).await.expect("answered");
    assert_eq!(world.store.expire_queued(10).await.expect("done"), 0);
    assert_eq!(
        world.count("SELECT count(*) FROM task_state WHERE queue_expires_at > now() + interval '59 minutes'").await,
        2
    );
}

#[tokio::test]
async fn tasks_before_counts_the_more_urgent_and_the_older() {
    let world = World::start().await;
    let older = world.submit(json!({})).await;
    let mine = world.submit(json!({})).await;
    world.submit(json!({"priority": "high"})).await;
    world.submit(json!({"priority": "low"})).await;
    world.submit(json!({})).await;
    assert_eq!(world.store.tasks_before(mine).await.expect("counted"), 2);
    assert_eq!(world.store.tasks_before(older).await.expect("counted"), 1);
}

#[tokio::test]
async fn what_a_node_says_with_a_nul_is_kept_without_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    let provenance = json!({"code\u{0}": {"tree": "a\u{0}b"}});
    assert_eq!(world.report(node, held, Report::Prepared { provenance }).await, ReportVerdict::Recorded);
    assert_eq!(world.task(task).await.view.provenance, Some(json!({"code": {"tree": "ab"}})));
}

#[tokio::test]
async fn a_task_of_another_project_is_nowhere() {
    let world = World::start().await;
    let task = world.submit(json!({})).await;
    assert_eq!(world.store.get_task(other_project(), task).await.expect("read"), None);
    assert!(world.store.task_history(other_project(), task, 0, 10).await.expect("read").is_empty());
    assert!(world.store.tasks_by_ending(other_project(), &task.short()).await.expect("read").is_empty());
    assert_eq!(world.store.tasks_by_ending(Scope::All, &task.short()).await.expect("read"), [task]);
    assert!(world.store.count_tasks(other_project()).await.expect("counted").is_empty());
}
