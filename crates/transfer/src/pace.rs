//! The bandwidth limit: all requests of a transfer draw from one allowance.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Pace {
    bytes_a_second: Option<u64>,
    /// When all that was taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_a_second: Option<u64>) -> Self {
        Self { bytes_a_second: bytes_a_second.map(|rate| rate.max(1)), paid: Mutex::new(None) }
    }

    /// Returns when so many bytes may go.
    pub(crate) async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_a_second else { return };
        let now = Instant::now();
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let next = paid.map_or(now, |paid| paid.max(now)) + cost(bytes, rate);
            *paid = Some(next);
            next
        };
        tokio::time::sleep_until(until).await;
    }
}

/// The time that so many bytes take at this rate.
fn cost(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_for_all_takers_together() {
        let (pace, began) = (Pace::new(Some(1_000)), Instant::now());
        futures::join!(pace.take(2_000), pace.take(1_000), pace.take(500));
        assert_eq!(began.elapsed(), Duration::from_millis(3_500));
        // What was not used is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        pace.take(1_000).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let began = Instant::now();
        Pace::new(None).take(u64::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
