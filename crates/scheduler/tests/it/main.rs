//! Schedulers on a real database that tells them nothing: no wake-up is delivered, and leaders freeze.

mod turns;

use domain::{
    attempt::Report,
    ids::{DEFAULT_PROJECT, Held, InstanceId, NodeId, NodeTokenId, PrincipalId, TaskId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, FailureKind},
    placement::Placement,
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    resources::{Capacity, Reservation},
    spec::parse_spec,
    task::TaskState,
};
use serde_json::json;
use service_kit::Service;
use std::time::{Duration, Instant};
use store::{
    DatabaseConfig, LeaderRole, NewNodeToken, NewTask, NodeReport, OpenSession, Opened, ReportVerdict, SessionKey,
    Store, StoreError, Submitted,
};
use test_kit::database::TestDatabase;
use uuid::Uuid;

/// As another process: what it publishes is heard by nobody else, since nothing carries wake-ups from store to store.
async fn connect(database: &TestDatabase) -> Store {
    let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 4, shared: false };
    Store::connect_unchecked(&config).await.expect("connected")
}

async fn node(store: &Store) -> NodeId {
    node_for(store, 0).await.node
}

/// That takes so many tasks at once; 0: as many as fit.
async fn node_for(store: &Store, max_tasks: u32) -> SessionKey {
    let id = NodeId::from_uuid(Uuid::now_v7());
    let new = NewNodeToken {
        id: NodeTokenId::from_uuid(id.as_uuid()),
        node: id,
        project: DEFAULT_PROJECT,
        created_by: CREATOR,
        name: format!("n{id}"),
        secret_hash: vec![1; 32],
    };
    assert!(store.create_node_token(&new, &origin()).await.expect("made"));
    let capacity = Capacity { cpu_millis: 64_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40, gpus: Vec::new() };
    let executors = [("process".to_owned(), "1".to_owned())].into();
    let hello = OpenSession {
        node: id,
        instance: InstanceId::from_uuid(Uuid::now_v7()),
        facts: NodeFacts { capacity, executors, platform: "linux".into(), max_tasks, ..NodeFacts::default() },
        metrics: NodeMetrics::default(),
        attempts: Vec::new(),
        complete_executors: ["process".to_owned()].into(),
        newest_epoch: i64::MAX,
    };
    match store.open_session(&hello).await.expect("opened") {
        Opened::Session { key, .. } => key,
        other => panic!("{other:?}"),
    }
}

const CREATOR: PrincipalId = PrincipalId::from_uuid(Uuid::from_u128(5));

fn origin() -> Origin {
    let principal =
        Principal { kind: PrincipalKind::ApiKey, id: CREATOR, name: "ana".into(), role: Role::Admin, project: None };
    Origin { principal, address: "test".into(), request_id: "test".into() }
}

/// What the task's only attempt is.
async fn held(store: &Store, task: TaskId) -> Held {
    store.get_task(Scope::All, task).await.expect("read").expect("there").attempts[0].row.held()
}

/// It is refused there, and gives back what it held.
async fn give_back(store: &Store, session: SessionKey, held: Held) {
    let ending = Ending::failed(FailureKind::BuildFailed, "it says no");
    let reports = [Report::Ended { ending }, Report::Released];
    let batch: Vec<NodeReport> = reports.into_iter().map(|report| NodeReport { held, report }).collect();
    let verdicts = store.record_reports(session, &batch).await.expect("recorded");
    assert_eq!(verdicts, [ReportVerdict::Recorded; 2]);
}

async fn submit(store: &Store) -> TaskId {
    submit_with(store, "normal").await
}

async fn submit_with(store: &Store, priority: &str) -> TaskId {
    let spec = parse_spec(&json!({"command": ["ls"], "priority": priority})).expect("a good task");
    let new = NewTask { project: DEFAULT_PROJECT, created_by: CREATOR, spec, idempotency: None };
    match store.submit_tasks(&[new]).await.expect("accepted")[..] {
        [Submitted::Accepted { id }] => id,
        ref other => panic!("{other:?}"),
    }
}

/// Waits for the task's placement.
async fn placed_within(store: &Store, task: TaskId, limit: Duration) -> Duration {
    let began = Instant::now();
    while store.get_task(Scope::All, task).await.expect("read").expect("there").view.state != TaskState::Assigned {
        assert!(began.elapsed() < limit, "not placed within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn without_any_wake_up_a_task_is_placed_within_about_a_second() {
    let database = TestDatabase::create().await;
    let (here, there) = (connect(&database).await, connect(&database).await);
    node(&here).await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), there);
    placed_within(&here, submit(&here).await, Duration::from_secs(10)).await;
    for _ in 0..3 {
        // The interval and its jitter, and a busy machine.
        placed_within(&here, submit(&here).await, Duration::from_millis(2_500)).await;
    }
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn an_urgent_task_is_leased_before_all_others_that_wait() {
    let database = TestDatabase::create().await;
    let store = connect(&database).await;
    node(&store).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(submit(&store).await);
    }
    let urgent = submit_with(&store, "urgent").await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), store.clone());
    let placed_at = async |task: TaskId| {
        placed_within(&store, task, Duration::from_secs(10)).await;
        store.get_task(Scope::All, task).await.expect("read").expect("there").attempts[0].row.placed_at
    };
    let first = placed_at(urgent).await;
    for other in others {
        // Of another transaction, so that whoever hears of the urgent one waits for no other's.
        assert!(first < placed_at(other).await);
    }
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_a_task_gives_back_goes_to_the_next_at_once() {
    let database = TestDatabase::create().await;
    let store = connect(&database).await;
    let session = node_for(&store, 1).await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config { placement_every_ms: 60_000, ..Default::default() }, store.clone());
    let mut running = submit(&store).await;
    placed_within(&store, running, Duration::from_secs(10)).await;
    for _ in 0..5 {
        let next = submit(&store).await;
        give_back(&store, session, held(&store, running).await).await;
        // No look at all nodes comes that early.
        placed_within(&store, next, Duration::from_secs(3)).await;
        running = next;
    }
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_nobody_told_the_scheduler_costs_time_and_no_task() {
    let database = TestDatabase::create().await;
    let (here, deaf) = (connect(&database).await, connect(&database).await);
    let first = node_for(&here, 1).await;
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), deaf);
    let running = submit(&here).await;
    placed_within(&here, running, Duration::from_secs(10)).await;
    // Room that it has not heard of is found on the way round.
    let next = submit(&here).await;
    give_back(&here, first, held(&here, running).await).await;
    placed_within(&here, next, Duration::from_secs(15)).await;
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_node_that_takes_nothing_any_more_costs_a_commit_in_vain_and_no_task() {
    let database = TestDatabase::create().await;
    let (here, deaf) = (connect(&database).await, connect(&database).await);
    let (first, second) = (node_for(&here, 0).await, node_for(&here, 0).await);
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), deaf);
    let task = submit(&here).await;
    placed_within(&here, task, Duration::from_secs(10)).await;
    let node_of =
        async |task| here.get_task(Scope::All, task).await.expect("read").expect("there").attempts[0].row.node;
    assert_eq!(node_of(task).await, first.node);
    // The other one has less to do, as far as the scheduler knows.
    assert!(here.drain_node(second.node, "", None, &origin()).await.expect("set"));
    let next = submit(&here).await;
    placed_within(&here, next, Duration::from_millis(3_500)).await;
    assert_eq!(node_of(next).await, first.node);
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_standby_places_within_5_seconds_after_its_leader_froze_with_the_leaders_row_locked() {
    let database = TestDatabase::create().await;
    let (here, frozen_store) = (connect(&database).await, connect(&database).await);
    let node = node(&here).await;
    let task = submit(&here).await;
    let leader = here.lead(LeaderRole::Scheduler, Uuid::from_u128(1), None).await.expect("asked").expect("leads");
    let is_locked = async |table: &str| {
        let look = format!("SELECT FROM {table} FOR UPDATE NOWAIT");
        while database.try_execute(&look).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Somebody has the task's row for a while, so the placement is stopped behind its first statement, the leader's row locked.
    let plan = [Placement { task, node, reservation: Reservation::default() }];
    let mut frozen = Box::pin(frozen_store.commit_placements(&leader, &plan));
    let someone = database.execute("BEGIN; SELECT FROM task_state FOR UPDATE; SELECT pg_sleep(1); ROLLBACK");
    tokio::join!(someone, async {
        is_locked("task_state").await;
        tokio::select! {
            done = &mut frozen => panic!("{done:?}"),
            () = is_locked("leader") => {}
        }
    });
    let service = Service::new();
    scheduler::run(&service, &scheduler::Config::default(), connect(&database).await);
    // Never polled again until then: as a process that was stopped. It froze a second ago.
    placed_within(&here, task, Duration::from_millis(4_500)).await;
    assert!(frozen.await.is_err());
    let again = frozen_store.commit_placements(&leader, &plan).await;
    assert!(matches!(again, Err(StoreError::NotLeader)), "{again:?}");
    assert_eq!(here.get_task(Scope::All, task).await.expect("read").expect("there").attempts.len(), 1);
    assert!(service.stop_within(Duration::from_secs(5)).await);
}
