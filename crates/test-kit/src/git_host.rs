//! A real Git server: smart HTTP by `git http-backend` behind a small HTTP front, on loopback, in this process. Its
//! repositories are built object by object, so that they can hold what no honest client would make.

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::oneshot, task::JoinSet};

/// Seconds since 1970 of a repository's first commit; each further one is a minute later. Fixed, so that ids are.
const FIRST_COMMIT_AT: u64 = 1_700_000_000;

/// A Git server on a port of its own. Stops when dropped.
pub struct GitHost {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<Server>,
}

/// What can be changed while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Speaks only version 0 of the protocol, in which a client may ask for nothing but the tips of branches and tags.
    pub refuses_wants_by_id: bool,
    /// User and password that every request must carry.
    pub basic_auth: Option<(String, String)>,
    /// Answers every request with this status and nothing else.
    pub answers_only: Option<u16>,
    /// Sends every request on to this base, as in `http://127.0.0.1:1234`.
    pub redirects_to: Option<String>,
    /// Takes requests and answers none.
    pub never_answers: bool,
}

/// What the server has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// In the bodies of answers.
    pub bytes_sent: u64,
}

struct Shared {
    root: TempDir,
    backend: PathBuf,
    behaviour: Mutex<Behaviour>,
    traffic: Mutex<Traffic>,
    authorizations: Mutex<Vec<String>>,
}

struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl GitHost {
    /// Listens on a free port of loopback.
    pub fn start() -> Self {
        let exec_path = git(Path::new("."), &["--exec-path"], b"");
        let shared = Arc::new(Shared {
            root: tempfile::Builder::new().prefix("git-host-").tempdir().expect("a temporary directory"),
            backend: Path::new(&exec_path).join("git-http-backend"),
            behaviour: Mutex::default(),
            traffic: Mutex::default(),
            authorizations: Mutex::default(),
        });
        let mut host = Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), shared, server: None };
        host.restart();
        host
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a repository, also of one that is not there.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.git", self.address)
    }

    /// A repository, made when it is not there yet.
    pub fn repository(&self, name: &str) -> HostedRepository {
        let path = self.shared.root.path().join(format!("{name}.git"));
        if !path.exists() {
            let init = ["init", "--quiet", "--bare", "--template=", "--initial-branch=main", &format!("{name}.git")];
            git(self.shared.root.path(), &init, b"");
        }
        HostedRepository { path, url: self.url(name) }
    }

    /// Changes how the server answers from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.shared.behaviour));
    }

    pub fn traffic(&self) -> Traffic {
        *lock(&self.shared.traffic)
    }

    /// Every Authorization header that arrived.
    pub fn authorizations(&self) -> Vec<String> {
        lock(&self.shared.authorizations).clone()
    }

    /// Refuses connections from when it returns, until [`GitHost::restart`].
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            // The receiver is gone only if the thread is.
            let _ = server.stop.send(());
            server.thread.join().expect("the Git server does not panic");
        }
    }

    /// Listens again, on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let listener = std::net::TcpListener::bind(self.address).expect("a port on loopback");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        self.address = listener.local_addr().expect("a bound address");
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        // A thread with a runtime of its own: the host lives as long as its value, whatever runtime the test has.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(listener, shared, stopped));
        });
        self.server = Some(Server { stop, thread });
    }
}

impl Drop for GitHost {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    // Dropped at the end, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(request, &shared));
                    // A client that goes away is its own affair.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    lock(&shared.traffic).requests += 1;
    if let Some(authorization) = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        lock(&shared.authorizations).push(authorization.to_owned());
    }
    let behaviour = lock(&shared.behaviour).clone();
    if behaviour.never_answers {
        std::future::pending::<()>().await;
    }
    let response = match refusal(&request, &behaviour) {
        Some(refusal) => refusal,
        None => backend(request, shared, !behaviour.refuses_wants_by_id)
            .await
            .unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("git http-backend: {error}"))),
    };
    let sent = Body::size_hint(response.body()).exact().unwrap_or(0);
    lock(&shared.traffic).bytes_sent += sent;
    Ok(response)
}

/// The answers that need no Git.
fn refusal(request: &Request<Incoming>, behaviour: &Behaviour) -> Option<Response<Full<Bytes>>> {
    if let Some(status) = behaviour.answers_only {
        return Some(plain(StatusCode::from_u16(status).expect("a status"), String::new()));
    }
    if let Some(base) = &behaviour.redirects_to {
        let mut response = plain(StatusCode::FOUND, String::new());
        let location = format!("{base}{}", request.uri().path_and_query().map_or("/", |path| path.as_str()));
        response.headers_mut().insert(header::LOCATION, location.parse().expect("a URL"));
        return Some(response);
    }
    let (user, password) = behaviour.basic_auth.as_ref()?;
    let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
    if request.headers().get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == wanted.as_bytes()) {
        return None;
    }
    let mut response = plain(StatusCode::UNAUTHORIZED, "who are you?".into());
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"git\""));
    Some(response)
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// One request through `git http-backend`, as a web server would run it.
async fn backend(
    request: Request<Incoming>,
    shared: &Shared,
    tells_version: bool,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut command = tokio::process::Command::new(&shared.backend);
    command.env_clear().envs(clean_environment());
    command
        .env("GIT_PROJECT_ROOT", shared.root.path())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", if head.method == Method::POST { "POST" } else { "GET" })
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or(""))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1");
    pass_header(&mut command, &head.headers, "content-type", "CONTENT_TYPE");
    pass_header(&mut command, &head.headers, "content-encoding", "HTTP_CONTENT_ENCODING");
    if tells_version {
        pass_header(&mut command, &head.headers, "git-protocol", "GIT_PROTOCOL");
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let feed = async move {
        // It may answer without having read all.
        let _ = stdin.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    parse_cgi(&output?.stdout)
}

fn pass_header(command: &mut tokio::process::Command, headers: &HeaderMap, name: &str, variable: &str) {
    if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
        command.env(variable, value);
    }
}

fn parse_cgi(output: &[u8]) -> anyhow::Result<Response<Full<Bytes>>> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| anyhow::anyhow!("it ended without an answer"))?;
    let mut response = plain(StatusCode::OK, String::new());
    for line in std::str::from_utf8(&output[..end])?.split("\r\n") {
        let (name, value) = line.split_once(": ").ok_or_else(|| anyhow::anyhow!("{line:?} is no header"))?;
        if name.eq_ignore_ascii_case("status") {
            *response.status_mut() = value.split(' ').next().unwrap_or(value).parse()?;
        } else {
            response.headers_mut().insert(http::HeaderName::try_from(name)?, value.parse()?);
        }
    }
    *response.body_mut() = Full::new(Bytes::copy_from_slice(&output[end + 4..]));
    Ok(response)
}

/// One repository of a [`GitHost`].
#[derive(Clone, Debug)]
pub struct HostedRepository {
    path: PathBuf,
    url: String,
}

/// What stands at a path of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    File(Vec<u8>),
    Executable(Vec<u8>),
    /// A link with this target.
    Symlink(String),
    /// A submodule at this commit, which need not exist.
    Submodule(String),
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::File(text.into())
    }
}

impl HostedRepository {
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bare repository on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits exactly these files on top of `main` and answers the commit's id. A path is split at each `/` and checked by
    /// nobody: `a/../b`, `.GIT/x` and names with control characters become what they say.
    pub fn commit(&self, files: &[(&str, Content)], message: &str) -> String {
        let tree = self.tree(&files.iter().map(|(path, content)| (*path, content)).collect::<Vec<_>>());
        let parent = self.tip("main");
        let older = match &parent {
            Some(parent) => self.git(&["rev-list", "--count", parent], b"").parse().expect("a count"),
            None => 0u64,
        };
        let time = FIRST_COMMIT_AT + 60 * older;
        let parent = parent.map(|parent| format!("parent {parent}\n")).unwrap_or_default();
        let person = format!("Ana <ana@example.org> {time} +0000");
        let text = format!("tree {tree}\n{parent}author {person}\ncommitter {person}\n\n{message}\n");
        let commit = self.object("commit", text.as_bytes());
        self.set_ref("refs/heads/main", &commit);
        commit
    }

    /// Points a branch or tag (`refs/heads/x`, `refs/tags/v1`) at a commit, wherever it stood before.
    pub fn set_ref(&self, name: &str, commit: &str) {
        self.git(&["update-ref", name, commit], b"");
    }

    pub fn delete_ref(&self, name: &str) {
        self.git(&["update-ref", "-d", name], b"");
    }

    fn tip(&self, branch: &str) -> Option<String> {
        let name = format!("refs/heads/{branch}");
        let found = self.git(&["for-each-ref", "--format=%(objectname)", &name], b"");
        (!found.is_empty()).then_some(found)
    }

    fn tree(&self, files: &[(&str, &Content)]) -> String {
        let mut folders: BTreeMap<&str, Vec<(&str, &Content)>> = BTreeMap::new();
        // Git sorts a directory as if its name ended with a slash.
        let mut entries: Vec<(String, &str, &str, String)> = Vec::new();
        for (path, content) in files {
            if let Some((folder, rest)) = path.split_once('/') {
                folders.entry(folder).or_default().push((rest, content));
                continue;
            }
            let (mode, id) = match content {
                Content::File(bytes) => ("100644", self.object("blob", bytes)),
                Content::Executable(bytes) => ("100755", self.object("blob", bytes)),
                Content::Symlink(target) => ("120000", self.object("blob", target.as_bytes())),
                Content::Submodule(commit) => ("160000", commit.clone()),
            };
            entries.push(((*path).to_owned(), mode, path, id));
        }
        for (name, inside) in &folders {
            entries.push((format!("{name}/"), "40000", name, self.tree(inside)));
        }
        entries.sort();
        let mut bytes = Vec::new();
        for (_, mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("a full object id")));
        }
        self.object("tree", &bytes)
    }

    fn object(&self, kind: &str, bytes: &[u8]) -> String {
        // --literally: no look at whether a tree makes sense.
        self.git(&["hash-object", "-t", kind, "-w", "--literally", "--stdin"], bytes)
    }

    fn git(&self, arguments: &[&str], input: &[u8]) -> String {
        git(&self.path, arguments, input)
    }
}

/// What git gets of our environment: where programs are, and nothing of the machine's own settings.
fn clean_environment() -> Vec<(&'static str, std::ffi::OsString)> {
    vec![
        ("PATH", std::env::var_os("PATH").unwrap_or_default()),
        ("HOME", "/nonexistent".into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
    ]
}

/// Runs git and answers what it prints, without the line's end.
fn git(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = std::process::Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .env_clear()
        .envs(clean_environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    child.stdin.take().expect("stdin is piped").write_all(input).expect("git reads its input");
    let output = child.wait_with_output().expect("git ends");
    assert!(output.status.success(), "git {arguments:?} failed");
    String::from_utf8(output.stdout).expect("git prints text").trim_end().to_owned()
}
