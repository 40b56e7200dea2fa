//! Whose turn it is, with a real queue: projects share the room, and what has waited for long is not forgotten.

use super::*;
use domain::ids::ProjectId;
use std::collections::BTreeSet;
use store::TaskFilter;

const VISION: ProjectId = ProjectId::from_uuid(Uuid::from_u128(2));

async fn submit_many(store: &Store, project: ProjectId, priority: &str, many: usize) -> Vec<TaskId> {
    let spec = parse_spec(&json!({"command": ["ls"], "priority": priority})).expect("a good task");
    let new = NewTask { project, created_by: CREATOR, spec, idempotency: None };
    let answers = store.submit_tasks(&vec![new; many]).await.expect("accepted");
    let ids = answers.into_iter().map(|answer| match answer {
        Submitted::Accepted { id } => id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

/// What is placed, once it is so many.
async fn placed(store: &Store, many: usize) -> BTreeSet<TaskId> {
    let filter = TaskFilter { states: vec![TaskState::Assigned], ..TaskFilter::default() };
    let began = Instant::now();
    loop {
        let page = store.list_tasks(Scope::All, &filter, None, 100).await.expect("listed");
        if page.tasks.len() >= many {
            return page.tasks.into_iter().map(|task| task.id).collect();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{} placed", page.tasks.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_project_that_comes_late_waits_for_nobody_elses_queue() {
    let database = TestDatabase::create().await;
    database.execute(&format!("INSERT INTO projects (id, slug) VALUES ('{VISION}', 'vision')")).await;
    let store = connect(&database).await;
    let session = node_for(&store, 4).await;
    submit_many(&store, DEFAULT_PROJECT, "normal", 1_000).await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), store.clone());
    let first = placed(&store, 4).await;
    // It has nothing, and gets what is given back until it has as much.
    let theirs: BTreeSet<TaskId> = submit_many(&store, VISION, "normal", 10).await.into_iter().collect();
    for (n, task) in first.iter().take(2).enumerate() {
        give_back(&store, session, held(&store, *task).await).await;
        let now_placed = placed(&store, 4).await;
        assert_eq!(now_placed.intersection(&theirs).count(), n + 1, "as soon as there is room");
    }
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

/// How many urgent ones are placed before the low one that is behind them, up to so many.
async fn urgent_ones_before_an_old_low_one(priority_ageing: u64, limit: usize) -> usize {
    let database = TestDatabase::create().await;
    let store = connect(&database).await;
    let session = node_for(&store, 1).await;
    let low = submit_many(&store, DEFAULT_PROJECT, "low", 1).await[0];
    database.execute("UPDATE task_state SET queued_at = now() - interval '2 hours'").await;
    submit_many(&store, DEFAULT_PROJECT, "urgent", 1_000).await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config { priority_ageing, ..Default::default() }, store.clone());
    let mut before = 0;
    while before < limit {
        let one = placed(&store, 1).await.pop_first().expect("one");
        if one == low {
            break;
        }
        before += 1;
        give_back(&store, session, held(&store, one).await).await;
    }
    assert!(service.stop_within(Duration::from_secs(5)).await);
    before
}

#[tokio::test]
async fn a_low_task_that_has_waited_long_is_leased_after_a_bounded_number_of_urgent_ones() {
    let before = urgent_ones_before_an_old_low_one(3_600, 500).await;
    assert!((7..500).contains(&before), "{before} came first");
}

#[tokio::test]
async fn with_ageing_turned_off_priority_alone_counts() {
    assert_eq!(urgent_ones_before_an_old_low_one(0, 30).await, 30);
}
