//! `/metrics`: what this process counts, in Prometheus' text format. Anybody counts with the macros of the crate `metrics`.

use axum::{Router, http::header, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

/// One registry a process, whatever services run in it. None: something else in this process counts already.
static REGISTRY: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The route. From the first call on, what is counted is kept.
pub fn router() -> Router {
    let registry = REGISTRY.get_or_init(|| {
        PrometheusBuilder::new()
            .install_recorder()
            .inspect_err(|error| tracing::warn!(%error, "metrics are not kept"))
            .ok()
    });
    let render = move || async move {
        let text = registry.as_ref().map(PrometheusHandle::render).unwrap_or_default();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    };
    Router::new().route("/metrics", get(render))
}
