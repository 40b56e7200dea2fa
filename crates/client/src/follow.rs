//! Streams that survive every cut: they reconnect for ever, go on after the last message seen, and say what happened.

use crate::{
    Client, ClientError,
    error::{reason, refusal},
    request::retry_after,
    sse::{Message, Parser},
};
use futures::{Stream, stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// One item of a followed stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed<T> {
    Event(T),
    /// The connection is gone, and is tried again until the caller drops the stream. Told once per cut.
    Disconnected {
        since: Instant,
        why: String,
    },
    /// It is back, and goes on after the last event: nothing was missed.
    Resumed {
        after: Duration,
    },
}

/// What a message of the stream means.
pub(crate) enum Decoded<T> {
    Item(T),
    /// The server has said all; the connection may close.
    Last(Option<T>),
    /// A newer server's word.
    Skip,
    Wrong(String),
}

pub(crate) type Decode<T> = fn(Message) -> Decoded<T>;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// From the request to the head of the answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

struct Follow<T> {
    client: Client,
    url: String,
    decode: Decode<T>,
    last_id: Option<String>,
    connection: Option<(reqwest::Response, Parser)>,
    ready: VecDeque<Message>,
    /// Since when nobody is there, if it was told.
    lost: Option<Instant>,
    failures: u32,
    /// Before the next try to connect.
    pause: Option<Duration>,
    finished: bool,
}

/// As [`follow_after`], from the stream's own beginning.
pub(crate) fn follow<T: 'static>(
    client: &Client,
    path_and_query: &str,
    decode: Decode<T>,
) -> impl Stream<Item = Result<Followed<T>, ClientError>> + Send + use<T> {
    follow_after(client, path_and_query, None, decode)
}

/// Follows `path` after the message of this id. The stream ends after the server's last message, or after an error that trying
/// again can't mend. Dropping it closes the connection; polling it in a `select` loses nothing.
pub(crate) fn follow_after<T: 'static>(
    client: &Client,
    path_and_query: &str,
    last_id: Option<String>,
    decode: Decode<T>,
) -> impl Stream<Item = Result<Followed<T>, ClientError>> + Send + use<T> {
    let follow = Follow {
        client: client.clone(),
        url: client.url(path_and_query),
        decode,
        last_id,
        connection: None,
        ready: VecDeque::new(),
        lost: None,
        failures: 0,
        pause: None,
        finished: false,
    };
    stream::unfold(follow, |mut follow| async move { follow.next().await.map(|item| (item, follow)) })
}

/// Why a connection can't be used.
enum Cut {
    /// Try again, after this pause if the server named one.
    Passing(String, Option<Duration>),
    Final(ClientError),
}

impl<T> Follow<T> {
    async fn next(&mut self) -> Option<Result<Followed<T>, ClientError>> {
        loop {
            if self.finished {
                return None;
            }
            while let Some(message) = self.ready.pop_front() {
                // An event without an id is a place nobody can go on from: the one before it still counts.
                if let Some(id) = message.id.as_ref().filter(|id| !id.is_empty()) {
                    self.last_id = Some(id.clone());
                }
                match (self.decode)(message) {
                    Decoded::Item(item) => return Some(Ok(Followed::Event(item))),
                    Decoded::Skip => {}
                    Decoded::Last(item) => {
                        self.finished = true;
                        return item.map(|item| Ok(Followed::Event(item)));
                    }
                    Decoded::Wrong(what) => return self.fail(ClientError::Protocol { url: self.url.clone(), what }),
                }
            }
            let step = match &mut self.connection {
                Some((response, parser)) => read(response, parser, self.client.idle).await.map(Step::Messages),
                None => self.connect().await.map(Step::Connected),
            };
            match step {
                Ok(Step::Messages(messages)) => {
                    // A server that accepts and hangs up at once is not back.
                    self.failures = if messages.is_empty() { self.failures } else { 0 };
                    self.ready.extend(messages);
                }
                Ok(Step::Connected(response)) => {
                    self.connection = Some((response, Parser::default()));
                    if let Some(since) = self.lost.take() {
                        return Some(Ok(Followed::Resumed { after: since.elapsed() }));
                    }
                }
                Err(Cut::Final(error)) => return self.fail(error),
                Err(Cut::Passing(why, pause)) => {
                    self.connection = None;
                    self.failures += 1;
                    // The first try after a cut is immediate, unless the server keeps hanging up.
                    self.pause = pause.or_else(|| (self.failures > 1).then(|| self.backoff()));
                    if self.lost.is_none() {
                        let since = Instant::now();
                        self.lost = Some(since);
                        return Some(Ok(Followed::Disconnected { since, why }));
                    }
                }
            }
        }
    }

    fn fail(&mut self, error: ClientError) -> Option<Result<Followed<T>, ClientError>> {
        self.finished = true;
        Some(Err(error))
    }

    /// Doubles, with jitter, so that a restarted server does not meet all its followers at once.
    fn backoff(&self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        doubled.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }

    async fn connect(&mut self) -> Result<reqwest::Response, Cut> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        let mut request = self.client.http.get(&self.url).header(ACCEPT, "text/event-stream");
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        let response = match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
            Err(_) => return Err(Cut::Passing("no answer in time".into(), None)),
            Ok(Err(error)) => return Err(Cut::Passing(reason(&error), None)),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            let is_stream = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.starts_with("text/event-stream"));
            let what = "it answered without a stream of events".to_owned();
            return if is_stream {
                Ok(response)
            } else {
                Err(Cut::Final(ClientError::Protocol { url: self.url.clone(), what }))
            };
        }
        let pause = retry_after(response.headers());
        let body = response.bytes().await.unwrap_or_default();
        let error = refusal(&self.url, status, &body);
        if status.is_server_error() || status.as_u16() == 429 {
            Err(Cut::Passing(error.to_string(), pause))
        } else {
            Err(Cut::Final(error))
        }
    }
}

enum Step {
    Messages(Vec<Message>),
    Connected(reqwest::Response),
}

async fn read(response: &mut reqwest::Response, parser: &mut Parser, idle: Duration) -> Result<Vec<Message>, Cut> {
    match tokio::time::timeout(idle, response.chunk()).await {
        Err(_) => Err(Cut::Passing("the server has gone silent".into(), None)),
        Ok(Err(error)) => Err(Cut::Passing(reason(&error), None)),
        Ok(Ok(None)) => Err(Cut::Passing("connection closed".into(), None)),
        Ok(Ok(Some(chunk))) => parser.push(&chunk).map_err(|_| {
            Cut::Final(ClientError::Protocol {
                url: response.url().to_string(),
                what: "an event is larger than any may be".into(),
            })
        }),
    }
}
