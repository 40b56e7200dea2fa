//! A transfer as a person sees it while it runs: one line that is redrawn, and a line for each time that nothing gets through.

use crate::{
    output::{Output, Progress as How},
    render::{self, artifact::Progress, phases},
    style::Glyph,
    text::clean,
};
use domain::quantity::show_duration_ms;
use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use transfer::{Observer, Trouble};

/// How often the line is redrawn.
const TICK: Duration = Duration::from_millis(200);
/// Trouble that is over by then is not worth a line.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// The rate is of so long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// Where nothing is redrawn, a line is written so often.
const STILL_EVERY: Duration = Duration::from_secs(30);

/// Counts what the engine tells.
#[derive(Default)]
pub(super) struct Counts {
    /// Of the content: moved, and stored before.
    moved: AtomicU64,
    again: AtomicU64,
    had: AtomicU64,
    /// Of the files of a directory.
    read: AtomicU64,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// Since when nothing gets through, why, and whether that was told.
    down: Option<(Instant, String, bool)>,
    /// What is still to be told.
    news: VecDeque<News>,
}

enum News {
    Back(Duration),
    /// Something is done once more.
    Again(String),
}

impl Observer for Counts {
    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }
    fn again(&self, bytes: u64) {
        self.again.fetch_add(bytes, Relaxed);
    }
    fn had(&self, bytes: u64) {
        self.had.fetch_add(bytes, Relaxed);
    }
    fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }
    fn trouble(&self, trouble: &Trouble) {
        let mut line = self.line();
        if trouble.next_in.is_zero() {
            line.news.push_back(News::Again(trouble.why.clone()));
        } else if let Some((_, why, _)) = &mut line.down {
            why.clone_from(&trouble.why);
        } else {
            line.down = Some((Instant::now(), trouble.why.clone(), false));
        }
    }
    fn back(&self, after: Duration) {
        let mut line = self.line();
        if let Some((.., true)) = line.down.take() {
            line.news.push_back(News::Back(after));
        }
    }
}

impl Counts {
    /// All of it is sent once more.
    pub(super) fn begin_anew(&self) {
        for count in [&self.moved, &self.again, &self.had, &self.read] {
            count.store(0, Relaxed);
        }
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is transferred, for its line.
pub(super) struct Shown<'a> {
    pub(super) out: &'a Output,
    pub(super) counts: Arc<Counts>,
    /// Bytes; of a directory those of its files, which are packed on the way.
    pub(super) total: Option<u64>,
    pub(super) is_packed: bool,
    /// `sending`.
    pub(super) word: &'static str,
    pub(super) began: Instant,
}

/// A person pressed Ctrl-C.
pub(in crate::commands) struct Interrupted;

impl Shown<'_> {
    pub(super) fn progress(&self) -> Progress {
        let counts = &self.counts;
        let done = if self.is_packed {
            counts.read.load(Relaxed)
        } else {
            (counts.moved.load(Relaxed) + counts.had.load(Relaxed)).saturating_sub(counts.again.load(Relaxed))
        };
        Progress { done, total: self.total, bytes_a_second: None }
    }

    /// Shows `work` until it is done, or the person has enough of it.
    pub(super) async fn until<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut work = pin!(work);
        let mut interrupt = pin!(tokio::signal::ctrl_c());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut past = VecDeque::new();
        let mut still = Instant::now();
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.tell_news();
                    self.out.redraw("");
                    return Ok(done);
                }
                // A program that can't be told is not interrupted either.
                Ok(()) = &mut interrupt => {
                    self.out.redraw("");
                    return Err(Interrupted);
                }
                _ = ticks.tick() => {
                    self.tell_news();
                    self.tell_trouble();
                    self.draw(&mut past, &mut still);
                }
            }
        }
    }

    fn draw(&self, past: &mut VecDeque<(Instant, u64)>, still: &mut Instant) {
        let mut progress = self.progress();
        let (now, done) = (Instant::now(), progress.done.saturating_sub(self.counts.had.load(Relaxed)));
        past.push_back((now, done));
        while past.front().is_some_and(|(at, _)| now - *at > RATE_OVER) {
            past.pop_front();
        }
        match self.out.progress {
            How::Live => {
                progress.bytes_a_second = past
                    .front()
                    .filter(|(at, _)| now - *at >= Duration::from_secs(1))
                    .map(|(at, before)| (done.saturating_sub(*before) as f64 / (now - *at).as_secs_f64()) as u64);
                self.out.redraw(&render::artifact::progress(&progress, &self.out.people));
            }
            How::Plain | How::Build if still.elapsed() >= STILL_EVERY => {
                *still = now;
                let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.out.line(&format!("{}, {}", phases::still(self.word, ms), progress.amount()));
            }
            How::Plain | How::Build | How::Off => {}
        }
    }

    fn tell_trouble(&self) {
        let mut line = self.counts.line();
        let Some((since, why, told)) = &mut line.down else { return };
        if *told || since.elapsed() < WORTH_TELLING {
            return;
        }
        *told = true;
        let text = format!(
            "{}; {} done, trying again (Ctrl-C: stop; the same command goes on)",
            clean(why),
            self.progress().amount()
        );
        drop(line);
        self.out.tell(Glyph::Warning, "waiting", &text);
    }

    fn tell_news(&self) {
        let news = std::mem::take(&mut self.counts.line().news);
        for one in news {
            match one {
                News::Back(after) => {
                    let after = show_duration_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                    self.out.tell(Glyph::Done, "back", &format!("after {after}, going on with the rest"));
                }
                News::Again(why) => self.out.tell(Glyph::Warning, "damaged", &clean(&why)),
            }
        }
    }

    /// A finished phase, for people who look.
    pub(super) fn tell_done(&self, word: &str, rest: &str) {
        if self.out.progress != How::Off {
            self.out.line(&self.out.people.phase(Glyph::Done, word, rest));
        }
    }

    pub(super) fn took(&self) -> String {
        show_duration_ms(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
