//! What is shown of the platform's state: tasks, what waits, nodes.

use crate::world::{World, connect, new_node, new_task, origin, succeeded};
use domain::{
    ids::{NodeId, ProjectId},
    task::TaskState,
};
use serde_json::json;
use std::time::{Duration, Instant};
use store::{Census, Waiting};
use uuid::Uuid;

fn tasks(census: &Census) -> Vec<(&str, &str, u64)> {
    census.tasks.iter().map(|((project, state), tasks)| (project.as_str(), state.as_str(), *tasks)).collect()
}

#[tokio::test]
async fn a_census_tells_what_is_where_and_how_long_it_has_waited() {
    let world = World::start().await;
    let empty = world.store.census(50).await.expect("read");
    assert_eq!(tasks(&empty), []);
    assert!(empty.waiting.values().all(|waiting| *waiting == Waiting::default()) && empty.waiting.len() == 4);
    assert!(empty.nodes.values().all(|nodes| *nodes == 0) && empty.nodes.len() == 7);
    assert!(empty.database_bytes > 1_000_000, "{}", empty.database_bytes);

    let node = world.node("n").await;
    world.node("never heard again").await;
    let unused = NodeId::from_uuid(Uuid::now_v7());
    assert!(world.store.create_node_token(&new_node(unused, "not installed yet"), &origin()).await.expect("made"));
    world.database.execute("UPDATE node_live SET offline_since = now() WHERE node_id = (SELECT id FROM nodes WHERE name = 'never heard again')").await;
    let project = ProjectId::from_uuid(Uuid::from_u128(77));
    world.database.execute(&format!("INSERT INTO projects (id, slug) VALUES ('{project}', 'quiet')")).await;
    let held = world.start_on(world.submit(json!({})).await, node).await;
    world.report(node, held, succeeded()).await;
    world.start_on(world.submit(json!({})).await, node).await;
    let urgent = world.submit(json!({"priority": "urgent", "requirements": {"cpu_cores": 2}})).await;
    for priority in [json!("normal"), json!(7), json!(-50), json!(-1_000)] {
        world.submit(json!({"priority": priority})).await;
    }
    let mut of_other = new_task(json!({}));
    of_other.project = project;
    world.store.submit_tasks(&[of_other]).await.expect("accepted");
    world
        .database
        .execute(&format!("UPDATE task_state SET queued_at = now() - interval '1 hour' WHERE task_id = '{urgent}'"))
        .await;

    let census = world.store.census(50).await.expect("read");
    let expected =
        [("default", "pending", 5), ("default", "running", 1), ("default", "succeeded", 1), ("quiet", "pending", 1)];
    assert_eq!(tasks(&census), expected);
    let waiting = |word: &str| census.waiting.get(word).copied().unwrap_or_default();
    assert_eq!(["urgent", "high", "normal", "low"].map(|word| waiting(word).tasks), [1, 0, 3, 2]);
    assert!((3_600.0..3_700.0).contains(&waiting("urgent").oldest_s), "{census:?}");
    assert!((0.0..100.0).contains(&waiting("normal").oldest_s) && waiting("high").oldest_s == 0.0, "{census:?}");
    let nodes: Vec<_> =
        census.nodes.iter().filter(|(_, nodes)| **nodes > 0).map(|(state, nodes)| (state.as_str(), *nodes)).collect();
    assert_eq!(nodes, [("new", 1), ("offline", 1), ("ready", 1)]);

    // Who does the least is counted with the others.
    let one = world.store.census(1).await.expect("read");
    assert_eq!(one.tasks.get(&("other".to_owned(), TaskState::Pending)), Some(&1));
    assert!(!one.tasks.keys().any(|(project, _)| project == "quiet"));

    // Asked every few seconds, it may not read what is there because it is there.
    let of_tables = "FROM pg_stat_user_tables WHERE relname IN ('tasks', 'task_state', 'attempts')";
    let scanned = format!("SELECT COALESCE(sum(seq_tup_read), 0)::bigint {of_tables}");
    let looked_up = format!("SELECT COALESCE(sum(idx_scan), 0)::bigint {of_tables}");
    let looking = connect(&world.database).await;
    world.store.close().await;
    let (before, lookups) = (world.count(&scanned).await, world.count(&looked_up).await);
    looking.census(50).await.expect("read");
    looking.close().await;
    // A connection tells what it did when it ends, or some moment later.
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.count(&looked_up).await == lookups {
        assert!(Instant::now() < deadline, "what the census read was never told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.count(&scanned).await, before, "rows that were read because they were there");
}
