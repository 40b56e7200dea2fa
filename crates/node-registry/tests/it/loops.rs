//! What happens by itself. Silence is made by moving the last heartbeat into the past.

use crate::world::{World, eventually};
use domain::{
    attempt::Report,
    ids::{DEFAULT_PROJECT, NodeId, TaskId},
    node::{Admission, Presence},
    outcome::FailureKind,
    placement::Placement,
    principal::Scope,
    resources::Reservation,
    spec::parse_spec,
    task::TaskState,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use store::{LeaderRole, NewTask, NodeReport, SessionKey, Submitted};
use uuid::Uuid;

async fn submit(world: &World, body: Value) -> TaskId {
    let created_by = domain::principal::Origin::platform("test").principal.id;
    let spec = parse_spec(&body).expect("a good task");
    let new = NewTask { project: DEFAULT_PROJECT, created_by, spec, idempotency: None };
    match world.store.submit_tasks(&[new]).await.expect("accepted")[0] {
        Submitted::Accepted { id } => id,
        ref other => panic!("{other:?}"),
    }
}

async fn run_on(world: &World, task: TaskId, node: NodeId, session: SessionKey) {
    let leader =
        world.store.lead(LeaderRole::Scheduler, Uuid::from_u128(1), None).await.expect("asked").expect("leads");
    let plan = [Placement { task, node, reservation: Reservation::default() }];
    assert_eq!(world.store.commit_placements(&leader, &plan).await.expect("committed").placed, 1);
    let detail = world.store.get_task(Scope::All, task).await.expect("read").expect("there");
    let held = detail.attempts[0].row.held();
    let report = NodeReport { held, report: Report::Started };
    world.store.record_reports(session, &[report]).await.expect("recorded");
}

async fn is_queued(world: &World, task: TaskId) -> bool {
    world.store.get_task(Scope::All, task).await.expect("read").expect("there").view.queued
}

/// As if this server had been up and the node silent for so long.
async fn silence(world: &World, seconds: u32) {
    let past = format!("UPDATE node_live SET beat_at = now() - interval '{seconds} seconds'");
    world.database.execute(&past).await;
}

/// As an api-gateway does.
fn platform_is_there(world: &World) {
    let store = world.store.clone();
    world.service.repeat("presence", Duration::from_millis(200), Arc::default(), move || {
        let store = store.clone();
        async move { store.renew_presence(10_000).await.map(|()| service_kit::Pass::Idle) }
    });
}

/// Waits until the sweeper has begun another pass.
async fn a_sweep(world: &World) {
    world.database.execute("DROP TABLE IF EXISTS seen; CREATE TABLE seen AS SELECT now() AS at").await;
    eventually("another sweep", async || {
        let check = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM leader, seen WHERE role = 'sweeper' AND renewed_at > at) THEN RAISE EXCEPTION 'not yet'; END IF; END $$";
        world.database.try_execute(check).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn when_the_whole_fleet_falls_silent_an_alarm_is_raised_first() {
    let world = World::start().await;
    let mut sessions = Vec::new();
    for name in ["lab-1", "lab-2", "lab-3", "lab-4"] {
        sessions.push(world.node(name).await.1);
    }
    platform_is_there(&world);
    node_registry::run(
        &world.service,
        &node_registry::Config { offline_after_s: 4, ..Default::default() },
        world.store.clone(),
    );
    let offline = async || {
        let nodes = world.store.list_nodes(None, 10).await.expect("read");
        nodes
            .into_iter()
            .filter(|node| node.node.presence == Presence::Offline)
            .map(|node| node.node.name)
            .collect::<Vec<_>>()
    };
    let alarm = async || world.store.silence_alarm().await.expect("read");
    eventually("the alarm is raised", async || alarm().await.is_some()).await;
    let raised = alarm().await.expect("still");
    assert_eq!((raised.silent, raised.of, offline().await.len()), (4, 4, 0));
    // One of them is heard again, and goes on being heard.
    let (store, first) = (world.store.clone(), sessions[0]);
    world.service.repeat("heartbeats", Duration::from_millis(500), Arc::default(), move || {
        let store = store.clone();
        async move { store.heartbeat(&[(first, Default::default())]).await.map(|_| service_kit::Pass::Idle) }
    });
    eventually("the others are offline", async || offline().await == ["lab-2", "lab-3", "lab-4"]).await;
    assert!(world.store.now().await.expect("read") >= raised.until);
    assert_eq!(alarm().await, None);
    world.stop().await;
}

#[tokio::test]
async fn a_silent_node_goes_offline_and_its_task_is_queued_again() {
    let world = World::start().await;
    let (node, session) = world.node("lab-3").await;
    let task = submit(&world, json!({"command": ["ls"]})).await;
    run_on(&world, task, node, session).await;
    // The sweep counts from its own beginning: what was silent before is given its time anew. Ten seconds is the least.
    node_registry::run(
        &world.service,
        &node_registry::Config { offline_after_s: 1, ..Default::default() },
        world.store.clone(),
    );
    silence(&world, 3_600).await;
    let presence = async || world.store.find_node("lab-3").await.expect("read").expect("there").node.presence;
    // Nobody listens for nodes, so their silence says nothing.
    for _ in 0..3 {
        a_sweep(&world).await;
        assert_ne!(presence().await, Presence::Offline);
    }
    platform_is_there(&world);
    eventually("the node is offline", async || presence().await == Presence::Offline).await;
    eventually("the task is queued again", async || is_queued(&world, task).await).await;
    let detail = world.store.get_task(Scope::All, task).await.expect("read").expect("there");
    assert_eq!(detail.view.state, TaskState::Running, "until another node has it, it may be running on");
    world.stop().await;
}

#[tokio::test]
async fn a_task_whose_wait_is_over_fails() {
    let world = World::start().await;
    let late = submit(&world, json!({"command": ["ls"], "queue_timeout": "1ms"})).await;
    let patient = submit(&world, json!({"command": ["ls"], "queue_timeout": "1h"})).await;
    node_registry::run(&world.service, &node_registry::Config::default(), world.store.clone());
    let view = async |task| world.store.get_task(Scope::All, task).await.expect("read").expect("there").view;
    eventually("it failed", async || view(late).await.state == TaskState::Failed).await;
    let late = view(late).await;
    assert_eq!(late.failure, Some(FailureKind::QueueTimeout));
    assert!(late.message.starts_with("no node took it within its queue_timeout"), "{}", late.message);
    assert_eq!(view(patient).await.state, TaskState::Pending);
    world.stop().await;
}

#[tokio::test]
async fn a_draining_node_that_holds_nothing_is_drained_and_old_keys_are_forgotten() {
    let world = World::start().await;
    let (node, _) = world.node("lab-3").await;
    let origin = domain::principal::Origin::platform("test");
    world.store.drain_node(node, "", None, &origin).await.expect("set");
    world
        .database
        .execute(
            "INSERT INTO idempotency_keys (project_id, key, created_by, request_hash, task_id, created_at)
             SELECT id, key, id, '', id, now() - age FROM projects, (VALUES ('old', interval '8 days'), ('new', interval '6 days')) AS k(key, age)",
        )
        .await;
    node_registry::run(&world.service, &node_registry::Config::default(), world.store.clone());
    eventually("the node is drained", async || {
        world.store.find_node("lab-3").await.expect("read").expect("there").node.admission == Admission::Drained
    })
    .await;
    eventually("the old key is forgotten", async || {
        let check = "DO $$ BEGIN IF (SELECT string_agg(key, ',') FROM idempotency_keys) <> 'new' THEN RAISE EXCEPTION 'not yet'; END IF; END $$";
        world.database.try_execute(check).await.is_ok()
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn of_two_registries_one_sweeps_and_the_other_takes_over_at_once_when_it_stops() {
    let world = World::start().await;
    let (one, two) = (service_kit::Service::new(), service_kit::Service::new());
    node_registry::run(&one, &node_registry::Config::default(), world.store.clone());
    let is_true = async |condition: &str| {
        let check = format!("DO $$ BEGIN IF NOT ({condition}) THEN RAISE EXCEPTION 'not yet'; END IF; END $$");
        world.database.try_execute(&check).await.is_ok()
    };
    let leads = "EXISTS (SELECT FROM leader WHERE role = 'sweeper' AND renewed_at > now() - interval '4 seconds')";
    eventually("the first leads", async || is_true(leads).await).await;
    world.database.execute("CREATE TABLE first AS SELECT holder FROM leader WHERE role = 'sweeper'").await;
    node_registry::run(&two, &node_registry::Config::default(), world.store.clone());
    assert!(one.stop_within(std::time::Duration::from_secs(5)).await);
    let began = std::time::Instant::now();
    let other_leads = "(SELECT holder FROM leader WHERE role = 'sweeper') <> (SELECT holder FROM first)";
    eventually("the second leads", async || is_true(other_leads).await).await;
    assert!(
        began.elapsed() < std::time::Duration::from_secs(3),
        "without the four seconds that a silent leader is given"
    );
    assert!(two.stop_within(std::time::Duration::from_secs(5)).await);
    world.stop().await;
}
