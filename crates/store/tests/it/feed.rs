//! The feed of all tasks' events: read on from any place, nothing is missing and nothing comes twice.

use crate::world::{World, connect, other_project, succeeded};
use domain::{attempt::Report, ids::TaskId, principal::Scope};
use serde_json::json;
use sqlx::Executor;
use store::{FeedCursor, FeedPage, Store};

async fn page(store: &Store, place: &FeedCursor, limit: i64) -> FeedPage {
    // As a reader that comes back holds it: as text.
    let place = place.to_string().parse().expect("a place");
    store.feed_after(Scope::All, &place, limit).await.expect("read")
}

/// Everything after a place, in pages of this size: the numbers, and where it ends.
async fn rest(store: &Store, mut place: FeedCursor, limit: i64) -> (Vec<(TaskId, i64)>, FeedCursor) {
    let mut all = Vec::new();
    loop {
        let page = page(store, &place, limit).await;
        all.extend(page.entries.iter().map(|entry| (entry.task, entry.seq)));
        place = page.next;
        if !page.has_more {
            return (all, place);
        }
    }
}

fn entry_of(task: TaskId) -> String {
    format!(
        "INSERT INTO task_events (task_id, project_id, state, events) SELECT task_id, project_id, state, '[]' FROM task_state WHERE task_id = '{task}'"
    )
}

#[tokio::test]
async fn an_entry_that_is_committed_late_with_a_lower_number_is_not_lost() {
    let world = World::start().await;
    let (slow, fast) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let begin = world.store.feed_end().await.expect("a place");
    let pool = world.database.pool().await;
    let mut late = pool.begin().await.expect("begun");
    late.execute(sqlx::AssertSqlSafe(entry_of(slow))).await.expect("written");
    world.database.execute(&entry_of(fast)).await;

    let (first, place) = rest(&world.store, begin.clone(), 10).await;
    assert_eq!(first.iter().map(|(task, _)| *task).collect::<Vec<_>>(), [fast], "the other is not committed");
    late.commit().await.expect("committed");
    let (second, _) = rest(&world.store, place, 10).await;
    assert_eq!(second.iter().map(|(task, _)| *task).collect::<Vec<_>>(), [slow]);
    let highest_seen = first[0].1;
    assert!(second[0].1 < highest_seen, "a cursor of numbers alone would have lost it");
    // Read at once from the beginning: both, in the order of their numbers.
    let (both, _) = rest(&world.store, begin, 10).await;
    assert_eq!(both, [second, first].concat());
}

#[tokio::test]
async fn entries_of_one_task_come_in_their_order_whichever_transaction_is_older() {
    let world = World::start().await;
    let (a, b) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let mut place = world.store.feed_end().await.expect("a place");
    let pool = world.database.pool().await;
    // The older transaction gets its number and then waits for the row that the younger one holds.
    let mut older = pool.begin().await.expect("begun");
    older
        .execute(sqlx::AssertSqlSafe(format!("UPDATE task_state SET message = 'older' WHERE task_id = '{b}'")))
        .await
        .expect("locked");
    let mut younger = pool.begin().await.expect("begun");
    younger
        .execute(sqlx::AssertSqlSafe(format!("SELECT FROM task_state WHERE task_id = '{a}' FOR UPDATE")))
        .await
        .expect("locked");
    younger.execute(sqlx::AssertSqlSafe(entry_of(a))).await.expect("written");
    younger.commit().await.expect("committed");
    let mut seen = Vec::new();
    let (now, next) = rest(&world.store, place, 1).await;
    seen.extend(now);
    place = next;
    older
        .execute(sqlx::AssertSqlSafe(format!("SELECT FROM task_state WHERE task_id = '{a}' FOR UPDATE")))
        .await
        .expect("locked");
    older.execute(sqlx::AssertSqlSafe(entry_of(a))).await.expect("written");
    older.commit().await.expect("committed");
    seen.extend(rest(&world.store, place, 1).await.0);
    assert_eq!(seen.len(), 2);
    assert!(seen[0].1 < seen[1].1, "{seen:?}");
    // A task's own history is in that order too, so a number is place enough there.
    let history = world.store.task_history(Scope::All, a, 0, 100).await.expect("read");
    assert_eq!(
        history[1..].iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        seen.iter().map(|(_, seq)| *seq).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn who_was_away_for_long_gets_each_tasks_entries_in_their_order() {
    let world = World::start().await;
    let (a, filler) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let begin = world.store.feed_end().await.expect("a place");
    let pool = world.database.pool().await;
    let fill = async |count: usize| {
        for _ in 0..count {
            pool.execute(sqlx::AssertSqlSafe(entry_of(filler))).await.expect("written");
        }
    };
    let mut expected = 0;
    for between in [10, 450, 900] {
        // The older transaction has its number before many others, and writes after the last of them.
        let mut older = pool.begin().await.expect("begun");
        older.execute("SELECT pg_current_xact_id()").await.expect("a number");
        fill(between).await;
        pool.execute(sqlx::AssertSqlSafe(entry_of(a))).await.expect("written");
        older.execute(sqlx::AssertSqlSafe(entry_of(a))).await.expect("written");
        older.commit().await.expect("committed");
        fill(120).await;
        // And one with more entries than a window has.
        let many = entry_of(filler).replace(" WHERE", ", generate_series(1, 700) WHERE");
        pool.execute(sqlx::AssertSqlSafe(many)).await.expect("written");
        expected += between + 2 + 120 + 700;
    }
    for place in [begin, FeedCursor::beginning()] {
        for limit in [37, 200, 5_000] {
            let (all, end) = rest(&world.store, place.clone(), limit).await;
            let unique: std::collections::BTreeSet<i64> = all.iter().map(|(_, seq)| *seq).collect();
            let before = if place == FeedCursor::beginning() { 2 } else { 0 };
            assert_eq!((all.len(), unique.len()), (expected + before, expected + before), "pages of {limit}");
            for task in [a, filler] {
                let of: Vec<i64> = all.iter().filter(|(of, _)| *of == task).map(|(_, seq)| *seq).collect();
                assert!(of.is_sorted(), "pages of {limit}");
            }
            assert_eq!(rest(&world.store, end, limit).await.0, []);
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_anywhere_goes_on_there() {
    let world = World::start().await;
    let begin = world.store.feed_end().await.expect("a place");
    let node = world.node("one").await;
    for _ in 0..3 {
        let task = world.submit(json!({})).await;
        let held = world.start_on(task, node).await;
        for report in [succeeded(), Report::Released] {
            world.report(node, held, report).await;
        }
    }
    let (all, end) = rest(&world.store, begin.clone(), 1_000).await;
    assert!(all.len() >= 15, "{all:?}");
    for size in [1, 2, 7] {
        assert_eq!(rest(&world.store, begin.clone(), size).await.0, all, "in pages of {size}");
    }
    let whole = page(&world.store, &begin, 1_000).await;
    for seen in 0..=all.len() {
        assert_eq!(rest(&world.store, whole.place_after(seen), 4).await.0, all[seen..], "after {seen}");
    }
    assert_eq!(rest(&world.store, end.clone(), 10).await.0, []);
    // Another process before the same database goes on at the same place; others' tasks are nobody's.
    let other = connect(&world.database).await;
    let last = world.submit(json!({})).await;
    assert_eq!(rest(&other, end, 10).await.0.iter().map(|(task, _)| *task).collect::<Vec<_>>(), [last]);
    let theirs = world.store.feed_after(other_project(), &begin, 10).await.expect("read");
    assert_eq!(theirs.entries, []);
}

#[tokio::test]
async fn many_writers_at_once_lose_nothing() {
    let world = World::start().await;
    let begin = world.store.feed_end().await.expect("a place");
    let writers = (0..6).map(|_| async {
        for _ in 0..20 {
            world.submit(json!({})).await;
        }
    });
    let mut seen = Vec::new();
    let mut place = begin;
    let mut writers = std::pin::pin!(futures::future::join_all(writers));
    let mut is_done = false;
    while !is_done {
        tokio::select! {
            _ = &mut writers => is_done = true,
            (more, next) = rest(&world.store, place.clone(), 5) => {
                seen.extend(more);
                place = next;
            }
        }
    }
    seen.extend(rest(&world.store, place, 5).await.0);
    let mut unique = seen.clone();
    unique.sort_by_key(|(_, seq)| *seq);
    unique.dedup();
    assert_eq!((seen.len(), unique.len()), (120, 120));
}
