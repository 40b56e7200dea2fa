//! The service on a port of its own, with an object store, for a caller of the test's choice.

use artifact_service::{Config, Embedded, ObjectStore, Times};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use axum::{extract::Request, middleware::Next};
use domain::{
    ids::{DEFAULT_PROJECT, NodeId, PrincipalId, ProjectId},
    principal::{Origin, Principal, PrincipalKind, Role},
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use service_kit::{Service, problem_response, request_id};
use sha2::{Digest as _, Sha256};
use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use store::{DatabaseConfig, Store};
use tempfile::TempDir;
use test_kit::{database::TestDatabase, gate::Gate, seaweedfs::SeaweedFs};
use uuid::Uuid;

pub(crate) const PART: usize = 8 << 20;
/// A project besides the default one.
pub(crate) const OTHER: ProjectId = ProjectId::from_uuid(Uuid::from_u128(2));

#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    Embedded,
    SeaweedFs(&'a SeaweedFs),
}

/// A caller: a role, and a project, which an admin has none of.
pub(crate) type Caller = (&'static str, &'static str);
pub(crate) const ADMIN: Caller = ("admin", "");
pub(crate) const MEMBER: Caller = ("member", "default");
pub(crate) const VIEWER: Caller = ("viewer", "default");
pub(crate) const STRANGER: Caller = ("member", "other");

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) store: Store,
    pub(crate) database: Arc<TestDatabase>,
    /// Between the service and its object store.
    pub(crate) gate: Arc<Gate>,
    pub(crate) objects: ObjectStore,
    /// The object store itself.
    pub(crate) raw: aws_sdk_s3::Client,
    pub(crate) bucket: String,
    pub(crate) http: reqwest::Client,
    pub(crate) is_embedded: bool,
    backend: Backend,
    /// Its object store, as a service would be told of it.
    config: Config,
    url: String,
    pub(crate) dir: Arc<TempDir>,
}

/// Where objects are kept.
#[derive(Clone)]
enum Backend {
    Embedded(Arc<Embedded>),
    Apart(Config),
}

impl Backend {
    fn objects(&self, gate: &Gate, times: Times) -> ObjectStore {
        match self {
            Self::Embedded(embedded) => embedded.object_store(&format!("http://{}", gate.address), times),
            Self::Apart(config) => config.object_store(times).expect("sound").expect("an endpoint is set"),
        }
    }
    fn routes(&self) -> axum::Router {
        match self {
            Self::Embedded(embedded) => embedded.routes(),
            Self::Apart(_) => axum::Router::new(),
        }
    }
}

/// Nothing waits before it is deleted; all else takes as long as it does for people.
pub(crate) fn times() -> Times {
    Times { grace: Duration::ZERO, collect_every: Duration::from_millis(100), ..Times::default() }
}

impl World {
    pub(crate) async fn start(kind: Kind<'_>) -> Self {
        let database = TestDatabase::create().await;
        database
            .execute("INSERT INTO projects (id, slug) VALUES ('00000000-0000-0000-0000-000000000002', 'other')")
            .await;
        let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 8, shared: false };
        let store = Store::connect_unchecked(&config).await.expect("connected");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let dir = tempfile::tempdir().expect("a directory");
        let mut trusted = Vec::new();
        let (gate, backend, raw, config) = match kind {
            Kind::Embedded => {
                let embedded = Embedded::open(dir.path()).expect("opened");
                let secret = std::fs::read_to_string(dir.path().join("objects.secret")).expect("its credentials");
                let (id, secret) = secret.trim().split_once('\n').expect("two lines");
                let raw = client(&format!("http://{address}"), id, secret, None);
                let gate = Gate::before(address).await;
                let config = Config {
                    s3_endpoint: Some(format!("http://{}", gate.address)),
                    s3_access_key_id: Some(id.to_owned()),
                    s3_secret_access_key: Some(secret.to_owned()),
                    ..Config::default()
                };
                (gate, Backend::Embedded(Arc::new(embedded)), raw, config)
            }
            Kind::SeaweedFs(seaweedfs) => {
                let (scheme, server) = seaweedfs.endpoint.split_once("://").expect("an address");
                let gate = Gate::before(server.parse().expect("an address")).await;
                let bucket = format!("t{}", Uuid::new_v4().simple());
                let config = Config {
                    s3_endpoint: Some(format!("{scheme}://{}", gate.address)),
                    s3_ca_file: seaweedfs.ca_file.clone(),
                    s3_bucket: bucket,
                    s3_access_key_id: Some(SeaweedFs::ACCESS_KEY_ID.to_owned()),
                    s3_secret_access_key: Some(SeaweedFs::SECRET_ACCESS_KEY.to_owned()),
                    ..Config::default()
                };
                let (id, secret) = (SeaweedFs::ACCESS_KEY_ID, SeaweedFs::SECRET_ACCESS_KEY);
                let raw = client(&seaweedfs.endpoint, id, secret, seaweedfs.ca_file.as_deref());
                let ca = seaweedfs.ca_file.as_ref().map(|file| std::fs::read(file).expect("certificates"));
                trusted.extend(ca.map(|pem| reqwest::Certificate::from_pem(&pem).expect("a certificate")));
                (gate, Backend::Apart(config.clone()), raw, config)
            }
        };
        let objects = backend.objects(&gate, times());
        let service = serve(listener, &store, Some(objects.clone()), backend.routes(), times());
        let world = Self {
            service,
            store,
            database: Arc::new(database),
            gate: Arc::new(gate),
            objects,
            raw,
            bucket: config.s3_bucket.clone(),
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .tls_certs_merge(trusted)
                .build()
                .expect("a client"),
            is_embedded: matches!(kind, Kind::Embedded),
            backend,
            config,
            url: format!("http://{address}/api/v1"),
            dir: Arc::new(dir),
        };
        // SeaweedFS listens for some seconds before it takes the first byte, on a busy machine for a minute.
        eventually_within(Duration::from_secs(120), "the store takes an object", async || {
            let key = format!("objects/{}", Uuid::new_v4());
            world.objects.ensure_bucket().await.is_ok()
                && world.raw.put_object().bucket(&world.bucket).key(&key).body(vec![7].into()).send().await.is_ok()
                && world.raw.delete_object().bucket(&world.bucket).key(&key).send().await.is_ok()
        })
        .await;
        world
    }

    /// Another process of the service, which takes other times.
    pub(crate) async fn with_times(&self, times: Times) -> Self {
        self.beside(Some(self.backend.objects(&self.gate, times)), times).await
    }

    /// Another process of the service, which was told that parts must be equal.
    pub(crate) async fn with_equal_parts(&self) -> Self {
        let config = Config { s3_equal_parts: true, ..self.config.clone() };
        self.beside(config.object_store(times()).expect("sound"), times()).await
    }

    /// As another process of the service has it, with connections of its own.
    pub(crate) fn objects_anew(&self) -> ObjectStore {
        self.backend.objects(&self.gate, times())
    }

    /// Another process of the service, which was told of no object store.
    pub(crate) async fn without_objects(&self) -> Self {
        self.beside(None, times()).await
    }

    async fn beside(&self, objects: Option<ObjectStore>, times: Times) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/api/v1", listener.local_addr().expect("an address"));
        Self {
            service: serve(listener, &self.store, objects.clone(), self.backend.routes(), times),
            objects: objects.unwrap_or_else(|| self.objects.clone()),
            url,
            store: self.store.clone(),
            database: self.database.clone(),
            gate: self.gate.clone(),
            raw: self.raw.clone(),
            bucket: self.bucket.clone(),
            http: self.http.clone(),
            is_embedded: self.is_embedded,
            backend: self.backend.clone(),
            config: self.config.clone(),
            dir: self.dir.clone(),
        }
    }

    /// The object of the only artifact of this name.
    pub(crate) async fn object_of(&self, name: &str) -> Uuid {
        let name = domain::artifact::ArtifactRef::Latest(name.to_owned());
        let found = self.store.find_artifact(domain::principal::Scope::All, DEFAULT_PROJECT, &name).await;
        found.expect("read").expect("it is there").object.expect("it is ready")
    }

    /// Starts the loops.
    pub(crate) fn collect(&self, times: Times) {
        artifact_service::run(&self.service, times, self.store.clone(), Some(self.objects.clone()));
    }

    pub(crate) async fn stop(self) {
        assert!(self.service.stop_within(Duration::from_secs(10)).await, "something still runs");
        let broken: Vec<_> = self.store.audit(store::Depth::Whole, Duration::from_secs(20)).await.expect("audited");
        let broken: Vec<_> = broken.into_iter().filter(|finding| finding.outcome.count() > 0).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        self.store.close().await;
    }

    pub(crate) async fn ask(&self, caller: Caller, method: Method, path: &str, body: Option<Value>) -> Response {
        self.ask_with(caller, method, path, body, None).await
    }

    pub(crate) async fn ask_with(
        &self,
        (role, project): Caller,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Response {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.header("x-test-role", role).header("x-test-project", project);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.expect("an answer")
    }

    /// As a node whose token the gateway has looked at.
    pub(crate) async fn ask_of_node(&self, node: NodeId, path: &str, body: Value) -> Response {
        let request = self.http.post(format!("{}{path}", self.url)).header("x-test-node", node.to_string());
        request.json(&body).send().await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        good(self.ask(MEMBER, Method::POST, path, Some(body)).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        good(self.ask(MEMBER, Method::GET, path, None).await).await
    }

    /// Announces an upload: its id.
    pub(crate) async fn create(&self, body: Value) -> String {
        id_of(&self.post("/artifacts", body).await["artifact"])
    }

    /// Where parts go; null where the store has one.
    pub(crate) async fn addresses(&self, id: &str, stored: &[Value], parts: &[(u32, &[u8])]) -> Vec<Value> {
        let wanted: Vec<Value> = parts.iter().map(|(number, bytes)| wanted(*number, bytes)).collect();
        let answer = self.post(&format!("/artifacts/{id}/parts"), json!({ "stored": stored, "wanted": wanted })).await;
        answer["parts"].as_array().expect("parts").iter().map(|part| part["put"].clone()).collect()
    }

    /// Sends a part to its address: what is then told as stored.
    pub(crate) async fn store_part(&self, id: &str, number: u32, bytes: &[u8]) -> Value {
        let put = self.addresses(id, &[], &[(number, bytes)]).await.remove(0);
        let answer = self.send(&put, bytes.to_vec()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        json!({ "number": number, "etag": answer.headers()["etag"].to_str().expect("text") })
    }

    /// Sends bytes as a signed request says.
    pub(crate) async fn send(&self, signed: &Value, bytes: Vec<u8>) -> Response {
        self.send_to(signed["url"].as_str().expect("an address"), signed, bytes).await
    }

    pub(crate) async fn send_to(&self, url: &str, signed: &Value, bytes: Vec<u8>) -> Response {
        let method: Method = signed["method"].as_str().expect("a method").parse().expect("a method");
        let mut request = self.http.request(method, url);
        for (name, value) in signed["headers"].as_object().into_iter().flatten() {
            if name != "content-length" {
                request = request.header(name, value.as_str().expect("text"));
            }
        }
        request.body(bytes).send().await.expect("an answer")
    }

    pub(crate) async fn complete(&self, id: &str, bytes: &[u8], stored: &[Value]) -> Response {
        let body = json!({ "size": bytes.len(), "sha256": sha256(bytes), "stored": stored });
        self.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/complete"), Some(body)).await
    }

    /// All of an upload: the artifact, ready.
    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) -> Value {
        let id = self.create(json!({ "name": name, "size": bytes.len() })).await;
        let mut stored = Vec::new();
        for (number, part) in cut(bytes) {
            stored.push(self.store_part(&id, number, part).await);
        }
        good(self.complete(&id, bytes, &stored).await).await
    }

    /// Where the bytes of an artifact are.
    pub(crate) async fn download(&self, name: &str) -> Value {
        self.post(&format!("/artifacts/{name}/download"), json!(null)).await["get"].clone()
    }

    pub(crate) async fn bytes_of(&self, name: &str) -> Vec<u8> {
        let get = self.download(name).await;
        let answer = self.send(&get, Vec::new()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.expect("a body").to_vec()
    }

    /// What the object store has.
    pub(crate) async fn keys(&self) -> Vec<String> {
        self.keys_of("objects/").await
    }

    pub(crate) async fn keys_of(&self, prefix: &str) -> Vec<String> {
        let listed = self.raw.list_objects_v2().bucket(&self.bucket).prefix(prefix).send().await.expect("listed");
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    pub(crate) async fn begun_uploads(&self) -> usize {
        let listed = self.raw.list_multipart_uploads().bucket(&self.bucket).prefix("objects/").send().await;
        listed.expect("listed").uploads().len()
    }
}

fn serve(
    listener: tokio::net::TcpListener,
    store: &Store,
    objects: Option<ObjectStore>,
    beside: axum::Router,
    times: Times,
) -> Service {
    let service = Service::new();
    let for_nodes = artifact_service::node_routes(store.clone(), objects.clone(), times)
        .layer(axum::middleware::from_fn(let_node_in));
    let routes = artifact_service::routes(store.clone(), objects, times)
        .layer(axum::middleware::from_fn(let_in))
        .merge(for_nodes)
        .layer(axum::middleware::from_fn(problem_response::complete))
        .layer(axum::middleware::from_fn(request_id::assign));
    service_kit::serve::serve(&service, listener, routes.merge(beside));
    service
}

fn client(endpoint: &str, id: &str, secret: &str, ca: Option<&Path>) -> aws_sdk_s3::Client {
    let pem = ca.map(|file| std::fs::read(file).expect("certificates"));
    let trusted = pem.map(|pem| TrustStore::default().with_pem_certificate(pem)).unwrap_or_default();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                    aws_smithy_http_client::tls::rustls_provider::CryptoMode::AwsLc,
                ))
                .tls_context(TlsContext::builder().with_trust_store(trusted).build().expect("trust"))
                .build_https(),
        );
    aws_sdk_s3::Client::from_conf(config.build())
}

fn header_of(request: &Request, name: &str) -> String {
    let value = request.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// Stands for the api-gateway, which has authenticated the caller.
async fn let_in(mut request: Request, next: Next) -> axum::response::Response {
    let (role, project) = (header_of(&request, "x-test-role"), header_of(&request, "x-test-project"));
    let role = Role::parse(&role).expect("a role");
    let project = match project.as_str() {
        "" => None,
        "other" => Some(OTHER),
        _ => Some(DEFAULT_PROJECT),
    };
    let id = PrincipalId::from_uuid(Uuid::from_u128(7));
    let principal = Principal { kind: PrincipalKind::ApiKey, id, name: "ana".into(), role, project };
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(Origin { principal, address: "test".into(), request_id: "test".into() });
    next.run(request).await
}

/// As it does with a node: there is no `Principal` for the routes of people.
async fn let_node_in(mut request: Request, next: Next) -> axum::response::Response {
    let node: NodeId = header_of(&request, "x-test-node").parse().expect("a node");
    let id = PrincipalId::from_uuid(node.as_uuid());
    let principal = Principal { kind: PrincipalKind::Node, id, name: "n".into(), role: Role::Viewer, project: None };
    request.extensions_mut().insert(node);
    request.extensions_mut().insert(Origin { principal, address: "test".into(), request_id: "test".into() });
    next.run(request).await
}

/// The parts of these bytes, of the size that a small artifact of known size has.
pub(crate) fn cut(bytes: &[u8]) -> Vec<(u32, &[u8])> {
    if bytes.is_empty() {
        return vec![(1, bytes)];
    }
    (1..).zip(bytes.chunks(PART)).collect()
}

pub(crate) fn wanted(number: u32, bytes: &[u8]) -> Value {
    json!({ "number": number, "size": bytes.len(), "sha256": sha256(bytes) })
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    domain::artifact::Sha256Digest(Sha256::digest(bytes).into()).to_string()
}

/// So many bytes, others for each seed.
pub(crate) fn bytes(seed: u8, count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8 ^ (at >> 12) as u8 ^ seed).collect()
}

pub(crate) fn id_of(artifact: &Value) -> String {
    artifact["id"].as_str().unwrap_or_else(|| panic!("{artifact}")).to_owned()
}

/// The body of an answer that is no refusal.
pub(crate) async fn good(response: Response) -> Value {
    let status = response.status();
    let text = response.text().await.expect("a body");
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The word of a refusal, and its body.
pub(crate) async fn refusal(response: Response) -> (String, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(body["status"], json!(status), "{text}");
    let word = body["type"].as_str().expect("a problem").rsplit('/').next().expect("a word").to_owned();
    (word, body)
}

pub(crate) async fn word(response: impl Future<Output = Response>) -> String {
    refusal(response.await).await.0
}

pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_within(Duration::from_secs(60), what, holds).await;
}

async fn eventually_within(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
