//! What can go wrong between a caller and the server: a variant per thing that the caller can do differently.

use api_types::{Problem, problem};
use std::{error::Error, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server understood and refused.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Nobody answered. Whether the request arrived is unknown, unless `source` says so.
    #[error("can't reach {url}: {why} ({}in {})", tries_text(*tries), show_seconds(*waited))]
    Unreachable {
        url: String,
        /// A few words: `connection refused`.
        why: String,
        tries: u32,
        waited: Duration,
        #[source]
        source: reqwest::Error,
    },
    /// Something answered that does not speak this API.
    #[error("{url} does not answer as a UniDesk server does: {what}")]
    Protocol { url: String, what: String },
}

impl ClientError {
    /// The problem's word, such as `no-such-task`, when the server refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Unreachable { .. } | Self::Protocol { .. } => None,
        }
    }
    pub fn is_problem(&self, word: &str) -> bool {
        self.problem().is_some_and(|problem| problem.word() == word)
    }
    /// The same request may well work later: nobody was there, or the server is short of something for now.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => problem.status >= 500 || problem.status == 429,
            Self::Protocol { .. } => false,
        }
    }
}

fn tries_text(tries: u32) -> String {
    if tries == 1 { String::new() } else { format!("{tries} tries ") }
}

fn show_seconds(waited: Duration) -> String {
    let seconds = waited.as_secs_f64();
    if seconds < 9.95 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

/// A failure of the transport in a few words. The causes repeat one another, so only the telling one is named.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if let Some(words) = trust::refusal(error, trust::CA_FILE) {
        return words;
    }
    let mut cause: Option<&dyn Error> = Some(error);
    let mut last = error.to_string();
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && let Some(words) = describe_io(io)
        {
            return words.to_owned();
        }
        last = current.to_string();
        cause = current.source();
    }
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if last.contains("failed to lookup address") {
        return "there is no host of that name".to_owned();
    }
    last
}

fn describe_io(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Some("connection refused"),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Some("connection cut"),
        ErrorKind::TimedOut => Some("no answer in time"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("no way to that host"),
        ErrorKind::UnexpectedEof => Some("connection cut"),
        _ => None,
    }
}

/// Reads a refusal. A body that is not quite a problem (a fault without a pointer, a proxy's page) still says what it can.
pub(crate) fn refusal(url: &str, status: reqwest::StatusCode, body: &[u8]) -> ClientError {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return ClientError::Problem(Box::new(problem));
    }
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(serde_json::Value::as_str);
    let Some(kind) = text("type").filter(|kind| kind.starts_with(problem::TYPE_BASE)) else {
        return ClientError::Protocol { url: url.to_owned(), what: format!("it answered {status}") };
    };
    let mut problem = Problem::new("internal", text("detail").unwrap_or("no detail was given"));
    problem.kind = kind.to_owned();
    problem.title = text("title").unwrap_or_default().to_owned();
    problem.status = status.as_u16();
    problem.request_id = text("request_id").map(str::to_owned);
    problem.retry_after_ms = value.get("retry_after_ms").and_then(serde_json::Value::as_u64);
    let faults = value.get("errors").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    problem.errors = faults.into_iter().filter_map(|fault| serde_json::from_value(fault).ok()).collect();
    ClientError::Problem(Box::new(problem))
}
