//! Plans outlive the sizes that they were made for.

use crate::world::{World, connect, new_task, placement, succeeded};
use domain::attempt::Report;
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use store::{LeaderRole, Look, NodeReport, Submitted};

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

#[tokio::test]
async fn what_is_asked_of_many_nodes_grows_with_what_is_theirs_although_its_plan_is_of_a_time_when_nothing_ran() {
    const NODES: usize = 50;
    const EACH: usize = 8;
    let world = World::start().await;
    // Of what is known to be empty each index seems the same to the planner, walked through or searched.
    world.database.execute("ANALYZE").await;
    let looking = connect(&world.database).await;
    looking.liveness().await.expect("read");
    let batch: Vec<_> = (0..NODES * EACH).map(|_| new_task(json!({}))).collect();
    let tasks = world.store.submit_tasks(&batch).await.expect("accepted");
    let (mut plan, mut nodes) = (Vec::new(), BTreeMap::new());
    for (at, tasks) in tasks.chunks(EACH).enumerate() {
        let node = world.node(&format!("n{at}")).await;
        nodes.insert(node.id, None);
        plan.extend(tasks.iter().map(|task| match task {
            Submitted::Accepted { id } => placement(*id, node),
            other => panic!("{other:?}"),
        }));
    }
    let leader = world.leads(LeaderRole::Scheduler).await;
    assert_eq!(world.store.lease_tasks(&leader, &plan).await.expect("committed").len(), plan.len());
    assert_eq!(looking.liveness().await.expect("read").nodes.len(), NODES);
    let told = looking.outboxes(&nodes, &[], Look::New).await.expect("read");
    assert_eq!(told.values().map(|outbox| outbox.items.len()).sum::<usize>(), plan.len());
    let read = looking.read_nodes(&nodes.keys().copied().collect()).await.expect("read");
    assert_eq!(read.iter().map(|node| node.held.len()).sum::<usize>(), plan.len());
    looking.close().await;
    world.store.close().await;
    // What a connection did is told when it ends.
    let deadline = Instant::now() + Duration::from_secs(10);
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'unidesk'";
    while world.count(open).await > 0 {
        assert!(Instant::now() < deadline, "connections do not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'attempts'";
    let read = world.count(read).await;
    assert!(read < (5 * NODES * EACH) as i64, "{read} entries of indexes were read, {} are held", NODES * EACH);
}
