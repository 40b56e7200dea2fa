//! Answers that are followed. A producer reads a little, writes it to a short queue and waits for room: for a slow reader at most
//! 2 MiB are kept, and one that takes nothing for ten seconds is cut off. It comes back with the cursor of what it saw last.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures::stream;
use service_kit::{Service, serve::HangUp};
use std::{
    future::Future,
    io,
    time::{Duration, Instant},
};
use store::{StoreError, Subscription, Topic, Wakeups};
use tokio::sync::{broadcast::error::RecvError, mpsc};

/// Pieces between a producer and its connection. Beside them a producer holds one page of what it read, of about a megabyte.
const QUEUE: usize = 16;
/// Of one piece. Whoever takes no whole one within `PATIENCE` takes nothing, so it is small enough for the slowest of lines.
const PIECE_BYTES: usize = 16 * 1024;
/// A reader that took nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// A silent stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(crate) const EVENTS: &str = "text/event-stream";
pub(crate) const BYTES: &str = "application/octet-stream";

/// Why a producer ends before its end.
#[derive(Debug)]
pub(crate) enum Cut {
    ReaderGone,
    Store(StoreError),
    /// The archive of logs, for this reason.
    Archive(String),
}

impl From<StoreError> for Cut {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where a producer writes.
pub(crate) struct Sink {
    queue: mpsc::Sender<Option<Bytes>>,
    hang_up: Option<HangUp>,
    last_sent: Instant,
}

impl Sink {
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Cut> {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            self.send_piece(piece).await?;
        }
        Ok(())
    }

    async fn send_piece(&mut self, bytes: Bytes) -> Result<(), Cut> {
        self.last_sent = Instant::now();
        match self.queue.send_timeout(Some(bytes), PATIENCE).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let (mpsc::error::SendTimeoutError::Timeout(_), Some(hang_up)) = (error, &self.hang_up) {
                    hang_up.now();
                }
                Err(Cut::ReaderGone)
            }
        }
    }

    /// Waits until `changes` hears of something, at most `poll`.
    pub(crate) async fn wait_quietly(&mut self, changes: &mut Changes, poll: Duration) -> Result<(), Cut> {
        tokio::select! {
            () = self.queue.closed() => Err(Cut::ReaderGone),
            () = changes.next(poll) => Ok(()),
        }
    }

    /// As `wait_quietly`, and keeps a stream of events alive with comments.
    pub(crate) async fn wait(&mut self, changes: &mut Changes, poll: Duration) -> Result<(), Cut> {
        self.wait_quietly(changes, poll).await?;
        if self.last_sent.elapsed() >= HEARTBEAT { self.send(": alive\n\n").await } else { Ok(()) }
    }
}

/// Wake-ups of the topics that one stream is about. Made before the first read, so that no change falls between the two.
pub(crate) struct Changes {
    wakeups: Subscription,
    pub(crate) topics: Vec<Topic>,
    every_task: bool,
}

impl Changes {
    pub(crate) fn of(wakeups: &Wakeups, topics: Vec<Topic>) -> Self {
        Self { wakeups: wakeups.subscribe(), topics, every_task: false }
    }

    pub(crate) fn of_every_task(wakeups: &Wakeups) -> Self {
        Self { wakeups: wakeups.subscribe(), topics: vec![Topic::Queue], every_task: true }
    }

    fn is_about(&self, topic: Topic) -> bool {
        self.topics.contains(&topic) || self.every_task && matches!(topic, Topic::Task(_))
    }

    async fn next(&mut self, at_most: Duration) {
        let heard = async {
            loop {
                match self.wakeups.recv().await {
                    Ok(topic) if self.is_about(topic) => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    // The process ends; the poll does the rest.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(at_most, heard).await;
        // The next read sees all that was announced until now.
        self.wakeups.skip();
    }
}

/// An answer that `produce` writes. It ends well only when `produce` does: otherwise the connection is cut, so that a reader never
/// takes a part for the whole.
pub(crate) fn answer<P, F>(
    service: &Service,
    content_type: &'static str,
    hang_up: Option<HangUp>,
    produce: P,
) -> Response
where
    P: FnOnce(Sink) -> F + Send + 'static,
    F: Future<Output = Result<(), Cut>> + Send,
{
    let (queue, receiver) = mpsc::channel(QUEUE);
    let done = queue.clone();
    service.spawn_until_stopped("stream", async move {
        match produce(Sink { queue, hang_up, last_sent: Instant::now() }).await {
            Ok(()) => {
                let _ = done.send_timeout(None, PATIENCE).await;
            }
            Err(Cut::ReaderGone) => {}
            Err(Cut::Archive(error)) => tracing::warn!(error, "a stream was cut"),
            Err(Cut::Store(error)) => {
                tracing::warn!(error = %service_kit::lifecycle::Chain(&error), "a stream was cut")
            }
        }
    });
    let body = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the stream was cut")), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A proxy that collects an answer before it passes it on would hold a live stream back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One event of a stream of events. `data` is JSON, so it has no line break.
pub(crate) fn event(id: &str, name: &str, data: &serde_json::Value) -> String {
    let id = if id.is_empty() { String::new() } else { format!("id: {id}\n") };
    format!("{id}event: {name}\ndata: {data}\n\n")
}

/// Whether the caller asked for events.
pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(EVENTS)))
}

/// The cursor of the last event that the reader saw.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::trim).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_and_little_was_kept_for_it() {
        let service = Service::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let unread = answer(&service, BYTES, None, async move |mut sink: Sink| {
            let mut sent = 0;
            let cut = loop {
                match sink.send(vec![0; 1_000]).await {
                    Ok(()) => sent += 1,
                    Err(cut) => break cut,
                }
            };
            let _ = tell.send(sent);
            Err(cut)
        });
        assert_eq!(told.await, Ok(QUEUE), "what the queue holds, and no more");
        drop(unread);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_never_looks_finished() {
        let service = Service::new();
        let whole = answer(&service, BYTES, None, async |mut sink: Sink| sink.send("all").await);
        assert_eq!(whole.into_body().collect().await.expect("it ends well").to_bytes(), "all");
        let broken = answer(&service, BYTES, None, async |mut sink: Sink| {
            sink.send("a part").await?;
            Err(Cut::ReaderGone)
        });
        assert!(broken.into_body().collect().await.is_err());
    }

    #[test]
    fn events_are_given_to_those_who_ask_for_them() {
        let asks = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_events(&headers)
        };
        assert!(asks("text/event-stream") && asks("application/json, Text/Event-Stream;q=0.9"));
        assert!(!asks("*/*") && !asks("text/plain"));
    }
}
