//! `unidesk audit` at the end of a run under load.

use api_types::audit::{Invariant, InvariantState};
use client::Client;
use std::time::Duration;

/// Questions that a busy database left no time for are asked again so often,
const TRIES: u32 = 20;
/// and so long after each other.
const PAUSE: Duration = Duration::from_secs(15);

/// Errors: something is broken, or could not be looked at in all this time.
pub(crate) async fn is_clean(client: &Client) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        let audit = client.audit().await?;
        let names = |state| {
            let of: Vec<&str> = audit
                .invariants
                .iter()
                .filter(|one: &&Invariant| one.state == state)
                .map(|one| one.id.as_str())
                .collect();
            of.join(", ")
        };
        let (broken, unknown) = (names(InvariantState::Broken), names(InvariantState::Unknown));
        anyhow::ensure!(broken.is_empty(), "the audit is not clean: {broken}");
        if unknown.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(tries < TRIES, "the audit had no time to look at: {unknown}");
        tokio::time::sleep(PAUSE).await;
    }
}
