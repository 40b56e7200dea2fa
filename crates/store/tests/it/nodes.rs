//! Nodes: admission, drains, revocation.

use crate::world::{World, hello, new_node, origin, succeeded};
use domain::{
    attempt::Report,
    ids::{NodeId, NodeTokenId},
    node::Admission,
    task::TaskState,
};
use serde_json::json;
use std::time::Duration;
use store::{Opened, OutboxItem, ReportVerdict, Revoked};
use uuid::Uuid;

#[tokio::test]
async fn a_name_belongs_to_one_node_until_it_is_revoked() {
    let world = World::start().await;
    let node = world.node("n").await;
    let another = NodeId::from_uuid(Uuid::from_u128(7));
    assert!(!world.store.create_node_token(&new_node(another, "n"), &origin()).await.expect("asked"));
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    for evict in [false, true] {
        let revoked = world.store.revoke_node_token(token, evict, &origin()).await.expect("safe to repeat");
        assert_eq!(revoked, Revoked::Done);
    }
    let unknown = NodeTokenId::from_uuid(Uuid::from_u128(1));
    let answer = world.store.revoke_node_token(unknown, false, &origin()).await.expect("asked");
    assert_eq!(answer, Revoked::NoSuchToken);
    assert_eq!(world.store.token_of_node("n").await.expect("read"), None);
    assert!(world.store.create_node_token(&new_node(another, "n"), &origin()).await.expect("made"));
    assert_eq!(world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("asked"), Opened::Revoked);
    assert!(world.store.node_token(token).await.expect("read").expect("there").is_revoked);
    assert_eq!(world.store.list_node_tokens(None, 10).await.expect("listed").len(), 2);
}

#[tokio::test]
async fn what_runs_on_a_revoked_node_is_told_to_stop_and_placed_again_once_the_node_is_offline() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    world.store.revoke_node_token(token, false, &origin()).await.expect("revoked");
    assert_eq!(world.state(task).await, TaskState::Running, "it may be running until it hears of it");
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::StaleSession);
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert!(outbox.revoked);
    assert_eq!(outbox.items, [OutboxItem::Stop { held }]);
    let leader = world.leads(store::LeaderRole::Sweeper).await;
    // The first sweep after it counts from now on.
    for (seconds, queued) in [(1, 0), (89, 0), (1, 1)] {
        world.pass_time(seconds).await;
        assert_eq!(
            world.store.queue_replaceable(&leader, 10).await.expect("looked"),
            queued,
            "it may run on for so long"
        );
    }
    let given_up = world.task(task).await;
    assert_eq!((given_up.view.state, given_up.view.queued), (TaskState::Pending, true));
    assert!(!given_up.attempts[0].row.reserved, "nobody will ever say that it is free");
}

#[tokio::test]
async fn with_evict_it_is_placed_again_at_once_and_told_to_stop_all_the_same() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    world.store.revoke_node_token(token, true, &origin()).await.expect("revoked");
    let view = world.task(task).await.view;
    assert_eq!((view.state, view.queued), (TaskState::Pending, true));
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert_eq!((outbox.revoked, outbox.items), (true, vec![OutboxItem::Stop { held }]));
    let suspected = world.count("SELECT count(*) FROM task_state WHERE died_with IS NOT NULL").await;
    assert_eq!(suspected, 0, "the node did not go down");
}

#[tokio::test]
async fn an_exclusive_task_is_not_evicted_from_a_node_that_may_run_it_on() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    world
        .database
        .execute(&format!(
            "UPDATE tasks SET spec = jsonb_set(spec::jsonb, '{{on_node_loss,exclusive}}', 'true') WHERE id = '{task}'"
        ))
        .await;
    world.start_on(task, node).await;
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    let answer = world.store.revoke_node_token(token, true, &origin()).await.expect("asked");
    assert_eq!(answer, Revoked::IsExclusive(task));
    assert!(world.store.find_node("n").await.expect("read").is_some(), "nothing was changed");
}

#[tokio::test]
async fn a_draining_node_is_drained_when_the_last_reservation_is_gone() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    assert!(world.store.drain_node(node.id, "new PSU", None, &origin()).await.expect("set"));
    assert!(!world.store.resume_node(NodeId::from_uuid(Uuid::from_u128(1)), &origin()).await.expect("asked"));
    world.report(node, held, succeeded()).await;
    assert_eq!(world.store.finish_drains().await.expect("done"), 0, "the process tree may still be there");
    world.report(node, held, Report::Released).await;
    assert_eq!(world.store.finish_drains().await.expect("done"), 1);
    let found = world.store.find_node("n").await.expect("read").expect("there");
    assert_eq!(
        (found.node.admission, found.node.admission_note.as_str()),
        (Admission::Drained, "by ana (\"new PSU\")")
    );
    assert_eq!((found.tasks, found.reserved.cpu_millis), (0, 0));
}

#[tokio::test]
async fn a_reservation_counts_until_the_node_releases_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.report(node, held, succeeded()).await;
    assert_eq!(world.store.find_node("n").await.expect("read").expect("there").reserved.cpu_millis, 1_000);
    assert_eq!(world.count("SELECT count(*) FROM attempts WHERE reserved").await, 1);
    world.report(node, held, Report::Released).await;
    assert_eq!(world.count("SELECT count(*) FROM attempts WHERE reserved").await, 0);
}

/// What is placed is placed before a drain or a revocation is answered, never after: a commit that has seen the node open is waited for.
#[tokio::test]
async fn no_placement_follows_the_answer_to_a_drain_or_a_revocation() {
    for revokes in [false, true] {
        let world = World::start().await;
        let node = world.node("lab-5").await;
        let task = world.submit(json!({})).await;
        let token = world.store.token_of_node("lab-5").await.expect("read").expect("there");
        // Holds the commit between its look at the node and its writing.
        let pool = world.database.pool().await;
        let mut holder = pool.begin().await.expect("begun");
        let lock = "SELECT 1 FROM task_state WHERE task_id = $1 FOR UPDATE";
        sqlx::query(lock).bind(task.as_uuid()).execute(&mut *holder).await.expect("locked");
        let closing = async {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.expect("read") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let closed = async {
                if revokes {
                    let revoked = world.store.revoke_node_token(token, true, &origin()).await.expect("revoked");
                    assert_eq!(revoked, Revoked::Done);
                } else {
                    assert!(world.store.drain_node(node.id, "", None, &origin()).await.expect("set"));
                }
            };
            tokio::pin!(closed);
            let early = tokio::time::timeout(Duration::from_millis(300), closed.as_mut()).await;
            assert!(early.is_err(), "answered while a placement could still follow");
            holder.rollback().await.expect("let go");
            closed.await;
        };
        let (report, ()) = tokio::join!(world.commit(task, node), closing);
        assert_eq!(report.expect("committed").placed, 1);
        if revokes {
            assert_eq!(
                world.task(task).await.view.state,
                TaskState::Pending,
                "what was placed just before goes elsewhere"
            );
        }
        assert_eq!(world.commit(world.submit(json!({})).await, node).await.expect("committed").placed, 0);
    }
}
