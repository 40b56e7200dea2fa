//! A server with a database of its own, callers with keys, and nodes that do what a test says.

use axum::Extension;
use bytes::Bytes;
use domain::{
    attempt::Report,
    ids::{ApiKeyId, DEFAULT_PROJECT, Held, InstanceId, NodeId, NodeTokenId, ProjectId, TaskId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    placement::Placement,
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    resources::{Capacity, Gpu, Reservation},
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use service_kit::{
    Service,
    secret::{self, Kind},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{
    DatabaseConfig, LeaderRole, LogArchive, LogPiece, NewApiKey, NewNodeToken, NodeReport, OpenSession, Opened,
    SessionKey, Store,
};
use test_kit::{database::TestDatabase, pg_proxy::PgProxy};
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) store: Store,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// Keys of an admin, a member and a viewer.
    pub(crate) admin: String,
    pub(crate) member: String,
    pub(crate) viewer: String,
    pub(crate) database: TestDatabase,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) session: SessionKey,
}

impl World {
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let store = connect(database.url()).await;
        Self::serve(database, store.clone(), store, None).await
    }

    /// A server that finds archived logs there.
    pub(crate) async fn start_with_archive(archive: Arc<dyn LogArchive>) -> Self {
        let database = TestDatabase::create().await;
        let store = connect(database.url()).await;
        Self::serve(database, store.clone(), store, Some(archive)).await
    }

    /// A server that reaches its database through a go-between. The world's own `store` goes around it.
    pub(crate) async fn start_behind_proxy() -> (Self, PgProxy) {
        let database = TestDatabase::create().await;
        let (proxy, url) = database.behind_proxy().await;
        let (served, store) = (connect(&url).await, connect(database.url()).await);
        (Self::serve(database, served, store, None).await, proxy)
    }

    async fn serve(
        database: TestDatabase,
        served: Store,
        store: Store,
        log_archive: Option<Arc<dyn LogArchive>>,
    ) -> Self {
        let service = Service::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/api/v1", listener.local_addr().expect("an address"));
        let panics = axum::Router::new().route(
            "/api/v1/panic",
            axum::routing::get(|| async {
                if true {
                    panic!("SELECT secret FROM jwt_keys");
                }
            }),
        );
        // As in `unidesk up`: one server for all routes.
        let behind = panics.merge(node_registry::routes(served.clone()));
        let for_nodes = axum::Router::new().route("/api/v1/node/who", axum::routing::post(who));
        let extra = api_gateway::Extra { behind, for_nodes, log_archive, ..Default::default() };
        api_gateway::run(&service, served, listener, extra).await.expect("it starts");
        let admin = make_key(&store, "ben", Role::Admin, DEFAULT_PROJECT, None).await;
        let member = make_key(&store, "ana", Role::Member, DEFAULT_PROJECT, None).await;
        let viewer = make_key(&store, "vera", Role::Viewer, DEFAULT_PROJECT, None).await;
        Self {
            service,
            store,
            url,
            http: reqwest::Client::new(),
            admin: admin.1,
            member: member.1,
            viewer: viewer.1,
            database,
        }
    }

    /// Another process before the same database, which hears no wake-up of the first.
    pub(crate) async fn other_process(&self) -> Store {
        connect(self.database.url()).await
    }

    pub(crate) async fn project(&self, slug: &str) -> ProjectId {
        let id = Uuid::now_v7();
        self.database.execute(&format!("INSERT INTO projects (id, slug) VALUES ('{id}', '{slug}')")).await;
        ProjectId::from_uuid(id)
    }

    pub(crate) fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(key)
    }
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path, &self.member).send().await.expect("an answer")
    }
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path, &self.member).json(body).send().await.expect("an answer")
    }
    /// A body as it is, said to be JSON.
    pub(crate) async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.request(Method::POST, path, &self.member).header("content-type", "application/json");
        request.body(body).send().await.expect("an answer")
    }

    pub(crate) async fn submit(&self, body: &Value) -> TaskId {
        let response = self.post("/tasks", body).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        id_of(&json_of(response).await)
    }

    pub(crate) async fn node(&self, name: &str, facts: NodeFacts) -> Node {
        let id = NodeId::from_uuid(Uuid::now_v7());
        let new = NewNodeToken {
            id: NodeTokenId::from_uuid(Uuid::now_v7()),
            node: id,
            project: DEFAULT_PROJECT,
            created_by: origin().principal.id,
            name: name.into(),
            secret_hash: vec![0; 32],
        };
        assert!(self.store.create_node_token(&new, &origin()).await.expect("made"));
        let session = self.connect_node(id, facts).await;
        Node { id, session }
    }

    async fn connect_node(&self, node: NodeId, facts: NodeFacts) -> SessionKey {
        let hello = OpenSession {
            node,
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            facts,
            metrics: NodeMetrics::default(),
            attempts: Vec::new(),
            complete_executors: ["process".to_owned()].into(),
            newest_epoch: i64::MAX,
        };
        match self.store.open_session(&hello).await.expect("opened") {
            Opened::Session { key, .. } => key,
            other => panic!("{other:?}"),
        }
    }

    /// Leases a waiting task to a node.
    pub(crate) async fn place(&self, task: TaskId, node: &Node) -> Held {
        let leader =
            self.store.lead(LeaderRole::Scheduler, Uuid::from_u128(9), None).await.expect("asked").expect("leads");
        let reservation = Reservation { cpu_millis: 1_000, memory_bytes: 512 << 20, ..Reservation::default() };
        let plan = [Placement { task, node: node.id, reservation }];
        let report = self.store.commit_placements(&leader, &plan).await.expect("committed");
        assert_eq!((report.placed, report.stale), (1, 0));
        self.held(task).await
    }

    /// What the last attempt of a task holds.
    pub(crate) async fn held(&self, task: TaskId) -> Held {
        let detail = self.store.get_task(Scope::All, task).await.expect("read").expect("there");
        detail.attempts.last().expect("an attempt").row.held()
    }

    pub(crate) async fn report(&self, node: &Node, held: Held, report: Report) {
        self.store.record_reports(node.session, &[NodeReport { held, report }]).await.expect("recorded");
    }

    /// Takes the task and starts its process.
    pub(crate) async fn start_on(&self, task: TaskId, node: &Node) -> Held {
        let held = self.place(task, node).await;
        for report in [Report::Accepted, Report::Preparing, Report::Started] {
            self.report(node, held, report).await;
        }
        held
    }

    pub(crate) async fn end(&self, node: &Node, held: Held, exit: ExitFacts, message: &str, log_bytes: u64) {
        let ending = Ending {
            failure: exit.failure(),
            message: message.into(),
            exit: Some(exit.clone()),
            planned_stop: false,
            log: LogTotals { bytes: log_bytes, complete: true },
        };
        self.report(node, held, Report::Exited { exit }).await;
        self.report(node, held, Report::Ended { ending }).await;
        self.report(node, held, Report::Released).await;
    }

    pub(crate) async fn append(&self, node: &Node, held: Held, stream: u8, start: u64, data: &[u8]) {
        let piece = LogPiece { held, stream, start, data: Bytes::copy_from_slice(data), gap: None };
        self.store.append_logs(node.session, &[piece]).await.expect("stored");
    }

    pub(crate) async fn stop(self) {
        assert!(self.service.stop_within(Duration::from_secs(10)).await, "something still runs");
        self.store.close().await;
    }
}

/// Stands for the routes that nodes have: says what it was told of its caller.
async fn who(
    Extension(node): Extension<NodeId>,
    Extension(origin): Extension<Origin>,
    person: Option<Extension<Principal>>,
) -> axum::Json<Value> {
    let kind = origin.principal.kind.as_str();
    axum::Json(json!({"node": node, "kind": kind, "name": origin.principal.name, "is_person": person.is_some()}))
}

async fn connect(url: &str) -> Store {
    let config = DatabaseConfig { url: url.to_owned(), max_connections: 8, shared: false };
    Store::connect_unchecked(&config).await.expect("connected")
}

pub(crate) async fn make_key(
    store: &Store,
    name: &str,
    role: Role,
    project: ProjectId,
    days: Option<u32>,
) -> (ApiKeyId, String) {
    let id = Uuid::now_v7();
    let (text, secret_hash) = secret::issue(Kind::ApiKey, id);
    let id = ApiKeyId::from_uuid(id);
    let created_by = origin().principal.id;
    let new = NewApiKey { id, project, created_by, name: name.into(), role, secret_hash, expires_in_days: days };
    store.create_api_key(&new, &origin()).await.expect("made");
    (id, text)
}

pub(crate) fn origin() -> Origin {
    let id = domain::ids::PrincipalId::from_uuid(Uuid::nil());
    let principal =
        Principal { kind: PrincipalKind::Platform, id, name: "test".into(), role: Role::Admin, project: None };
    Origin { principal, address: "test".into(), request_id: "test".into() }
}

pub(crate) fn facts(cpus: u64, memory_gib: u64, gpus_gib: &[u64]) -> NodeFacts {
    let gpus = gpus_gib.iter().enumerate();
    NodeFacts {
        platform: "linux".into(),
        arch: "x86_64".into(),
        executors: [("process".to_owned(), "1".to_owned()), ("container".to_owned(), "1".to_owned())].into(),
        capacity: Capacity {
            cpu_millis: cpus * 1_000,
            memory_bytes: memory_gib << 30,
            disk_bytes: 500 << 30,
            gpus: gpus
                .map(|(n, gib)| Gpu { id: format!("GPU-{n}"), model: "RTX".into(), memory_bytes: gib << 30 })
                .collect(),
        },
        ..NodeFacts::default()
    }
}

pub(crate) fn exited(code: i32) -> ExitFacts {
    ExitFacts { code: Some(code), duration_ms: 12_400, ..ExitFacts::default() }
}

pub(crate) fn lost(kind: FailureKind) -> Report {
    Report::Ended { ending: Ending::failed(kind, "the agent could not go on") }
}

pub(crate) fn ls() -> Value {
    json!({"name": "ls", "command": ["ls"]})
}

pub(crate) fn id_of(task: &Value) -> TaskId {
    task["id"].as_str().expect("an id").parse().expect("of a task")
}

pub(crate) async fn json_of(response: Response) -> Value {
    let text = response.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A refusal, whole in form, without what differs from run to run.
pub(crate) async fn problem(response: Response) -> Value {
    let status = response.status();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header("content-type").as_deref(), Some("application/problem+json"), "{status}");
    let (request_id, challenge, retry_after) =
        (header("x-request-id"), header("www-authenticate"), header("retry-after"));
    let path = response.url().path().to_owned();
    let mut body = json_of(response).await;
    assert_eq!(body["status"], status.as_u16());
    assert_eq!(body["request_id"].as_str(), request_id.as_deref(), "the id of the answer and of its header");
    assert_eq!(body["instance"], path.as_str());
    assert_eq!(challenge.as_deref(), (status == StatusCode::UNAUTHORIZED).then_some("Bearer"));
    assert_eq!(retry_after.is_some(), !body["retry_after_ms"].is_null());
    let fields = body.as_object_mut().expect("an object");
    fields.remove("request_id");
    fields.remove("instance");
    body
}

pub(crate) fn word(problem: &Value) -> &str {
    problem["type"].as_str().and_then(|kind| kind.rsplit('/').next()).expect("a type")
}

/// One message of a stream of events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: Value,
}

/// Reads a stream of events until `enough` says so, or it ends.
pub(crate) async fn messages(response: &mut Response, mut enough: impl FnMut(&[Message]) -> bool) -> Vec<Message> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut text, mut found) = (String::new(), Vec::new());
    while !enough(&found) {
        let left = deadline.saturating_duration_since(Instant::now());
        let chunk = tokio::time::timeout(left, response.chunk()).await.unwrap_or_else(|_| panic!("only {found:#?}"));
        let Some(chunk) = chunk.expect("the stream goes on") else { break };
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            found.extend(parse(&message));
        }
    }
    found
}

pub(crate) fn parse(text: &str) -> Option<Message> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").to_owned();
    let event = field("event: ");
    (!event.is_empty()).then(|| Message {
        id: field("id: "),
        event,
        data: serde_json::from_str(&field("data: ")).expect("data is JSON"),
    })
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    began.elapsed()
}
