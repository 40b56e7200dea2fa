//! One leader, and a sweep that counts no time in which nobody swept.

use crate::world::{World, connect};
use domain::node::Presence;
use serde_json::json;
use store::{LeaderRole, StoreError};
use uuid::Uuid;

#[tokio::test]
async fn one_leads_until_it_is_silent_or_resigns() {
    let world = World::start().await;
    let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let lead = async |holder, known| world.store.lead(LeaderRole::Scheduler, holder, known).await.expect("asked");
    let first = lead(a, None).await.expect("nobody else");
    assert_eq!(lead(b, None).await, None);
    let renewed = lead(a, Some(first)).await.expect("renews");
    assert_eq!(renewed, first, "the same epoch, since the same moment");
    // The other role is another matter.
    assert!(world.store.lead(LeaderRole::Sweeper, b, None).await.expect("asked").is_some());
    world.database.execute("UPDATE leader SET renewed_at = now() - interval '5 seconds'").await;
    let second = lead(b, None).await.expect("takes over");
    assert_eq!(second.epoch, first.epoch + 1);
    assert_eq!(lead(a, Some(first)).await, None);
    // Who resigns what is not his any more changes nothing.
    world.store.resign(&first).await.expect("done");
    assert_eq!(lead(a, None).await, None);
    world.store.resign(&second).await.expect("done");
    assert_eq!(lead(a, None).await.map(|leader| leader.epoch), Some(second.epoch + 1));
}

#[tokio::test]
async fn a_leader_that_slept_begins_a_new_epoch() {
    let world = World::start().await;
    let a = Uuid::from_u128(1);
    let first = world.store.lead(LeaderRole::Scheduler, a, None).await.expect("asked").expect("leads");
    world.database.execute("UPDATE leader SET renewed_at = now() - interval '5 seconds'").await;
    let woken = world.store.lead(LeaderRole::Scheduler, a, Some(first)).await.expect("asked").expect("leads again");
    assert!(woken.epoch > first.epoch && woken.since > first.since);
}

#[tokio::test]
async fn of_a_crowd_that_wants_to_lead_one_does() {
    let world = World::start().await;
    let stores = futures::future::join_all((0..4).map(|_| connect(&world.database))).await;
    let asks = stores
        .iter()
        .enumerate()
        .map(|(n, store)| store.lead(LeaderRole::Scheduler, Uuid::from_u128(n as u128 + 1), None));
    let answers = futures::future::join_all(asks).await;
    assert_eq!(answers.into_iter().filter(|answer| answer.as_ref().expect("asked").is_some()).count(), 1);
}

#[tokio::test]
async fn a_silent_node_is_offline_after_its_time_but_not_for_time_without_a_sweeper() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    world.start_on(task, node).await;
    world.database.execute("UPDATE node_live SET beat_at = now() - interval '1 hour'").await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    assert!(world.store.mark_offline(&sweeper, 90).await.expect("swept").is_empty(), "this sweeper has only begun");
    let long_there = store::Leadership { since: sweeper.since - chrono::TimeDelta::seconds(91), ..sweeper };
    let offline = world.store.mark_offline(&long_there, 90).await.expect("swept");
    assert_eq!(offline, [(node.id, "n".to_owned())]);
    assert!(world.store.mark_offline(&long_there, 90).await.expect("swept").is_empty(), "told once");
    assert_eq!(world.store.find_node("n").await.expect("read").expect("there").node.presence, Presence::Offline);
    assert_eq!(world.store.queue_replaceable(&long_there, 10).await.expect("queued"), 1);
    assert_eq!(world.store.queue_replaceable(&long_there, 10).await.expect("queued"), 0);
    // A heartbeat brings it back.
    world.store.heartbeat(&[(node.session, Default::default())]).await.expect("beats");
    assert_eq!(world.store.find_node("n").await.expect("read").expect("there").node.presence, Presence::Connected);
}

#[tokio::test]
async fn a_former_sweeper_takes_nothing_away() {
    let world = World::start().await;
    let node = world.node("n").await;
    let former = world.leads(LeaderRole::Sweeper).await;
    world.database.execute("UPDATE leader SET renewed_at = now() - interval '5 seconds'").await;
    world.store.lead(LeaderRole::Sweeper, Uuid::from_u128(10), None).await.expect("asked").expect("takes over");
    let long_there = store::Leadership { since: former.since - chrono::TimeDelta::hours(2), ..former };
    world.database.execute("UPDATE node_live SET beat_at = now() - interval '1 hour'").await;
    assert!(matches!(world.store.mark_offline(&long_there, 90).await, Err(StoreError::NotLeader)));
    assert!(matches!(world.store.queue_replaceable(&long_there, 9).await, Err(StoreError::NotLeader)));
    assert_eq!(world.count("SELECT count(*) FROM node_live WHERE offline_since IS NOT NULL").await, 0);
    assert_eq!(
        world.store.find_node(&node.id.to_string()).await.expect("read").map(|found| found.node.id),
        Some(node.id)
    );
}

#[tokio::test]
async fn a_task_that_may_wait_for_its_node_does() {
    let world = World::start().await;
    let node = world.node("n").await;
    let patient = world.submit(json!({"on_node_loss": {"replace_after": "1h"}})).await;
    let hasty = world.submit(json!({})).await;
    world.start_on(patient, node).await;
    world.start_on(hasty, node).await;
    world.lose(node).await;
    assert_eq!((world.task(patient).await.view.queued, world.task(hasty).await.view.queued), (false, true));
    world.database.execute("UPDATE node_live SET offline_since = now() - interval '2 hours'").await;
    let sweeper = world.leads(LeaderRole::Sweeper).await;
    assert_eq!(world.store.queue_replaceable(&sweeper, 10).await.expect("queued"), 1);
    assert!(world.task(patient).await.view.queued);
}
