//! Plans outlive the sizes that they were made for.

use crate::world::{World, new_task, placement, succeeded};
use domain::attempt::Report;
use serde_json::json;
use std::time::{Duration, Instant};
use store::{LeaderRole, NodeReport, Submitted};

#[tokio::test]
async fn what_a_task_costs_does_not_grow_with_what_was_there_before() {
    let world = World::start().await;
    let node = world.node("n").await;
    // On empty tables each statement gets the plan that its connection keeps.
    for _ in 0..8 {
        let task = world.submit(json!({})).await;
        let held = world.start_on(task, node).await;
        for report in [succeeded(), Report::Released] {
            world.report(node, held, report).await;
        }
    }
    let batch: Vec<_> = (0..40).map(|_| new_task(json!({}))).collect();
    let answers = world.store.submit_tasks(&batch).await.expect("accepted");
    let tasks = answers.iter().map(|answer| match answer {
        Submitted::Accepted { id } => *id,
        other => panic!("{other:?}"),
    });
    let plan: Vec<_> = tasks.map(|task| placement(task, node)).collect();
    let leader = world.leads(LeaderRole::Scheduler).await;
    let placed = world.store.lease_tasks(&leader, &plan).await.expect("committed");
    assert_eq!(placed.len(), plan.len());
    let mut reports = Vec::new();
    for task in placed.keys() {
        let held = world.held(*task).await;
        reports.extend([succeeded(), Report::Released].map(|report| NodeReport { held, report }));
    }
    world.store.record_reports(node.session, &reports).await.expect("recorded");
    // A connection tells what it did at the latest when it ends, which is some moment after it was told to.
    world.store.close().await;
    let tables = "relname IN ('tasks', 'task_state', 'attempts', 'task_events')";
    let inserted = format!("SELECT sum(n_tup_ins)::bigint FROM pg_stat_user_tables WHERE {tables}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.count(&inserted).await != 8 * 9 + 40 * 6 {
        assert!(Instant::now() < deadline, "not all has been told: {}", world.count(&inserted).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let scanned = format!("SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE {tables}");
    assert_eq!(world.count(&scanned).await, 0, "rows that were read because they were there");
}
