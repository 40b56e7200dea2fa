//! Tracked tasks and their end. Nothing is spawned bare: what a service starts, it waits for.

use crate::metrics;
use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant, UNIX_EPOCH},
};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The tasks of one service. Cheap to clone; all clones are the same service.
#[derive(Clone)]
pub struct Service {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

/// What one pass of a loop tells its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Nothing is left to do now.
    Idle,
    /// A full batch was done: more is waiting, go again at once.
    More,
}

/// What a pass may take. More, and what it waits for says nothing any more: a database that is out of reach ends no query. Longer
/// than any pass of ours on a database that answers.
const PASS_WITHIN: Duration = Duration::from_secs(60);

impl Service {
    /// What it counts is kept from here on.
    pub fn new() -> Self {
        metrics::install();
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Asked to stop: whatever waits should select on this.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a task that the service waits for when it stops. The task watches [`Service::stopping`] itself.
    #[expect(clippy::disallowed_methods, reason = "this is the tracked, named, spanned spawn that the ban points to")]
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tracked = self.tracker.track_future(task.instrument(tracing::info_span!("task", name)));
        tokio::spawn(tracked);
    }

    /// Runs a task that is simply dropped when the service stops.
    pub fn spawn_until_stopped<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The one periodic loop: an idempotent pass without input, run every `interval` and whenever `hint` rings. The timer alone is
    /// enough. A full batch goes again at once; an error is logged here, once, and waits for the next tick. A pass that takes more than
    /// 60 s is dropped where it is, and counts as failed.
    pub fn repeat<P, F, E>(&self, name: &'static str, interval: Duration, hint: std::sync::Arc<Notify>, mut pass: P)
    where
        P: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<Pass, E>> + Send,
        E: Display + std::error::Error + Send,
    {
        let stop = self.stop.clone();
        let figures = LoopFigures::new(name, interval);
        self.spawn(name, async move {
            let mut failing_since: Option<Instant> = None;
            while !stop.is_cancelled() {
                let done = tokio::time::timeout(PASS_WITHIN, pass()).await;
                let trouble = match &done {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(Chain(error).to_string()),
                    Err(_) => Some(format!("nothing was answered within {} s", PASS_WITHIN.as_secs())),
                };
                match trouble {
                    None => {
                        figures.succeeded();
                        if let Some(since) = failing_since.take() {
                            tracing::info!(after_s = since.elapsed().as_secs(), "works again");
                        }
                        if matches!(done, Ok(Ok(Pass::More))) {
                            continue;
                        }
                    }
                    // The first of a row at once, then one a minute: a database that is away must not fill the log.
                    Some(error) => {
                        if failing_since.is_none_or(|since| since.elapsed() > Duration::from_secs(60)) {
                            tracing::warn!(error, "failed; trying again");
                            failing_since = Some(Instant::now());
                        }
                    }
                }
                // A tenth of jitter keeps replicas out of step.
                let wait = interval.mul_f64(rand::random_range(0.9..1.1));
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = hint.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }

    /// Asks all tasks to stop and waits for them, at most `grace`. False: some were still busy.
    pub async fn stop_within(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

/// What tells a loop that is stuck from one that has nothing to do.
struct LoopFigures(::metrics::Gauge);

impl LoopFigures {
    fn new(name: &'static str, interval: Duration) -> Self {
        const LAST_SUCCESS: &str = "unidesk_loop_last_success_timestamp_seconds";
        const INTERVAL: &str = "unidesk_loop_interval_seconds";
        ::metrics::describe_gauge!(LAST_SUCCESS, "When this loop last did its work; before that, when it was started");
        ::metrics::describe_gauge!(INTERVAL, "From one pass of this loop to the next, when nothing wakes it earlier");
        ::metrics::gauge!(INTERVAL, "loop" => name).set(interval.as_secs_f64());
        let this = Self(::metrics::gauge!(LAST_SUCCESS, "loop" => name));
        this.succeeded();
        this
    }

    #[expect(clippy::disallowed_methods, reason = "shown to people only; no decision is made from it")]
    fn succeeded(&self) {
        let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.set(since_epoch.as_secs_f64());
    }
}

/// An error with its causes on one line.
pub struct Chain<'a, E: ?Sized>(pub &'a E);

impl<E: std::error::Error + ?Sized> Display for Chain<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_hears_nothing_any_more_is_dropped_and_its_loop_goes_on() {
        let service = Service::new();
        let (began, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (starts, ends) = (began.clone(), ended.clone());
        service.repeat("test", Duration::from_secs(1), Arc::default(), move || {
            let (number, ends) = (starts.fetch_add(1, Ordering::Relaxed), ends.clone());
            async move {
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                ends.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(Pass::Idle)
            }
        });
        tokio::time::sleep(PASS_WITHIN - Duration::from_secs(1)).await;
        assert_eq!((began.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (1, 0));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(ended.load(Ordering::Relaxed) > 0, "the next pass was never begun");
        assert!(service.stop_within(Duration::from_secs(5)).await);
    }
}
