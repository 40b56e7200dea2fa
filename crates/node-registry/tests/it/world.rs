//! The routes on a port of their own, for a caller of the test's choice.

use axum::{extract::Request, middleware::Next};
use domain::{
    ids::{DEFAULT_PROJECT, InstanceId, NodeId, PrincipalId},
    node::{NodeFacts, NodeMetrics},
    principal::{Origin, Principal, PrincipalKind, Role},
    resources::Capacity,
};
use reqwest::{Method, Response};
use serde_json::Value;
use service_kit::{Service, problem_response, request_id};
use std::time::{Duration, Instant};
use store::{DatabaseConfig, OpenSession, Opened, SessionKey, Store};
use test_kit::database::TestDatabase;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) store: Store,
    url: String,
    http: reqwest::Client,
    pub(crate) database: TestDatabase,
}

impl World {
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let store = connect(&database).await;
        let service = Service::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/api/v1", listener.local_addr().expect("an address"));
        let routes = node_registry::routes(store.clone())
            .layer(axum::middleware::from_fn(let_in))
            .layer(axum::middleware::from_fn(problem_response::complete))
            .layer(axum::middleware::from_fn(request_id::assign));
        service_kit::serve::serve(&service, listener, routes);
        Self { service, store, url, http: reqwest::Client::new(), database }
    }

    pub(crate) async fn as_role(&self, role: &str, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.url)).header("x-test-role", role);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.expect("an answer")
    }
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.as_role("admin", Method::GET, path, None).await
    }
    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.as_role("admin", Method::POST, path, Some(body)).await
    }
    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.as_role("admin", Method::DELETE, path, None).await
    }

    /// A node that says hello once.
    pub(crate) async fn node(&self, name: &str) -> (NodeId, SessionKey) {
        let issued = node_registry::create_node_token(
            &self.store,
            DEFAULT_PROJECT,
            name,
            &domain::principal::Origin::platform("test"),
        )
        .await;
        let node = issued.expect("made").expect("a new name").node_id;
        let capacity = Capacity { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 100 << 30, gpus: Vec::new() };
        let executors = [("process".to_owned(), "1".to_owned())].into();
        let hello = OpenSession {
            node,
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            facts: NodeFacts { capacity, executors, platform: "linux".into(), ..NodeFacts::default() },
            metrics: NodeMetrics::default(),
            attempts: Vec::new(),
            complete_executors: ["process".to_owned()].into(),
            newest_epoch: i64::MAX,
        };
        match self.store.open_session(&hello).await.expect("opened") {
            Opened::Session { key, .. } => (node, key),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn stop(self) {
        assert!(self.service.stop_within(Duration::from_secs(10)).await, "something still runs");
        self.store.close().await;
    }
}

/// Stands for the api-gateway, which has authenticated the caller.
async fn let_in(mut request: Request, next: Next) -> axum::response::Response {
    let role = request.headers().get("x-test-role").and_then(|role| Role::parse(role.to_str().ok()?)).expect("a role");
    let id = PrincipalId::from_uuid(Uuid::from_u128(7));
    let principal = Principal { kind: PrincipalKind::ApiKey, id, name: "ana".into(), role, project: None };
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(Origin { principal, address: "test".into(), request_id: "test".into() });
    next.run(request).await
}

async fn connect(database: &TestDatabase) -> Store {
    let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 8, shared: false };
    Store::connect_unchecked(&config).await.expect("connected")
}

pub(crate) async fn json_of(response: Response) -> Value {
    let text = response.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The word of a refusal.
pub(crate) async fn refusal(response: Response) -> String {
    let kind = json_of(response).await["type"].as_str().expect("a problem").to_owned();
    kind.rsplit('/').next().expect("a word").to_owned()
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(15), "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
