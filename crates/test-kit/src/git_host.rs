//! A real Git server: smart HTTP by `git http-backend` behind a small HTTP front, on loopback, in this process. Its
//! repositories are built object by object, so that they can hold what no honest client would make.

mod repository;

pub use repository::{Content, HostedRepository};

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use repository::{clean_environment, git};
use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::oneshot, task::JoinSet};

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
        HostedRepository::at(path, self.url(name))
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
        if let Some(server) = self.server.take() {
            // Also when a test fails: the thread holds the directory. What it panicked over matters less than the test's own words.
            let _ = server.stop.send(());
            let _ = server.thread.join();
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
