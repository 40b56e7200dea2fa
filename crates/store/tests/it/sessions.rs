//! Nodes that come back at the same moment and have nothing: they are let in together, by the same rules as each alone.

use crate::world::{World, connect, hello, origin};
use domain::{
    ids::{InstanceId, NodeTokenId},
    node::NodeFacts,
};
use serde_json::json;
use store::{OpenSession, Opened};
use uuid::Uuid;

fn epoch_of(opened: &Option<Opened>) -> Option<i64> {
    match opened {
        Some(Opened::Session { key, .. }) => Some(key.epoch),
        _ => None,
    }
}

#[tokio::test]
async fn nodes_that_come_together_are_each_answered_as_if_they_had_come_alone() {
    let world = World::start().await;
    let mut nodes = Vec::new();
    for name in ["idle", "should have work", "has work", "revoked", "copied", "of another boot", "late"] {
        nodes.push(world.node(name).await);
    }
    let [idle, working, holding, revoked, copied, other_boot, late] = nodes[..] else { panic!("seven") };
    let (first, second) = (world.submit(json!({})).await, world.submit(json!({})).await);
    world.place(first, working).await;
    let held = world.start_on(second, holding).await;
    world
        .store
        .revoke_node_token(NodeTokenId::from_uuid(revoked.id.as_uuid()), false, &origin())
        .await
        .expect("revoked");
    let of_boot = |boot: u128| NodeFacts { boot: Some(Uuid::from_u128(boot)), ..NodeFacts::default() };
    let said = |node: crate::world::Node| hello(node.id, node.instance, &[]);
    let booted = OpenSession { facts: of_boot(1), ..said(other_boot) };
    assert!(matches!(world.store.open_session(&booted).await.expect("opened"), Opened::Session { .. }));

    let answers = world
        .store
        .open_idle_sessions(&[
            OpenSession { facts: of_boot(7), ..said(idle) },
            said(working),
            hello(holding.id, holding.instance, &[held]),
            said(revoked),
            hello(copied.id, InstanceId::from_uuid(Uuid::from_u128(42)), &[]),
            OpenSession { facts: of_boot(2), ..said(other_boot) },
            OpenSession { newest_epoch: late.session.epoch - 1, ..said(late) },
            // A second connection of the first one.
            said(idle),
        ])
        .await
        .expect("answered");
    assert_eq!(epoch_of(&answers[0]), Some(idle.session.epoch + 1));
    let alone = "what it should have is for the whole rule to settle";
    assert_eq!((&answers[1], &answers[2], &answers[7]), (&None, &None, &None), "{alone}");
    assert_eq!(answers[3], Some(Opened::Revoked));
    assert_eq!(answers[4], Some(Opened::OtherInstance));
    assert_eq!(answers[5], Some(Opened::OtherBoot));
    assert_eq!(answers[6], Some(Opened::Superseded));
    let facts = world.store.find_node("idle").await.expect("read").expect("there").node.facts;
    assert_eq!(facts.boot, Some(Uuid::from_u128(7)));
    for untouched in [working, holding, copied, late] {
        let epoch = world.store.outbox(untouched.id, &[]).await.expect("read").session_epoch;
        assert_eq!(epoch, untouched.session.epoch);
    }
}

#[tokio::test]
async fn a_node_whose_row_is_being_changed_holds_up_no_other() {
    let world = World::start().await;
    let (busy, idle) = (world.node("busy").await, world.node("idle").await);
    let other = connect(&world.database).await;
    let pool = world.database.pool().await;
    let mut changing = pool.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM node_live WHERE node_id = $1 FOR UPDATE")
        .bind(busy.id.as_uuid())
        .execute(&mut *changing)
        .await
        .expect("locked");
    let hellos = [hello(busy.id, busy.instance, &[]), hello(idle.id, idle.instance, &[])];
    let answers = other.open_idle_sessions(&hellos).await.expect("answered");
    assert_eq!((epoch_of(&answers[0]), epoch_of(&answers[1])), (None, Some(idle.session.epoch + 1)));
    changing.rollback().await.expect("ended");
}

#[tokio::test]
async fn tokens_are_answered_in_the_order_in_which_they_were_asked_for() {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let token = |id: Uuid| NodeTokenId::from_uuid(id);
    let unknown = token(Uuid::from_u128(1));
    let asked = [token(two.id.as_uuid()), unknown, token(one.id.as_uuid()), token(two.id.as_uuid())];
    let owners = world.store.node_tokens(&asked).await.expect("read");
    let names: Vec<Option<String>> = owners.into_iter().map(|owner| owner.map(|owner| owner.name)).collect();
    assert_eq!(names, [Some("two".into()), None, Some("one".into()), Some("two".into())]);
}
