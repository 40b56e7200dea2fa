//! Problems as HTTP answers. An internal fault is logged here, once, and says nothing to the caller but its request id.

use api_types::{Problem, problem::CONTENT_TYPE};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// What a handler answers when it can't do what was asked.
#[derive(Debug)]
pub struct ApiError(pub Box<Problem>);

impl ApiError {
    pub fn new(word: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(word, detail)))
    }
    /// A fault of our own: the cause goes to the log only.
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(error = %crate::lifecycle::Chain(cause), "a request failed");
        Self::new("internal", "Something went wrong here. The request id finds it in the server's log.")
    }
    /// The database is away: nothing was lost, try again.
    pub fn unavailable(cause: &dyn std::error::Error) -> Self {
        tracing::warn!(error = %crate::lifecycle::Chain(cause), "the database is away");
        Problem::new("unavailable", "The database is away. Nothing that was accepted is lost; try again in a moment.")
            .retry_after_ms(2_000)
            .into()
    }
    /// The database's disk is full: somebody has to make room first, which takes longer than a moment.
    pub fn storage_full(cause: &dyn std::error::Error) -> Self {
        tracing::error!(error = %crate::lifecycle::Chain(cause), "the database's disk is full; make room there, or give it a larger one");
        Problem::new(
            "storage-full",
            "The database's disk is full, so nothing new can be taken. Nothing that was accepted is lost. An administrator has to make room \
             on that disk; then it goes on by itself.",
        )
        .retry_after_ms(60_000)
        .into()
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = problem.retry_after_ms;
        // The middleware fills in the request id and the instance, which it knows.
        let mut response = (status, axum::Json(&*problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(ms) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        response.extensions_mut().insert(ProblemMarker(problem));
        response
    }
}

/// Lets the outermost middleware see that an answer is a problem, to complete it.
#[derive(Clone)]
struct ProblemMarker(Box<Problem>);

/// Middleware: completes problems with the request's path and id.
pub async fn complete(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<crate::RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(ProblemMarker(mut problem)) = response.extensions_mut().remove() else { return response };
    problem.instance = Some(path);
    problem.request_id = id.map(|id| id.0);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = body.into();
    response
}
