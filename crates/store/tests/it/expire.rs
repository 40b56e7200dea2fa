//! What ended long ago is deleted with all that is its own, and nothing else is.

use crate::world::{Node, World, exited, keyed, origin, piece, succeeded};
use chrono::TimeDelta;
use domain::{attempt::Report, ids::TaskId, principal::Scope};
use serde_json::json;
use std::time::Duration;
use store::{Depth, ExpiredTasks, Outcome, ReportVerdict, Submitted};

const DAY: TimeDelta = TimeDelta::days(1);

/// Runs to its end, with a log, and is released unless it is to hold its room.
async fn done(world: &World, node: Node, is_released: bool) -> TaskId {
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.store.append_logs(node.session, &[piece(held, 1, 0, b"hello")]).await.expect("stored");
    for report in [exited(0), succeeded()] {
        assert_eq!(world.report(node, held, report).await, ReportVerdict::Recorded);
    }
    if is_released {
        assert_eq!(world.report(node, held, Report::Released).await, ReportVerdict::Recorded);
    }
    task
}

/// All that was made so far was made, and what has ended, ended two days ago: in ids too.
async fn age(world: &World) {
    for (table, column) in [
        ("tasks", "id"),
        ("task_state", "task_id"),
        ("attempts", "task_id"),
        ("task_events", "task_id"),
        ("idempotency_keys", "task_id"),
    ] {
        world
            .database
            .execute(&format!(
                "UPDATE {table} SET {column} = (lpad(to_hex(('x' || substr(replace({column}::text, '-', ''), 1, 12))::bit(48)::bigint - 172800000), 12, '0')
                   || substr(replace({column}::text, '-', ''), 13))::uuid"
            ))
            .await;
    }
    world
        .database
        .execute(
            "UPDATE task_state SET queued_at = queued_at - interval '2 days', ended_at = ended_at - interval '2 days';
             UPDATE attempts SET placed_at = placed_at - interval '2 days', accepted_at = accepted_at - interval '2 days',
               preparing_at = preparing_at - interval '2 days', started_at = started_at - interval '2 days',
               exited_at = exited_at - interval '2 days', ended_at = ended_at - interval '2 days'",
        )
        .await;
}

fn two_days_older(id: TaskId) -> TaskId {
    TaskId::from_uuid(uuid::Uuid::from_u128(id.as_uuid().as_u128() - (172_800_000 << 80)))
}

async fn assert_sound(world: &World) {
    for finding in world.store.audit(Depth::Whole, Duration::from_secs(20)).await.expect("audited") {
        assert_eq!(finding.outcome, Outcome::Holds, "{}", finding.id);
    }
}

#[tokio::test]
async fn only_what_ended_long_ago_and_holds_nothing_is_deleted() {
    let world = World::start().await;
    let node = world.node("one").await;
    let gone = done(&world, node, true).await;
    let holding = done(&world, node, false).await;
    let waiting = world.submit(json!({"requirements": {"tags": ["nowhere"]}})).await;
    let running = world.submit(json!({"timeout": "30d"})).await;
    world.start_on(running, node).await;
    let Submitted::Accepted { id: with_key } = world.store.submit_tasks(&[keyed("k", 1)]).await.expect("accepted")[0]
    else {
        panic!("a new key")
    };
    world.store.cancel_task(Scope::All, with_key, &origin()).await.expect("cancelled");
    age(&world).await;
    let [gone, holding, waiting, running, with_key] = [gone, holding, waiting, running, with_key].map(two_days_older);
    let young = done(&world, node, true).await;

    // In steps of two, the whole way.
    let (mut after, mut deleted, mut steps) = (None, 0, 0);
    loop {
        let step = world.store.expire_tasks(DAY, after, 2).await.expect("walked");
        deleted += step.deleted;
        after = step.next;
        steps += 1;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((deleted, steps), (2, 3));
    for task in [gone, with_key] {
        assert!(world.store.get_task(Scope::All, task).await.expect("read").is_none(), "{task}");
        for table in ["task_state", "attempts", "task_events"] {
            assert_eq!(world.count(&format!("SELECT count(*) FROM {table} WHERE task_id = '{task}'")).await, 0);
        }
    }
    for task in [holding, waiting, running, young] {
        assert!(world.store.get_task(Scope::All, task).await.expect("read").is_some(), "{task}");
    }
    // The logs of the two that stay.
    assert_eq!(world.count("SELECT count(*) FROM log_heads").await, 2);
    assert_eq!(world.count("SELECT count(*) FROM log_chunks").await, 2);
    assert_sound(&world).await;

    // The key still keeps a second task from being made, and a key of a task that is missing for no reason is still found.
    let again = world.store.submit_tasks(&[keyed("k", 1)]).await.expect("answered");
    assert_eq!(again, [Submitted::Replayed { id: with_key }]);
    world.database.execute(&format!("UPDATE idempotency_keys SET task_id = '{}'", uuid::Uuid::now_v7())).await;
    let counts = world.store.audit_counts().await.expect("counted");
    assert!(counts.contains(&("keys-name-tasks", 1)), "{counts:?}");

    let nothing = world.store.expire_tasks(DAY, None, 100).await.expect("walked");
    assert_eq!(nothing, ExpiredTasks { deleted: 0, next: None });
}

#[tokio::test]
async fn a_task_that_is_being_run_again_is_not_deleted() {
    let world = World::start().await;
    let node = world.node("one").await;
    let task = done(&world, node, true).await;
    age(&world).await;
    let task = two_days_older(task);
    let pool = world.database.pool().await;
    let mut retry = pool.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM task_state WHERE task_id = $1 FOR UPDATE")
        .bind(task.as_uuid())
        .execute(&mut *retry)
        .await
        .expect("locked");
    let step = world.store.expire_tasks(DAY, None, 100).await.expect("walked");
    assert_eq!(step, ExpiredTasks { deleted: 0, next: None });
    retry.rollback().await.expect("let go");
    world.store.retry_task(Scope::All, task, &origin()).await.expect("queued");
    let step = world.store.expire_tasks(DAY, None, 100).await.expect("walked");
    assert_eq!(step.deleted, 0);
    assert!(world.store.get_task(Scope::All, task).await.expect("read").is_some());
}
