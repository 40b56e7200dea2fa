//! A store with a database of its own, and short words for what a scheduler and a node do.

use bytes::Bytes;
use domain::{
    Timestamp,
    attempt::{AttemptState, Report},
    ids::{DEFAULT_PROJECT, Held, InstanceId, NodeId, NodeTokenId, PrincipalId, ProjectId, TaskId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    placement::{Head, Placement},
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    reconcile::HeldAttempt,
    resources::{Capacity, Reservation},
    spec::parse_spec,
    sweep::Findings,
    task::TaskState,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use store::{
    CommitReport, DatabaseConfig, IdempotencyKey, LeaderRole, Leadership, LogPiece, NewNodeToken, NewTask, NodeReport,
    OpenSession, Opened, QueueLook, ReportVerdict, SessionKey, Store, StoreError, Submitted, TaskDetail,
};
use test_kit::database::TestDatabase;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) database: TestDatabase,
}

#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) session: SessionKey,
}

impl World {
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let store = connect(&database).await;
        Self { store, database }
    }

    pub(crate) async fn submit(&self, body: Value) -> TaskId {
        match self.store.submit_tasks(&[new_task(body)]).await.expect("accepted")[..] {
            [Submitted::Accepted { id }] => id,
            ref other => panic!("{other:?}"),
        }
    }
    pub(crate) async fn task(&self, id: TaskId) -> TaskDetail {
        self.store.get_task(Scope::All, id).await.expect("read").expect("there")
    }
    pub(crate) async fn state(&self, id: TaskId) -> TaskState {
        self.task(id).await.view.state
    }
    /// What the task's last attempt holds.
    pub(crate) async fn held(&self, id: TaskId) -> Held {
        self.task(id).await.attempts.last().expect("an attempt").row.held()
    }

    /// One statement's number.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        let pool = self.database.pool().await;
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned())).fetch_one(&pool).await.expect("a number")
    }

    pub(crate) async fn node(&self, name: &str) -> Node {
        let (id, instance) = (NodeId::from_uuid(Uuid::now_v7()), InstanceId::from_uuid(Uuid::now_v7()));
        assert!(self.store.create_node_token(&new_node(id, name), &origin()).await.expect("made"));
        match self.store.open_session(&hello(id, instance, &[])).await.expect("opened") {
            Opened::Session { key, .. } => Node { id, instance, session: key },
            other => panic!("{other:?}"),
        }
    }

    /// The first waiting tasks of every class, so many of each.
    pub(crate) async fn heads(&self, wanted: i64) -> Vec<Head> {
        self.store.queue_heads(&QueueLook::of_all(wanted), &mut BTreeMap::new()).await.expect("read").heads
    }
    pub(crate) async fn leads(&self, role: LeaderRole) -> Leadership {
        self.store.lead(role, Uuid::from_u128(9), None).await.expect("asked").expect("leads")
    }
    pub(crate) async fn commit(&self, task: TaskId, node: Node) -> Result<CommitReport, StoreError> {
        let leader = self.leads(LeaderRole::Scheduler).await;
        self.store.commit_placements(&leader, &[placement(task, node)]).await
    }
    pub(crate) async fn place(&self, task: TaskId, node: Node) -> Held {
        assert_eq!(self.commit(task, node).await.expect("committed"), CommitReport { placed: 1, stale: 0 });
        self.held(task).await
    }
    pub(crate) async fn report(&self, node: Node, held: Held, report: Report) -> ReportVerdict {
        let answers = self.store.record_reports(node.session, &[NodeReport { held, report }]).await.expect("answered");
        answers[0]
    }
    /// Its process runs there.
    pub(crate) async fn start_on(&self, task: TaskId, node: Node) -> Held {
        let held = self.place(task, node).await;
        for report in [Report::Accepted, Report::Preparing, Report::Started] {
            assert_eq!(self.report(node, held, report).await, ReportVerdict::Recorded);
        }
        held
    }
    /// The node is offline, by the sweep, and what it has may be placed again.
    pub(crate) async fn lose(&self, node: Node) {
        self.database
            .execute(&format!(
                "UPDATE node_live SET offline_since = now() - interval '1 second', offline_at_ms = (SELECT seen_ms FROM sweep) - 1000, connected = false WHERE node_id = '{}'",
                node.id
            ))
            .await;
        self.replace().await;
    }
    /// Queues what may be replaced now.
    pub(crate) async fn replace(&self) -> usize {
        let leader = self.leads(LeaderRole::Sweeper).await;
        self.store.queue_replaceable(&leader, 100).await.expect("queued")
    }
    /// Sweeps go on, and measure that so much time has passed.
    pub(crate) async fn pass_time(&self, seconds: u64) {
        let leader = self.leads(LeaderRole::Sweeper).await;
        let seen = self.store.liveness().await.expect("read");
        let findings = Findings { seen_ms: seen.seen_ms + seconds * 1_000, ..Findings::default() };
        self.store.record_sweep(&leader, seen.now, &findings).await.expect("swept");
    }
    /// A sweep that finds this node silent, by what is known of it now.
    pub(crate) async fn find_silent(&self, node: Node) -> (Timestamp, Findings) {
        let seen = self.store.liveness().await.expect("read");
        (seen.now, Findings { offline: vec![(node.id, seen.nodes[&node.id])], ..Findings::default() })
    }
}

pub(crate) async fn connect(database: &TestDatabase) -> Store {
    let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 8, shared: false };
    Store::connect_unchecked(&config).await.expect("connected")
}

pub(crate) fn new_task(mut body: Value) -> NewTask {
    if body["command"].is_null() {
        body["command"] = json!(["ls"]);
    }
    let spec = parse_spec(&body).expect("a good task");
    NewTask { project: DEFAULT_PROJECT, created_by: origin().principal.id, spec, idempotency: None }
}
pub(crate) fn keyed(key: &str, hash: u8) -> NewTask {
    NewTask {
        idempotency: Some(IdempotencyKey { key: key.into(), place: None, request_hash: [hash; 32] }),
        ..new_task(json!({}))
    }
}
pub(crate) fn new_node(node: NodeId, name: &str) -> NewNodeToken {
    NewNodeToken {
        id: NodeTokenId::from_uuid(node.as_uuid()),
        node,
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        name: name.into(),
        secret_hash: vec![1; 32],
    }
}
pub(crate) fn hello(node: NodeId, instance: InstanceId, attempts: &[Held]) -> OpenSession {
    // Room for all that a test may want: those about room say how much there is.
    let capacity = Capacity { cpu_millis: 1 << 30, memory_bytes: 1 << 50, disk_bytes: 1 << 50, gpus: Vec::new() };
    let executors = [("process".to_owned(), "1".to_owned())].into();
    OpenSession {
        node,
        instance,
        facts: NodeFacts { capacity, executors, platform: "linux".into(), ..NodeFacts::default() },
        metrics: NodeMetrics::default(),
        attempts: attempts.iter().map(|held| HeldAttempt::new(*held, AttemptState::Running)).collect(),
        complete_executors: BTreeSet::from(["process".to_owned()]),
        newest_epoch: i64::MAX,
    }
}
pub(crate) fn placement(task: TaskId, node: Node) -> Placement {
    let reservation = Reservation { cpu_millis: 1_000, memory_bytes: 512 << 20, ..Reservation::default() };
    Placement { task, node: node.id, reservation }
}
pub(crate) fn exited(code: i32) -> Report {
    Report::Exited { exit: ExitFacts { code: Some(code), ..ExitFacts::default() } }
}
pub(crate) fn succeeded() -> Report {
    let ending =
        Ending { failure: None, message: String::new(), exit: None, planned_stop: false, log: LogTotals::default() };
    Report::Ended { ending }
}
pub(crate) fn failed(kind: FailureKind) -> Report {
    Report::Ended { ending: Ending::failed(kind, "so it was") }
}
pub(crate) fn piece(held: Held, stream: u8, start: u64, data: &[u8]) -> LogPiece {
    LogPiece { held, stream, start, data: Bytes::copy_from_slice(data), gap: None }
}
pub(crate) fn other_project() -> Scope {
    Scope::Project(ProjectId::from_uuid(Uuid::from_u128(404)))
}
pub(crate) fn origin() -> Origin {
    let id = PrincipalId::from_uuid(Uuid::from_u128(5));
    let principal = Principal { kind: PrincipalKind::ApiKey, id, name: "ana".into(), role: Role::Admin, project: None };
    Origin { principal, address: "192.0.2.7".into(), request_id: "r-1".into() }
}
