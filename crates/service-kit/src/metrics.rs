//! `/metrics`: what this process counts, in Prometheus' text format. Anybody counts with the macros of the crate `metrics`, and says with
//! its `describe_` macros what it counts. What is read from elsewhere, as the state of the database, is published as a whole ([`publish`]):
//! what is not there any more leaves nothing behind.

use axum::{Router, http::header, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

/// One registry a process, whatever services run in it. None: something else in this process counts already.
static REGISTRY: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
static PUBLISHED: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// From the answer of an index to a task of half a day: one set for all, so that any two may be compared.
const SECONDS: [f64; 17] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0];
/// Of groups: how many were written at once.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// What is observed waits in memory until it is sorted into its bucket, also where nobody ever asks.
const SORTED_EVERY: Duration = Duration::from_secs(5);

/// From the first call on, what is counted is kept: a counter that somebody took before counts nothing. Safe to repeat.
pub fn install() {
    registry();
}

fn registry() -> Option<&'static PrometheusHandle> {
    let start = || -> Result<PrometheusHandle, Box<dyn std::error::Error>> {
        let registry = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZES)?
            .install_recorder()?;
        let sorted = registry.clone();
        // A thread: services come and go in a process, and may have a runtime each.
        std::thread::Builder::new().name("metrics".into()).spawn(move || {
            loop {
                std::thread::sleep(SORTED_EVERY);
                sorted.run_upkeep();
            }
        })?;
        Ok(registry)
    };
    let started = || start().inspect_err(|error| tracing::warn!(%error, "metrics are not kept")).ok();
    REGISTRY.get_or_init(started).as_ref()
}

/// The route.
pub fn router() -> Router {
    install();
    let answer = || async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()) };
    Router::new().route("/metrics", get(answer))
}

fn render() -> String {
    let mut text = registry().map(PrometheusHandle::render).unwrap_or_default();
    published().values().for_each(|figures| text += figures);
    text
}

/// Shows these figures from now on in the place of those of before; None: nothing any more.
pub fn publish(section: &'static str, figures: Option<Figures>) {
    match figures {
        Some(figures) => published().insert(section, figures.0),
        None => published().remove(section),
    };
}

fn published() -> MutexGuard<'static, BTreeMap<&'static str, String>> {
    PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gauges that were read at one moment.
#[derive(Default)]
pub struct Figures(String);

impl Figures {
    /// Begins a gauge; its samples follow.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge<'_> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        Gauge { text: &mut self.0, name }
    }
}

pub struct Gauge<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Gauge<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        *self.text += self.name;
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_replaces_what_was_and_leaves_nothing_behind() {
        let with = |node: &str| {
            let mut figures = Figures::default();
            figures.gauge("test_up", "Whether it is there").sample(&[("node", node), ("site", "lab")], 1.0);
            figures.gauge("test_bytes", "All of them").sample(&[], 1.5e9);
            figures
        };
        publish("test", Some(with("a")));
        publish("test", Some(with("b \"old\"\\\n")));
        let text = render();
        let shown = text.split_once("# HELP test_up").map_or("", |(_, shown)| shown);
        assert_eq!(
            shown,
            " Whether it is there\n# TYPE test_up gauge\ntest_up{node=\"b \\\"old\\\"\\\\\\n\",site=\"lab\"} 1\n\
             # HELP test_bytes All of them\n# TYPE test_bytes gauge\ntest_bytes 1500000000\n"
        );
        publish("test", None);
        assert!(!render().contains("test_up"));
    }
}
