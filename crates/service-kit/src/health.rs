//! `/healthz` (the process lives), `/readyz` (it can serve) and, beside them, `/metrics`.

use axum::{Router, http::StatusCode, routing::get};
use std::{future::Future, pin::Pin, sync::Arc};

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// All three routes. `ready` says what is missing.
pub fn router<F, R>(ready: F) -> Router
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let check: Check = Arc::new(move || Box::pin(ready()));
    crate::metrics::router().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || {
            let check = check.clone();
            async move {
                match check().await {
                    Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                    Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
                }
            }
        }),
    )
}
