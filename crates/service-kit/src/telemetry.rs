//! Logs of the program itself: structured, filtered by `UNIDESK_LOG`, in the form of `UNIDESK_LOG_FORMAT`.

use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Sets up tracing to stderr. `default_filter` holds where `UNIDESK_LOG` is not set. Safe to repeat: the first call counts.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("UNIDESK_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let is_json = std::env::var("UNIDESK_LOG_FORMAT").is_ok_and(|format| format == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let outcome = if is_json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .compact()
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    // Somebody was first: a test with several services in one process.
    drop(outcome);
}
