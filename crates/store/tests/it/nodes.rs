//! Nodes: admission, drains, revocation.

use crate::world::{World, hello, new_node, origin, succeeded};
use domain::{
    attempt::Report,
    ids::{NodeId, NodeTokenId},
    node::Admission,
    task::TaskState,
};
use serde_json::json;
use store::{Opened, ReportVerdict};
use uuid::Uuid;

#[tokio::test]
async fn a_name_belongs_to_one_node_until_it_is_revoked() {
    let world = World::start().await;
    let node = world.node("n").await;
    let another = NodeId::from_uuid(Uuid::from_u128(7));
    assert!(!world.store.create_node_token(&new_node(another, "n"), &origin()).await.expect("asked"));
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    assert!(world.store.revoke_node_token(token, &origin()).await.expect("revoked"));
    assert!(world.store.revoke_node_token(token, &origin()).await.expect("safe to repeat"));
    assert!(
        !world.store.revoke_node_token(NodeTokenId::from_uuid(Uuid::from_u128(1)), &origin()).await.expect("asked")
    );
    assert_eq!(world.store.token_of_node("n").await.expect("read"), None);
    assert!(world.store.create_node_token(&new_node(another, "n"), &origin()).await.expect("made"));
    assert_eq!(world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("asked"), Opened::Revoked);
    assert!(world.store.node_token(token).await.expect("read").expect("there").is_revoked);
    assert_eq!(world.store.list_node_tokens().await.expect("listed").len(), 2);
}

#[tokio::test]
async fn what_ran_on_a_revoked_node_is_placed_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    world.store.revoke_node_token(token, &origin()).await.expect("revoked");
    let view = world.task(task).await.view;
    assert_eq!((view.state, view.queued), (TaskState::Pending, true));
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::StaleSession);
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert!(outbox.revoked && outbox.items.is_empty());
}

#[tokio::test]
async fn a_draining_node_is_drained_when_the_last_reservation_is_gone() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    assert!(world.store.set_admission(node.id, Admission::Draining, "new PSU", &origin()).await.expect("set"));
    assert!(
        !world
            .store
            .set_admission(NodeId::from_uuid(Uuid::from_u128(1)), Admission::Open, "", &origin())
            .await
            .expect("asked")
    );
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
    assert_eq!(world.store.live_reservations().await.expect("read").len(), 1);
    world.report(node, held, Report::Released).await;
    assert!(world.store.live_reservations().await.expect("read").is_empty());
}
