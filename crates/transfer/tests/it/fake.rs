//! A store that speaks HTTP byte by byte, so that it can break it anywhere, and a platform that hands out its addresses.

use api_types::artifact::{PartAddress, PartsRequest, SignedRequest};
use base64::{Engine, prelude::BASE64_STANDARD};
use domain::artifact::Sha256Digest;
use futures::{FutureExt, future::BoxFuture};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use transfer::{AddressError, Content, Downloads, Observer, Options, Pauses, Trouble, Uploads};

/// What the store does to one request instead of what it should.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Status(u16),
    /// The connection is cut after so many bytes of the content.
    CutAfter(usize),
    /// A byte now and then.
    Drip,
    /// One byte is another.
    WrongByte,
    /// The range is passed over.
    IgnoreRange,
    /// It says that there is more of it than there is.
    WrongTotal,
    None,
}

#[derive(Default)]
pub(crate) struct State {
    /// One a request, the first one first.
    pub(crate) faults: VecDeque<Fault>,
    /// Of all requests that have none of their own.
    pub(crate) always: Option<Fault>,
    pub(crate) parts: BTreeMap<u32, Vec<u8>>,
    /// Numbers of parts that arrived whole.
    pub(crate) puts: Vec<u32>,
    /// What is fetched.
    pub(crate) content: Vec<u8>,
    /// Bytes of it that were given out: by which address, and how many.
    given: Vec<(u64, usize)>,
    /// Addresses with a lower number have expired.
    pub(crate) valid_from: u64,
}

pub(crate) struct Fake {
    url: String,
    state: Arc<Mutex<State>>,
    /// Numbers of addresses.
    issued: AtomicU64,
    /// What the platform was told.
    pub(crate) told: Mutex<BTreeMap<u32, String>>,
    /// Parts that it says are stored.
    pub(crate) known: Mutex<BTreeMap<u32, Sha256Digest>>,
    /// So many questions are not answered.
    pub(crate) away: AtomicU64,
    pub(crate) refuses: Mutex<Option<String>>,
    /// Done at the first question.
    pub(crate) at_first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    _accepting: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::with(State::default()).await
    }
    pub(crate) async fn with_content(content: Vec<u8>) -> Self {
        Self::with(State { content, ..State::default() }).await
    }
    async fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let state = Arc::new(Mutex::new(state));
        let mut accepting = JoinSet::new();
        let shared = state.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn(async move {
                    let _ = serve(socket, &state).await;
                });
            }
        });
        Self {
            url,
            state,
            issued: AtomicU64::new(0),
            told: Mutex::default(),
            known: Mutex::default(),
            away: AtomicU64::new(0),
            refuses: Mutex::default(),
            at_first: Mutex::default(),
            _accepting: accepting,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }
    /// All parts, one after the other.
    pub(crate) fn assembled(&self) -> Vec<u8> {
        self.state().parts.values().flatten().copied().collect()
    }
    pub(crate) fn content(&self) -> Content {
        let state = self.state();
        Content { size: state.content.len() as u64, sha256: sha256(&state.content) }
    }
    /// Bytes that were given out in all.
    pub(crate) fn given(&self) -> usize {
        self.given_since(0)
    }
    /// The same by addresses after this number: a request of somebody who has left may be answered at any time.
    pub(crate) fn given_since(&self, issued: u64) -> usize {
        self.state().given.iter().filter(|(number, _)| *number > issued).map(|(_, bytes)| bytes).sum()
    }
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Relaxed)
    }

    fn sign(&self, method: &str, path: &str, headers: BTreeMap<String, String>) -> SignedRequest {
        let number = self.issued.fetch_add(1, Relaxed) + 1;
        SignedRequest {
            method: method.to_owned(),
            url: format!("{}/{path}?signature={number}", self.url),
            headers,
            expires_at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn check(&self) -> Result<(), AddressError> {
        if let Some(act) = self.at_first.lock().expect("no panic").take() {
            act();
        }
        let error =
            |why: &str, is_passing| AddressError { why: why.to_owned(), is_passing, retry_after: None, source: None };
        if let Some(why) = &*self.refuses.lock().expect("no panic") {
            return Err(error(why, false));
        }
        if self.away.load(Relaxed) > 0 {
            self.away.fetch_sub(1, Relaxed);
            return Err(error("the platform is away", true));
        }
        Ok(())
    }
}

impl Uploads for Fake {
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move {
            self.check()?;
            self.told.lock().expect("no panic").extend(request.stored.into_iter().map(|part| (part.number, part.etag)));
            let known = self.known.lock().expect("no panic");
            let addresses = request.wanted.iter().map(|part| {
                let is_known = known.get(&part.number) == Some(&part.sha256);
                let headers = BTreeMap::from([
                    ("content-length".to_owned(), part.size.to_string()),
                    ("x-amz-checksum-sha256".to_owned(), BASE64_STANDARD.encode(part.sha256.0)),
                ]);
                let put = (!is_known).then(|| self.sign("PUT", &format!("part/{}", part.number), headers));
                PartAddress { number: part.number, put }
            });
            Ok(addresses.collect())
        }
        .boxed()
    }
}

impl Downloads for Fake {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move {
            self.check()?;
            Ok(self.sign("GET", "content", BTreeMap::new()))
        }
        .boxed()
    }
}

async fn serve(mut socket: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = socket.read_u8().await?;
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    let target = head.split(' ').nth(1).expect("a target").to_owned();
    let signature: u64 = target.rsplit('=').next().expect("a signature").parse().expect("a number");
    let (fault, is_expired) = {
        let mut state = state.lock().expect("no panic");
        let always = state.always.unwrap_or(Fault::None);
        (state.faults.pop_front().unwrap_or(always), signature < state.valid_from)
    };
    if is_expired {
        let body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
        return answer(&mut socket, "403 Forbidden", "", body.as_bytes()).await;
    }
    if let Fault::Status(status) = fault {
        let body = "<Error><Code>Broken</Code><Message>on purpose</Message></Error>";
        return answer(&mut socket, &format!("{status} Scripted"), "", body.as_bytes()).await;
    }
    if head.starts_with("put ") {
        let length: usize = header("content-length").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        match fault {
            Fault::CutAfter(bytes) => {
                socket.read_exact(&mut body[..bytes.min(length)]).await?;
                return Ok(());
            }
            Fault::Drip => {
                for byte in &mut body {
                    *byte = socket.read_u8().await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            _ => {
                socket.read_exact(&mut body).await?;
            }
        }
        let wanted = header("x-amz-checksum-sha256").expect("a signed checksum");
        if BASE64_STANDARD.encode(sha256(&body).0).to_ascii_lowercase() != wanted {
            return answer(&mut socket, "400 Bad Request", "", b"<Error><Code>BadDigest</Code></Error>").await;
        }
        let number: u32 = target
            .split('?')
            .next()
            .and_then(|path| path.rsplit('/').next())
            .expect("a part")
            .parse()
            .expect("a number");
        {
            let mut state = state.lock().expect("no panic");
            state.parts.insert(number, body);
            state.puts.push(number);
        }
        return answer(&mut socket, "200 OK", &format!("etag: \"{number}\"\r\n"), b"").await;
    }
    let range = header("range").expect("a range");
    let (start, end) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let (start, end): (usize, usize) = (start.parse().expect("a number"), end.parse().expect("a number"));
    let content = state.lock().expect("no panic").content.clone();
    if start >= content.len() {
        return answer(&mut socket, "416 Range Not Satisfiable", "", b"").await;
    }
    let (status, mut body, extra) = match fault {
        Fault::IgnoreRange => ("200 OK", content.clone(), String::new()),
        _ => {
            let end = (end + 1).min(content.len());
            let total = content.len() + usize::from(matches!(fault, Fault::WrongTotal));
            let extra = format!("content-range: bytes {start}-{}/{total}\r\n", end - 1);
            ("206 Partial Content", content[start..end].to_vec(), extra)
        }
    };
    if let Fault::WrongByte = fault {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{extra}content-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await?;
    let given = match fault {
        Fault::CutAfter(bytes) => bytes.min(body.len()),
        _ => body.len(),
    };
    state.lock().expect("no panic").given.push((signature, given));
    if let Fault::Drip = fault {
        for byte in body {
            socket.write_all(&[byte]).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        return Ok(());
    }
    socket.write_all(&body[..given]).await
}

async fn answer(socket: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body).await?;
    // Read on, so that the answer is not lost to a reset: the client may still be sending.
    let mut rest = [0; 4096];
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(200), socket.read(&mut rest)).await
        && read > 0
    {}
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

/// Bytes that look like nothing, always the same.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Quick pauses, small ranges, little patience.
pub(crate) fn quick() -> Options {
    let pauses = Pauses {
        first: Duration::from_millis(5),
        longest: Duration::from_millis(40),
        give_up_after: Duration::from_secs(20),
    };
    Options { range: 10_000, pauses, slow_after: Duration::from_millis(400), least_bytes: 100, ..Options::default() }
}

/// What was told, for comparing.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) moved: AtomicU64,
    pub(crate) again: AtomicU64,
    pub(crate) had: AtomicU64,
    pub(crate) backs: AtomicU64,
    pub(crate) troubles: Mutex<Vec<String>>,
}
impl Observer for Heard {
    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }
    fn again(&self, bytes: u64) {
        self.again.fetch_add(bytes, Relaxed);
    }
    fn had(&self, bytes: u64) {
        self.had.fetch_add(bytes, Relaxed);
    }
    fn trouble(&self, trouble: &Trouble) {
        self.troubles.lock().expect("no panic").push(trouble.why.clone());
    }
    fn back(&self, _: Duration) {
        self.backs.fetch_add(1, Relaxed);
    }
}
impl Heard {
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.lock().expect("no panic").clone()
    }
    /// What has arrived, as a progress bar shows it.
    pub(crate) fn total(&self) -> u64 {
        self.moved.load(Relaxed) + self.had.load(Relaxed) - self.again.load(Relaxed)
    }
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
