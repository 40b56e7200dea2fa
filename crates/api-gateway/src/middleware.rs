//! What every request passes through: its line in the log, and the answer to a panic.

use crate::figures;
use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use service_kit::{ApiError, RequestId};
use std::{
    any::Any,
    time::{Duration, Instant},
};
use tower_http::catch_panic::ResponseForPanic;
use tracing::Instrument as _;

/// One span a request, and one count. The path only: a query may hold what is nobody's business.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map_or("", |id| id.0.as_str());
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path(), request.id = id);
    let (route, method) = (request.extensions().get::<MatchedPath>().cloned(), request.method().clone());
    async move {
        let began = Instant::now();
        let response = next.run(request).await;
        let (status, took) = (response.status().as_u16(), began.elapsed());
        figures::count_request(route.as_ref(), &method, status, took);
        let duration_ms = took.as_millis() as u64;
        tracing::debug!(status, duration_ms, "answered");
        response
    }
    .instrument(span)
    .await
}

/// How long an answer may take to begin: as long as the database gives a query. A stream may go on for as long as it likes.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// An audit of everything has its own limit, which is shorter.
const AUDIT_WITHIN: Duration = Duration::from_secs(30);

/// An object store may take its time to put a large upload together. These routes give every other wait of theirs an end by themselves.
const GATHER_WITHIN: Duration = Duration::from_secs(120);
/// A check that reads an object to its end: 100 GB of a slow store.
const READ_WITHIN: Duration = Duration::from_secs(3_600);

fn answer_within(path: &str) -> Duration {
    match path.strip_prefix("/api/v1/") {
        Some(path) if path.starts_with("audit/") => AUDIT_WITHIN,
        Some("artifacts:fsck") => READ_WITHIN,
        Some(path) if path.starts_with("artifacts/") && path.ends_with("/complete") => GATHER_WITHIN,
        Some(path) if path.starts_with("node/attempts/") && path.ends_with("/complete") => GATHER_WITHIN,
        _ => ANSWER_WITHIN,
    }
}

/// A database that hangs must not hang whoever asks: nothing is known then but that it may be tried again.
pub(crate) async fn within_time(request: Request, next: Next) -> Response {
    let within = answer_within(request.uri().path());
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => given_up(within).into_response(),
    }
}

/// Who is asking is known in time, however long the answer may take.
pub(crate) async fn known_in_time<T>(asking: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::time::timeout(ANSWER_WITHIN, asking).await.unwrap_or_else(|_| Err(given_up(ANSWER_WITHIN)))
}

fn given_up(after: Duration) -> ApiError {
    tracing::warn!(after_s = after.as_secs(), "a request was given up: the database did not answer");
    // In the words of any other answer without a database: which of them it is depends on a connection's mood.
    api_types::Problem::new(
        "unavailable",
        "The database is away. Nothing that was accepted is lost; try again in a moment.",
    )
    .retry_after_ms(2_000)
    .into()
}

/// A panic is a fault of our own: what it said goes to the log, and nothing of it to the caller.
#[derive(Clone, Copy)]
pub(crate) struct Panicked;

impl ResponseForPanic for Panicked {
    type ResponseBody = axum::body::Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> Response {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        tracing::error!(panic = said.unwrap_or("something that is no text"), "a handler panicked");
        ApiError::new("internal", "Something went wrong here. The request id finds it in the server's log.")
            .into_response()
    }
}
