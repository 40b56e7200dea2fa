//! What the gateway counts: requests by route, and the sessions of nodes.

use axum::{extract::MatchedPath, http::Method};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

const REQUESTS: &str = "unidesk_http_requests_total";
const REQUEST: &str = "unidesk_http_request_seconds";
const SESSIONS: &str = "unidesk_sessions";
const OPENS: &str = "unidesk_session_opens_total";
const RECONNECTS: &str = "unidesk_reconnects_total";
const LOG_BYTES: &str = "unidesk_log_bytes_total";

pub(crate) fn describe() {
    describe_counter!(REQUESTS, "Answered requests by route, method and status; what is at no route is `none`");
    describe_histogram!(REQUEST, "From a request until its answer begins; a stream may go on for long after that");
}

/// The routes are few, as they are written and not as they are asked for; the methods are those that we know.
pub(crate) fn count_request(route: Option<&MatchedPath>, method: &Method, status: u16, took: Duration) {
    let route = route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let known = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PATCH];
    let method = if known.contains(method) { method.as_str().to_owned() } else { "other".to_owned() };
    histogram!(REQUEST, "route" => route.clone()).record(took);
    counter!(REQUESTS, "route" => route, "method" => method, "status" => status.to_string()).increment(1);
}

#[derive(Clone)]
pub(crate) struct SessionFigures {
    open: Gauge,
    opens: Counter,
    reconnects: Counter,
    pub(crate) log_bytes: Counter,
}

impl SessionFigures {
    pub(crate) fn new() -> Self {
        describe_gauge!(SESSIONS, "Nodes that are connected to this process");
        describe_counter!(OPENS, "Sessions of nodes that this process opened");
        describe_counter!(RECONNECTS, "Those of them whose node had had a session before");
        describe_counter!(LOG_BYTES, "Bytes of tasks' logs that nodes sent and this process stored");
        Self {
            open: gauge!(SESSIONS),
            opens: counter!(OPENS),
            reconnects: counter!(RECONNECTS),
            log_bytes: counter!(LOG_BYTES),
        }
    }

    /// The first session of a node is its number 1.
    pub(crate) fn opened(&self, epoch: i64) -> OpenSession {
        self.open.increment(1.0);
        self.opens.increment(1);
        self.reconnects.increment(u64::from(epoch > 1));
        OpenSession(self.open.clone())
    }
}

/// Counted for as long as it lives.
pub(crate) struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
