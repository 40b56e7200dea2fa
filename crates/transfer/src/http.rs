//! One request to the object store: what is sent and received, and what its failure means.

use crate::{Observer, Options, pace::Pace, source::PartContent};
use api_types::artifact::SignedRequest;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::{Method, StatusCode, header};
use std::{
    collections::HashMap,
    error::Error,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};
use trust::Trust;

/// What is given to the connection at one time.
const PIECE: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// The object store as an HTTP client knows it: no credential but what an address has in it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Store {
    trust: Trust,
    /// By whether TLS is spoken, and whether a proxy is passed by.
    clients: Arc<Mutex<HashMap<(bool, bool), reqwest::Client>>>,
}

/// Why a request did not do what it should.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may well work in a moment.
    Passing { why: String, retry_after: Option<Duration> },
    /// The store understood and said no. A fresh address may help.
    Refused { why: String },
    /// What answers there has no certificate that is trusted here.
    Untrusted { why: String },
    /// There are more or fewer bytes than there should be.
    WrongSize { found: Option<u64> },
}

/// How far one request is.
#[derive(Default)]
struct Meter {
    moved: AtomicU64,
    /// It waits for the bandwidth limit, not for the other end.
    is_paced: AtomicBool,
}

impl Meter {
    async fn pace(&self, pace: &Pace, bytes: u64) {
        self.is_paced.store(true, Relaxed);
        pace.take(bytes).await;
        self.is_paced.store(false, Relaxed);
    }
}

/// What requests of one transfer share.
pub(crate) struct Wire<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) pace: Arc<Pace>,
    pub(crate) observer: &'a dyn Observer,
}

impl Wire<'_> {
    /// Sends a part; the store's `ETag`. What was told as moved is taken back when it fails.
    pub(crate) async fn put(&self, signed: &SignedRequest, content: &PartContent, size: u64) -> Result<String, Fault> {
        let meter = Arc::new(Meter::default());
        let body = body(content.clone(), size, self.pace.clone(), meter.clone());
        let request =
            self.store.request(signed)?.header(header::CONTENT_LENGTH, size).body(reqwest::Body::wrap_stream(body));
        let sending = async {
            let response = request.send().await.map_err(unreachable)?;
            let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            // A store that takes nothing in and says nothing wrong is none.
            etag.ok_or_else(|| Fault::Refused { why: "it took a part and gave no ETag for it".to_owned() })
        };
        let sent = self.watch(sending, &meter, size).await;
        if sent.is_err() {
            self.observer.again(meter.moved.load(Relaxed));
        }
        sent
    }

    /// Fetches the rest of a range: what `into` has of it already is not asked for again, and what came before a failure stays in it.
    pub(crate) async fn get(
        &self,
        signed: &SignedRequest,
        range: &Range<u64>,
        whole: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let wanted = range.start + into.len() as u64..range.end;
        let bytes = format!("bytes={}-{}", wanted.start, wanted.end - 1);
        let request = self.store.request(signed)?.header(header::RANGE, bytes);
        let meter = Meter::default();
        let fetching = async {
            let response = request.send().await.map_err(unreachable)?;
            let (starts_at, found) = match response.status() {
                StatusCode::PARTIAL_CONTENT => content_range(&response),
                // The range was passed over. Its beginning is of use, if that was wanted.
                StatusCode::OK => (Some(0), response.content_length()),
                _ => return Err(refusal(response).await),
            };
            if found.is_some_and(|found| found != whole) {
                return Err(Fault::WrongSize { found });
            }
            if starts_at != Some(wanted.start) {
                let why = format!("it was asked for bytes from {} on and gave others; ranges are needed", wanted.start);
                return Err(Fault::Refused { why });
            }
            let mut body = response.bytes_stream();
            while (into.len() as u64) < range.end - range.start {
                let Some(piece) = body.next().await else {
                    return Err(Fault::Passing { why: "connection cut".to_owned(), retry_after: None });
                };
                let piece = piece.map_err(unreachable)?;
                let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX) - into.len();
                let piece = &piece[..piece.len().min(left)];
                into.extend_from_slice(piece);
                meter.moved.fetch_add(piece.len() as u64, Relaxed);
                meter.pace(&self.pace, piece.len() as u64).await;
            }
            Ok(())
        };
        self.watch(fetching, &meter, u64::MAX).await
    }

    /// Tells of progress, and ends a request that makes none.
    async fn watch<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
        meter: &Meter,
        whole: u64,
    ) -> Result<T, Fault> {
        let mut work = pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = 0;
        let (mut since, mut at_since) = (Instant::now(), 0);
        loop {
            let done = tokio::select! {
                biased;
                done = &mut work => Some(done),
                _ = ticks.tick() => None,
            };
            let moved = meter.moved.load(Relaxed);
            self.observer.moved(moved - told);
            told = moved;
            if let Some(done) = done {
                return done;
            }
            // When all was given away it is the store's turn: it has to write it down.
            let patience = if moved >= whole { self.options.slow_after * 4 } else { self.options.slow_after };
            if meter.is_paced.load(Relaxed) || moved - at_since >= self.options.least_bytes {
                (since, at_since) = (Instant::now(), moved);
            } else if since.elapsed() >= patience {
                let why = match moved - at_since {
                    0 => "no answer in time".to_owned(),
                    bytes => format!("only {bytes} bytes in {:.0} s", since.elapsed().as_secs_f64()),
                };
                return Err(Fault::Passing { why, retry_after: None });
            }
        }
    }
}

impl Store {
    pub fn new() -> Self {
        Self::default()
    }

    /// One whose certificate may be of these authorities.
    pub fn trusting(trust: Trust) -> Self {
        Self { trust, clients: Arc::default() }
    }

    fn request(&self, signed: &SignedRequest) -> Result<reqwest::RequestBuilder, Fault> {
        let wrong = |why: String| Fault::Refused { why };
        let url = reqwest::Url::parse(&signed.url).map_err(|error| wrong(format!("its address is none: {error}")))?;
        let method =
            Method::from_bytes(signed.method.as_bytes()).map_err(|_| wrong("its method is none".to_owned()))?;
        let client = self.client(&url).map_err(|error| wrong(format!("TLS can't be set up: {error}")))?;
        let mut request = client.request(method, url);
        for (name, value) in &signed.headers {
            // The length is said once, by the body.
            if !name.eq_ignore_ascii_case("content-length") {
                request = request.header(name, value);
            }
        }
        Ok(request)
    }

    fn client(&self, url: &reqwest::Url) -> Result<reqwest::Client, reqwest::Error> {
        let is_tls = url.scheme() == "https";
        let host = url.host_str().unwrap_or_default();
        let is_local = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&(is_tls, is_local)) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("unidesk/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            // What is signed is signed for one host.
            .redirect(reqwest::redirect::Policy::none());
        if is_local {
            builder = builder.no_proxy();
        }
        builder = match is_tls {
            true => builder.tls_certs_merge(self.trust.certificates().flat_map(reqwest::Certificate::from_der)),
            // No certificate is looked at, so a machine without a set of them must not fail for it.
            false => builder.tls_certs_only(std::iter::empty()),
        };
        let client = builder.build()?;
        clients.insert((is_tls, is_local), client.clone());
        Ok(client)
    }
}

/// The content in small pieces, as fast as the limit lets them go.
fn body(
    content: PartContent,
    size: u64,
    pace: Arc<Pace>,
    meter: Arc<Meter>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(0u64, move |at| {
        let (content, pace, meter) = (content.clone(), pace.clone(), meter.clone());
        async move {
            let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(PIECE);
            if length == 0 {
                return Ok(None);
            }
            let piece = match content {
                PartContent::Bytes(bytes) => {
                    let at = usize::try_from(at).unwrap_or(usize::MAX);
                    bytes.slice(at..at + length)
                }
                PartContent::InFile { file, offset } => {
                    let read = move || {
                        let mut piece = vec![0; length];
                        file.read_exact_at(&mut piece, offset + at).map(|()| piece)
                    };
                    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??.into()
                }
            };
            meter.pace(&pace, length as u64).await;
            meter.moved.fetch_add(length as u64, Relaxed);
            Ok(Some((piece, at + length as u64)))
        }
    })
}

/// Where the bytes of an answer begin, and how many there are in all.
fn content_range(response: &reqwest::Response) -> (Option<u64>, Option<u64>) {
    let text = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((range, whole)) = text.strip_prefix("bytes ").and_then(|text| text.split_once('/')) else {
        return (None, None);
    };
    (range.split_once('-').and_then(|(start, _)| start.parse().ok()), whole.parse().ok())
}

async fn refusal(response: reqwest::Response) -> Fault {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let mut body = response.bytes_stream();
    let mut text = Vec::new();
    while text.len() < 4096
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(Duration::from_secs(5), body.next()).await
    {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&text);
    let said = |tag: &str| {
        let begin = text.find(&format!("<{tag}>"))? + tag.len() + 2;
        let length = text[begin..].find("</")?;
        Some(text[begin..begin + length].trim().to_owned()).filter(|said| !said.is_empty())
    };
    let words: Vec<String> = [Some(status.to_string()), said("Code"), said("Message")].into_iter().flatten().collect();
    let why = words.join(", ");
    match status {
        StatusCode::RANGE_NOT_SATISFIABLE => Fault::WrongSize { found: None },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Fault::Passing { why, retry_after },
        status if status.is_server_error() => Fault::Passing { why, retry_after },
        _ => Fault::Refused { why },
    }
}

/// A failure of the transport in a few words, and never with the address: whoever reads that may use it. A host alone is of no use.
fn unreachable(error: reqwest::Error) -> Fault {
    let host = error.url().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let error = error.without_url();
    if let Some(why) = trust::refusal(&error, trust::CA_FILE) {
        return Fault::Untrusted { why: format!("object store at {}: {why}", host.unwrap_or_default()) };
    }
    let mut cause: Option<&dyn Error> = Some(&error);
    let mut why = error.to_string();
    while let Some(current) = cause {
        why = current.to_string();
        if let Some(io) = current.downcast_ref::<io::Error>() {
            use io::ErrorKind;
            let words = match io.kind() {
                ErrorKind::ConnectionRefused => Some("connection refused"),
                ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::UnexpectedEof => Some("connection cut"),
                ErrorKind::TimedOut => Some("no answer in time"),
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("no way to that host"),
                _ => None,
            };
            if let Some(words) = words {
                why = words.to_owned();
                break;
            }
        }
        cause = current.source();
    }
    if error.is_timeout() {
        why = "no answer in time".to_owned();
    }
    Fault::Passing { why: format!("object store: {why}"), retry_after: None }
}
