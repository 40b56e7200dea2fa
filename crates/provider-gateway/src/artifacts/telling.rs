//! What is said in an attempt's log while bytes travel: trouble once when it begins and once when it is over, and how far it is now and then.

use crate::log::AttemptLog;
use domain::quantity::show_bytes;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use transfer::{Observer, Trouble};

const EVERY: Duration = Duration::from_secs(10);

struct Teller {
    /// `imagenet@3`.
    what: String,
    lines: mpsc::UnboundedSender<String>,
    moved: AtomicU64,
    is_troubled: AtomicBool,
}

impl Observer for Teller {
    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }
    fn had(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }
    fn again(&self, bytes: u64) {
        let _ = self.moved.fetch_update(Relaxed, Relaxed, |moved| Some(moved.saturating_sub(bytes)));
    }
    fn trouble(&self, trouble: &Trouble) {
        if !self.is_troubled.swap(true, Relaxed) {
            let _ = self.lines.send(format!("{}: {}; trying again", self.what, trouble.why));
        }
    }
    fn back(&self, after: Duration) {
        if self.is_troubled.swap(false, Relaxed) {
            let _ = self.lines.send(format!("{}: it goes on, after {:.1} s", self.what, after.as_secs_f64()));
        }
    }
}

/// Runs `work`, and tells of it in the log. `total`: bytes, where they are known.
pub(super) async fn tell_while<T, F>(
    log: &AttemptLog,
    what: &str,
    total: Option<u64>,
    work: impl FnOnce(Arc<dyn Observer>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    tell(log, what, total, true, work).await
}

/// As [`tell_while`], and nothing is said as long as all goes well: for what happens again and again.
pub(super) async fn tell_trouble_while<T, F>(
    log: &AttemptLog,
    what: &str,
    work: impl FnOnce(Arc<dyn Observer>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    tell(log, what, None, false, work).await
}

async fn tell<T, F>(
    log: &AttemptLog,
    what: &str,
    total: Option<u64>,
    tells_progress: bool,
    work: impl FnOnce(Arc<dyn Observer>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    let (sender, mut lines) = mpsc::unbounded_channel();
    let teller = Arc::new(Teller {
        what: what.to_owned(),
        lines: sender,
        moved: AtomicU64::new(0),
        is_troubled: AtomicBool::new(false),
    });
    let mut work = pin!(work(teller.clone()));
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(line) = lines.recv() => log.note(&line).await,
            _ = ticks.tick(), if tells_progress => {
                let moved = teller.moved.load(Relaxed);
                if moved > told {
                    told = moved;
                    let of = total.map(|total| format!(" of {}", show_bytes(total))).unwrap_or_default();
                    log.note(&format!("{what}: {}{of}", show_bytes(moved))).await;
                }
            }
        }
    };
    while let Ok(line) = lines.try_recv() {
        log.note(&line).await;
    }
    done
}
