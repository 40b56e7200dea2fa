//! How long to wait before something is tried again, and when to stop trying.

use crate::{AddressError, Observer, Options, TransferError, Trouble};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    pub first: Duration,
    pub longest: Duration,
    /// Without anything getting through.
    pub give_up_after: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(10),
            give_up_after: Duration::from_secs(30 * 60),
        }
    }
}

impl Pauses {
    /// Twice as long after each failure; between half of that and all of it, so that many who failed together do not come back together.
    /// What the other side asked for is waited in full, up to a minute.
    fn after(&self, failures: u32, jitter_0_to_1: f64, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest);
        doubled
            .mul_f64(0.5 + jitter_0_to_1.clamp(0.0, 1.0) / 2.0)
            .max(asked.unwrap_or_default().min(Duration::from_secs(60)))
    }
}

/// Whether anything gets through: what all requests of a transfer know together.
pub(crate) struct Line<'a> {
    pauses: Pauses,
    observer: &'a dyn Observer,
    /// The first failure since something got through. Not the last success: on a slow line a part may well take longer than our patience.
    down_since: Mutex<Option<Instant>>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(options: &Options, observer: &'a dyn Observer) -> Self {
        Self { pauses: options.pauses, observer, down_since: Mutex::new(None) }
    }

    /// Something got through.
    pub(crate) fn good(&self) {
        let back = self.down_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = back {
            self.observer.back(since.elapsed());
        }
    }

    /// Waits before the next try. Errors: `GaveUp`.
    pub(crate) async fn bad(&self, failures: u32, why: String, asked: Option<Duration>) -> Result<(), TransferError> {
        let pause = self.pauses.after(failures, rand::random(), asked);
        let since = *self.down_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        let waited = since.elapsed();
        if waited + pause > self.pauses.give_up_after {
            return Err(TransferError::GaveUp { why, waited });
        }
        self.observer.trouble(&Trouble { why, failures, next_in: pause });
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Asks until it is answered or refused for good. For the questions before and after the bytes.
///
/// Errors: `NoAddress`, `GaveUp`.
pub async fn patiently<T, F: Future<Output = Result<T, AddressError>>>(
    options: &Options,
    observer: &dyn Observer,
    ask: impl Fn() -> F,
) -> Result<T, TransferError> {
    let line = Line::new(options, observer);
    let mut failures = 0;
    loop {
        match ask().await {
            Ok(answer) => {
                line.good();
                return Ok(answer);
            }
            Err(error) if error.is_passing => {
                failures += 1;
                line.bad(failures, error.why, error.retry_after).await?;
            }
            Err(error) => return Err(TransferError::NoAddress(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_heed_what_was_asked() {
        let pauses = Pauses::default();
        let ms = |failures, jitter, asked| pauses.after(failures, jitter, asked).as_millis();
        assert_eq!([ms(1, 1.0, None), ms(2, 1.0, None), ms(3, 0.0, None)], [500, 1_000, 1_000]);
        assert_eq!([ms(30, 1.0, None), ms(u32::MAX, 1.0, None)], [10_000, 10_000]);
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!([ms(1, 0.0, asked(7)), ms(9, 1.0, asked(7)), ms(1, 1.0, asked(3_600))], [7_000, 10_000, 60_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_only_after_nothing_got_through_for_long() {
        let line = Line::new(&Options::default(), &crate::Silent);
        let began = Instant::now();
        for failures in 1.. {
            if failures == 50 {
                line.good();
            }
            if let Err(error) = line.bad(failures, "connection refused".to_owned(), None).await {
                assert!(matches!(error, TransferError::GaveUp { .. }), "{error}");
                assert!(failures > 100, "{failures}");
                break;
            }
        }
        assert!(began.elapsed() > Pauses::default().give_up_after);
    }
}
