//! Logs of the program itself: structured, filtered by `UNIDESK_LOG`, in the form of `UNIDESK_LOG_FORMAT`.

use std::io::IsTerminal as _;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Sets up tracing to stderr, and metrics. `default_filter` holds where `UNIDESK_LOG` is not set. Safe to repeat: the first call counts.
pub fn init(default_filter: &str) {
    crate::metrics::install();
    let (filter, complaint) = filter(std::env::var("UNIDESK_LOG").ok().as_deref(), default_filter);
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
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
}

/// Levels by target. (A filter that can also tell spans by their fields asks at each step of each task whether it does: two percent of what the
/// services computed at full load, by `perf`.)
fn filter(given: Option<&str>, default_filter: &str) -> (Targets, Option<String>) {
    let of_default = || default_filter.parse().unwrap_or_default();
    match given.filter(|given| !given.trim().is_empty()).map(str::parse::<Targets>) {
        None => (of_default(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => {
            let complaint = format!(
                "UNIDESK_LOG={:?} is no filter ({error}), so {default_filter} counts; levels look like info or scheduler=debug,info",
                given.unwrap_or_default()
            );
            (of_default(), Some(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_filter_is_levels_by_target_and_one_that_is_none_is_told() {
        let (levels, complaint) = filter(Some("scheduler=debug,info"), "warn");
        assert!(complaint.is_none());
        assert!(levels.would_enable("scheduler::placement_loop", &Level::DEBUG));
        assert!(levels.would_enable("store", &Level::INFO) && !levels.would_enable("store", &Level::DEBUG));
        let (levels, complaint) = filter(Some("scheduler=loud"), "warn");
        assert!(complaint.is_some_and(|text| text.contains("scheduler=loud") && text.contains("warn counts")));
        assert!(levels.would_enable("store", &Level::WARN) && !levels.would_enable("store", &Level::INFO));
        for unset in [None, Some(""), Some(" ")] {
            assert!(filter(unset, "info").0.would_enable("store", &Level::INFO));
        }
    }
}
