//! Waiting for conditions: asked again and again, with a deadline.

use std::time::Duration;
use tokio::time::Instant;

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(50);

/// Asks until there is an answer, and says how long that took. Errors: what was waited for, after `within`.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<(T, Duration)> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok((answer, began.elapsed()));
        }
        anyhow::ensure!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(STEP).await;
    }
}
