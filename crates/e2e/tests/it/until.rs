//! Waiting for conditions: asked again and again, with a deadline.

use std::{future::Future, time::Duration};
use tokio::time::Instant;

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(25);

/// Asks until there is an answer. Panics after `within` with what was waited for and what `last` says then.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// The same for a condition that needs no waiting to be looked at.
pub(crate) async fn until_true(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    until(what, within, || {
        let holds = holds();
        async move { holds.then_some(()) }
    })
    .await;
}
