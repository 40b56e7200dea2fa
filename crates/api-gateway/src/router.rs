//! Which route is whose, and what every request passes through.

use crate::{AppState, audit, auth, checks, cluster, echo, events, middleware, providers, tasks};
use axum::{
    Router,
    extract::Request,
    http::header,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use service_kit::{ApiError, health, problem_response, request_id};
use std::{iter::once, time::Duration};
use tower_http::{catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer};

/// Whoever asks whether this server is ready has little patience, and sends others elsewhere meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Everything that is served. `extra` carries its whole paths and stands behind the same authentication, `for_nodes` behind that of nodes.
pub fn router(state: AppState, extra: Router, for_nodes: Router) -> Router {
    crate::figures::describe();
    let ours = Router::new()
        .route("/api/v1/auth/whoami", get(auth::routes::whoami))
        .route("/api/v1/tasks", post(tasks::submit::submit).get(tasks::list::list))
        .route("/api/v1/tasks:batch", post(tasks::batch::submit))
        .route("/api/v1/tasks/{id}", get(tasks::get::get))
        .route("/api/v1/tasks/{id}/cancel", post(tasks::cancel::cancel))
        .route("/api/v1/tasks/{id}/retry", post(tasks::retry::retry))
        .route("/api/v1/tasks/{id}/credentials", post(tasks::credentials::issue))
        .route("/api/v1/tasks/{id}/events", get(tasks::events::events))
        .route("/api/v1/tasks/{id}/logs", get(tasks::logs::logs))
        .route("/api/v1/tasks/{id}/why", get(tasks::why::why))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/cluster/status", get(cluster::status))
        .route("/api/v1/cluster/checks", get(checks::checks))
        .route("/api/v1/cluster/echo", get(echo::echo))
        .route("/api/v1/audit/invariants", get(audit::invariants))
        .with_state(state.clone());
    let api = ours.merge(extra).route_layer(from_fn_with_state(state.clone(), auth::require));
    let store = state.store.clone();
    let is_ready = move || {
        let store = store.clone();
        async move {
            match tokio::time::timeout(READY_WITHIN, store.ping()).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("the database has not answered for {} s", READY_WITHIN.as_secs())),
            }
        }
    };
    Router::new()
        .route("/api/v1/auth/token", post(auth::routes::exchange))
        .with_state(state.clone())
        .merge(api)
        .merge(providers::router(&state, for_nodes))
        .merge(health::router(is_ready))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        // The last layer is the outermost: an id first, then the log, and a panic's answer is completed like any other.
        .layer(from_fn(middleware::within_time))
        .layer(CatchPanicLayer::custom(middleware::Panicked))
        .layer(SetSensitiveRequestHeadersLayer::new(once(header::AUTHORIZATION)))
        .layer(from_fn(problem_response::complete))
        .layer(from_fn(middleware::trace))
        .layer(from_fn(request_id::assign))
}

async fn no_such_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new("no-such-route", format!("There is nothing at {path}. The API begins at /api/v1."))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new("method-not-allowed", format!("{path} does not take {}.", request.method()))
}
