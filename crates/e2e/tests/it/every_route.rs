//! Every route while the database is away: it says so, in time, and works again once the database is back. The routes are asked
//! of the router itself: a new one is swept without a word here, or fails until this knows what to send to it.

use crate::until::until;
use domain::{ids::DEFAULT_PROJECT, principal::Role};
use futures::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use service_kit::{
    Service,
    secret::{self, Kind},
};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use store::{DatabaseConfig, Store};
use test_kit::{
    database::TestDatabase,
    pg_proxy::{Manner, PgProxy},
};

/// What a request may take while the database hangs: as long as an answer of the API may take to begin, and an audit has longer.
const WITHIN: Duration = Duration::from_secs(20);
const AUDIT_WITHIN: Duration = Duration::from_secs(35);
/// Whoever asks whether this server is ready asks often, and gives up soon.
const READY_WITHIN: Duration = Duration::from_secs(4);

const ECHO: &str = "/api/v1/cluster/echo";

#[derive(Clone, Debug)]
struct Route {
    method: Method,
    path: String,
}

struct Platform {
    http: reqwest::Client,
    url: String,
    admin: String,
    node_token: String,
    /// What stands for `{id}`, by what the path begins with.
    ids: BTreeMap<&'static str, String>,
    routes: Vec<Route>,
    proxy: PgProxy,
    service: Service,
    _objects: tempfile::TempDir,
    _database: TestDatabase,
}

/// axum has no list of routes; what it shows of a router for debugging has their paths, as they were given.
fn paths_of(router: &axum::Router) -> Vec<String> {
    let shown = format!("{router:?}");
    let (ours, _) = shown.split_once("fallback_router").expect("a router's debug view has its fallbacks last");
    let (_, listed) = ours.split_once("paths: {").expect("a router's debug view lists its paths");
    let paths: Vec<String> =
        listed.split('"').skip(1).step_by(2).filter(|path| path.starts_with('/')).map(str::to_owned).collect();
    assert!(paths.len() > 15 && paths.iter().any(|path| path == "/api/v1/tasks"), "not the routes: {listed}");
    paths
}

impl Platform {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let (proxy, url) = database.behind_proxy().await;
        let config = DatabaseConfig { url, max_connections: 8, shared: false };
        let store = Store::connect_unchecked(&config).await.expect("connected");
        let service = Service::new();
        let state = api_gateway::AppState::new(service.clone(), store.clone()).await.expect("keys that sign tokens");
        let objects_dir = tempfile::tempdir().expect("a directory");
        let objects = artifact_service::Embedded::open(objects_dir.path()).expect("an object store");
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let times = artifact_service::Times::default();
        let artifacts = artifact_service::routes(store.clone(), Some(objects.object_store(&url, times)), times);
        let for_nodes = artifact_service::node_routes(store.clone(), Some(objects.object_store(&url, times)), times);
        let router = api_gateway::router(state, node_registry::routes(store.clone()).merge(artifacts), for_nodes);
        let paths = paths_of(&router);
        service_kit::serve::serve(&service, listener, router.merge(objects.routes()));

        let origin = domain::principal::Origin::platform("test");
        let admin = node_registry::create_admin_key(&store, "ben").await.expect("made");
        let node = node_registry::create_node_token(&store, DEFAULT_PROJECT, "lab-3", &origin).await;
        let node = node.expect("made").expect("a new name");
        // Two that are revoked in the end: one's own is not.
        let other = node_registry::create_node_token(&store, DEFAULT_PROJECT, "lab-4", &origin).await;
        let other = other.expect("made").expect("a new name");
        let key = uuid::Uuid::now_v7();
        let (_, secret_hash) = secret::issue(Kind::ApiKey, key);
        let new = store::NewApiKey {
            id: domain::ids::ApiKeyId::from_uuid(key),
            project: DEFAULT_PROJECT,
            created_by: origin.principal.id,
            name: "vera".into(),
            role: Role::Viewer,
            secret_hash,
            expires_in_days: None,
        };
        store.create_api_key(&new, &origin).await.expect("made");
        let mut platform = Self {
            // The server closes a connection that has been idle for a while; a request must not meet that.
            http: reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client"),
            url,
            admin,
            node_token: node.token,
            ids: BTreeMap::new(),
            routes: Vec::new(),
            proxy,
            service,
            _objects: objects_dir,
            _database: database,
        };
        let submit = Route { method: Method::POST, path: "/api/v1/tasks".into() };
        let task: Value = serde_json::from_slice(&platform.send(&submit).await.bytes().await.expect("a body"))
            .expect("an accepted task");
        let upload = Route { method: Method::POST, path: "/api/v1/artifacts".into() };
        let upload: Value = serde_json::from_slice(&platform.send(&upload).await.bytes().await.expect("a body"))
            .expect("an announced upload");
        let rule = Route { method: Method::POST, path: "/api/v1/artifact-rules".into() };
        let rule: Value =
            serde_json::from_slice(&platform.send(&rule).await.bytes().await.expect("a body")).expect("an added rule");
        platform.ids = [
            ("/api/v1/artifact-rules/", rule["id"].as_str().expect("an id").to_owned()),
            ("/api/v1/artifacts/", upload["artifact"]["id"].as_str().expect("an id").to_owned()),
            ("/api/v1/tasks/", task["id"].as_str().expect("an id").to_owned()),
            ("/api/v1/nodes/", "lab-3".to_owned()),
            ("/api/v1/node-tokens/", other.token_id.to_string()),
            ("/api/v1/api-keys/", key.to_string()),
            // Of an attempt that nobody knows.
            ("/api/v1/node/attempts/", key.to_string()),
        ]
        .into();
        platform.routes = platform.find_routes(paths).await;
        platform
    }

    /// Which methods a path takes is what the router says when it is asked without a name.
    async fn find_routes(&self, paths: Vec<String>) -> Vec<Route> {
        let mut routes = Vec::new();
        for path in paths {
            for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let nobody = self.http.request(method.clone(), self.url_of(&path)).send().await.expect("an answer");
                if nobody.status() != StatusCode::METHOD_NOT_ALLOWED {
                    routes.push(Route { method, path: path.clone() });
                }
            }
        }
        routes.sort_by_key(|route| (route.path.clone(), route.method.to_string()));
        assert!(routes.len() >= 25, "{routes:#?}");
        routes
    }

    fn url_of(&self, path: &str) -> String {
        if !path.contains('{') {
            return format!("{}{path}", self.url);
        }
        let (_, id) = self
            .ids
            .iter()
            .find(|(begin, _)| path.starts_with(*begin))
            .unwrap_or_else(|| panic!("{path} is new: say here what stands for its id"));
        let path = path.replace("{fence}", "4294967297").replace("{index}", "0").replace("{artifact}", id);
        format!("{}{}", self.url, path.replace("{id}", id).replace("{ref}", id).replace("{attempt}", id))
    }

    /// A request that only the database can be in the way of.
    async fn send(&self, route: &Route) -> Response {
        let mut request = self.http.request(route.method.clone(), self.url_of(&route.path)).bearer_auth(&self.admin);
        if route.path == protocol::CONNECT_PATH {
            let url = self.url_of(&route.path);
            request = self.http.request(route.method.clone(), url).bearer_auth(&self.node_token);
        }
        if route.path == protocol::CONNECT_PATH || route.path == ECHO {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("sec-websocket-protocol", protocol::SUBPROTOCOL);
        }
        if route.path.starts_with("/api/v1/node/") {
            let url = self.url_of(&route.path);
            request = self.http.request(route.method.clone(), url).bearer_auth(&self.node_token);
        }
        let body = match (route.method.as_str(), route.path.as_str()) {
            ("POST", "/api/v1/auth/token") => Some(json!({"api_key": self.admin})),
            ("POST", "/api/v1/tasks") => Some(json!({"command": ["true"]})),
            ("POST", "/api/v1/tasks:batch") => Some(json!({"tasks": [{"command": ["true"]}]})),
            ("POST", "/api/v1/node-tokens") => Some(json!({"name": format!("n-{}", uuid::Uuid::new_v4().simple())})),
            ("POST", "/api/v1/api-keys") => Some(json!({"name": "ana", "role": "member"})),
            ("POST", "/api/v1/artifacts") => Some(json!({"name": "model"})),
            ("POST", "/api/v1/artifact-rules" | "/api/v1/artifact-rules:preview") => {
                Some(json!({"rule": {"keep_last": 3}}))
            }
            ("POST", path) if path.ends_with("/outputs/{index}") => Some(json!({"kind": "file", "file_name": "x"})),
            ("POST", path) if path.ends_with("/checkpoints") => Some(json!({"kind": "directory", "file_name": "x"})),
            ("POST", path) if path.ends_with("/complete") => Some(json!({"size": 0, "sha256": "0".repeat(64)})),
            ("POST", _) => Some(json!({})),
            _ => None,
        };
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.timeout(AUDIT_WITHIN).send().await.unwrap_or_else(|error| panic!("{route:?}: {error}"))
    }

    /// Asks every route at once. Whether their callers were known without the database: then the handlers themselves met it.
    async fn sweep(&self) -> bool {
        let asked = self.routes.iter().map(async |route| {
            let began = Instant::now();
            let answer = self.send(route).await;
            let (took, status, headers) = (began.elapsed(), answer.status(), answer.headers().clone());
            // A stream without an end has no business here.
            let body = tokio::time::timeout(Duration::from_secs(10), answer.text()).await;
            (route, took, status, headers, body.expect("a whole body").expect("text"))
        });
        let mut known = false;
        for (route, took, status, headers, body) in join_all(asked).await {
            let shown = format!("{} {} after {took:?}: {status} {body}", route.method, route.path);
            match route.path.as_str() {
                "/healthz" | "/metrics" => assert!(status == StatusCode::OK && took < READY_WITHIN, "{shown}"),
                "/readyz" => {
                    assert!(status == StatusCode::SERVICE_UNAVAILABLE && took < READY_WITHIN, "{shown}");
                    assert!(body.starts_with("not ready: ") && body.contains("database"), "{shown}");
                }
                // What was read of a key a moment ago is enough to say who it is, and to sign that.
                "/api/v1/auth/whoami" | "/api/v1/auth/token" if status == StatusCode::OK => known = true,
                // Nor does it take a database to say back what is said.
                ECHO if status == StatusCode::SWITCHING_PROTOCOLS => known = true,
                path => {
                    let within = if path.contains("/audit/") { AUDIT_WITHIN } else { WITHIN };
                    assert!(status == StatusCode::SERVICE_UNAVAILABLE && took < within, "{shown}");
                    let after = headers.get("retry-after").and_then(|after| after.to_str().ok()?.parse::<u64>().ok());
                    assert!(after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{shown}");
                    assert_eq!(headers["content-type"], "application/problem+json", "{shown}");
                    let problem: api_types::Problem = serde_json::from_str(&body).expect("a problem");
                    assert_eq!((problem.word(), problem.status), ("unavailable", 503), "{shown}");
                    assert!(problem.request_id.is_some() && problem.instance.is_some(), "{shown}");
                }
            }
        }
        known
    }

    async fn all_is_well(&self) {
        let ready = Route { method: Method::GET, path: "/readyz".into() };
        until("the server is ready again", Duration::from_secs(10), async || {
            (self.send(&ready).await.status() == StatusCode::OK).then_some(())
        })
        .await;
        for route in &self.routes {
            let status = self.send(route).await.status();
            // What was cancelled or revoked before, or never began, is refused for what it is.
            let is_own_answer = matches!(status.as_u16(), 101 | 200..=204 | 404 | 409);
            assert!(is_own_answer, "{} {}: {status}", route.method, route.path);
            // An upload has no content yet.
            if route.method == Method::GET && !route.path.ends_with("/content") {
                assert!(status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS, "{}: {status}", route.path);
            }
        }
    }

    async fn away(&self, manner: Manner) {
        // Once with callers that nobody remembers, and once with callers that were here a moment ago.
        self.proxy.behave(manner);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(!self.sweep().await, "who asks is not known without the database");
        self.proxy.behave(Manner::default());
        let whoami = Route { method: Method::GET, path: "/api/v1/auth/whoami".into() };
        for _ in 0..5 {
            until("the caller is known", Duration::from_secs(10), async || {
                self.send(&whoami).await.status().is_success().then_some(())
            })
            .await;
            self.proxy.behave(manner);
            let known = self.sweep().await;
            self.proxy.behave(Manner::default());
            if known {
                return self.all_is_well().await;
            }
        }
        panic!("the handlers were never asked: no caller was remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_says_that_the_database_is_away_and_works_once_it_is_back() {
    let platform = Platform::start().await;
    platform.all_is_well().await;
    platform.away(Manner { refuses: true, ..Manner::default() }).await;
    assert!(platform.service.stop_within(Duration::from_secs(10)).await, "something still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_says_in_time_that_the_database_hangs_and_works_once_it_goes_on() {
    let platform = Platform::start().await;
    platform.away(Manner { stalls: true, ..Manner::default() }).await;
    assert!(platform.service.stop_within(Duration::from_secs(10)).await, "something still runs");
}
