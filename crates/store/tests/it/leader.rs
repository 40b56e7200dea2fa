//! One leader, whatever happens to it and to the clock.

use crate::world::{World, connect, placement};
use serde_json::json;
use std::time::{Duration, Instant};
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
async fn a_leader_of_a_clock_that_was_set_back_is_replaced_and_a_living_one_goes_on() {
    let world = World::start().await;
    let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let lead = async |holder| world.store.lead(LeaderRole::Scheduler, holder, None).await.expect("asked");
    let first = lead(a).await.expect("nobody else");
    world.database.execute("UPDATE leader SET renewed_at = now() + interval '3 seconds'").await;
    assert_eq!(lead(b).await, None, "so little is no step");
    world.database.execute("UPDATE leader SET renewed_at = now() + interval '10 minutes'").await;
    let second = lead(b).await.expect("takes over");
    assert_eq!(second.epoch, first.epoch + 1);
    world.database.execute("UPDATE leader SET renewed_at = now() + interval '10 minutes'").await;
    assert_eq!(lead(b).await.map(|leader| leader.epoch), Some(second.epoch + 1));
    assert_eq!(lead(a).await, None);
}

#[tokio::test]
async fn a_leader_that_freezes_inside_its_transaction_is_replaced_in_under_5_seconds() {
    let world = World::start().await;
    let frozen_store = connect(&world.database).await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let first = frozen_store.lead(LeaderRole::Scheduler, a, None).await.expect("asked").expect("leads");
    // It gets as far as the task's row, with the leader's row locked. Then it is never polled again: as if it was stopped.
    let pool = world.database.pool().await;
    let mut holder = pool.begin().await.expect("begun");
    sqlx::query("SELECT FROM task_state FOR UPDATE").execute(&mut *holder).await.expect("locked");
    let plan = [placement(task, node)];
    let mut frozen = Box::pin(frozen_store.commit_placements(&first, &plan));
    let is_locked =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    tokio::select! {
        done = &mut frozen => panic!("{done:?}"),
        () = async { while world.count(is_locked).await == 0 { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    holder.rollback().await.expect("freed");
    let frozen_at = Instant::now();
    let second = loop {
        // Waits behind the frozen transaction, or comes too early: asked again, as the scheduler does.
        if let Ok(Some(leader)) = world.store.lead(LeaderRole::Scheduler, b, None).await {
            break leader;
        }
        assert!(frozen_at.elapsed() < Duration::from_secs(10), "nobody takes over");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(second.epoch > first.epoch);
    assert_eq!(world.store.commit_placements(&second, &plan).await.expect("committed").placed, 1);
    let after = frozen_at.elapsed();
    assert!(after < Duration::from_secs(5), "{after:?}");
    // The woken one finds its transaction gone, and then that it leads no more.
    assert!(frozen.await.is_err());
    assert!(matches!(frozen_store.commit_placements(&first, &plan).await, Err(StoreError::NotLeader)));
    assert_eq!(world.task(task).await.attempts.len(), 1);
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
async fn a_former_sweeper_takes_nothing_away() {
    let world = World::start().await;
    let node = world.node("n").await;
    let former = world.leads(LeaderRole::Sweeper).await;
    world.database.execute("UPDATE leader SET renewed_at = now() - interval '5 seconds'").await;
    world.store.lead(LeaderRole::Sweeper, Uuid::from_u128(10), None).await.expect("asked").expect("takes over");
    let (as_of, findings) = world.find_silent(node).await;
    assert!(matches!(world.store.record_sweep(&former, as_of, &findings).await, Err(StoreError::NotLeader)));
    assert!(matches!(world.store.queue_replaceable(&former, 9).await, Err(StoreError::NotLeader)));
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
    world
        .database
        .execute("UPDATE node_live SET offline_since = now() - interval '2 hours', offline_at_ms = -7200000")
        .await;
    assert_eq!(world.replace().await, 1);
    assert!(world.task(patient).await.view.queued);
}
