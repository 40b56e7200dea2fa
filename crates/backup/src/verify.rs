//! A backup that was never restored is a hope. So each is restored once, into a server that lives for a moment, and looked through.

use crate::{
    Backup, Directory, Kind,
    directory::{self, Lock, Verified},
    files, restore,
};
use anyhow::Context as _;
use chrono::Utc;
use local_postgres::{Postgres, Programs};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use store::{DatabaseConfig, Depth, Outcome, Store};
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};

const AUDIT_WITHIN: Duration = Duration::from_secs(600);
/// A cluster with nothing in it, and the log of filling it.
const SPARE_BYTES: u64 = 256 << 20;

/// Restores it into `scratch`, audits it there, and notes what was found. An error: it could not be restored, and that is noted, too.
pub async fn verify(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    scratch: &Path,
    _: &Lock,
) -> anyhow::Result<Verified> {
    let began = Instant::now();
    let found = restore_and_look(programs, directory, backup, scratch).await;
    directory::remove(scratch)?;
    let mut record = backup.record.clone();
    let outcome = found.map(|mut verified| {
        verified.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        verified
    });
    if let Some(record) = &mut record {
        record.verified = outcome.as_ref().ok().cloned();
        record.not_verified = outcome.as_ref().err().map(|error| format!("{error:#}"));
        directory.note(backup.kind, &backup.name, record)?;
    }
    outcome
}

async fn restore_and_look(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    scratch: &Path,
) -> anyhow::Result<Verified> {
    restore::check(programs, backup).await?;
    has_room(backup, scratch)?;
    directory::remove(scratch)?;
    let postgres = match backup.kind {
        Kind::Dump => {
            let postgres = Postgres::scratch(programs, scratch).await?;
            restore::fill(programs, backup, &postgres.url()).await?;
            postgres
        }
        Kind::Base => restore::recover(programs, directory, backup, scratch, None, false).await?,
    };
    // That it is another database than before is no news here.
    let looked = look(&postgres.url()).with_subscriber(NoSubscriber::default()).await;
    postgres.stop().await;
    looked
}

/// Said before anything is written.
pub(crate) fn has_room(backup: &Backup, target: &Path) -> anyhow::Result<()> {
    let restored = backup.record.as_ref().map_or(0, |record| record.restored_bytes);
    let needed = restored.max(backup.bytes) + SPARE_BYTES;
    let free = files::free_bytes(target)?;
    anyhow::ensure!(
        free >= needed,
        "restoring {} takes about {}, and {} has {} free",
        backup.name,
        files::show_bytes(needed),
        target.display(),
        files::show_bytes(free)
    );
    Ok(())
}

async fn look(url: &str) -> anyhow::Result<Verified> {
    let config = DatabaseConfig { url: url.to_owned(), max_connections: 2, shared: false };
    // It need not survive anything.
    let store = Store::connect_unchecked(&config).await.context("connecting to what was restored")?;
    store.migrate().await.context("bringing what was restored to this version")?;
    let contents = store.contents().await?;
    let findings = store.audit(Depth::Whole, AUDIT_WITHIN).await.context("auditing what was restored")?;
    store.close().await;
    let broken = findings.into_iter().filter_map(|finding| match finding.outcome {
        Outcome::Holds => None,
        Outcome::Broken { rows, more } => Some(format!("{}: {} rows", finding.id, rows.len() as u64 + more)),
        Outcome::Unknown(why) => Some(format!("{}: not looked at, {why}", finding.id)),
    });
    Ok(Verified {
        at: Utc::now(),
        took_ms: 0,
        tasks: contents.tasks,
        last_event_at: contents.last_event_at,
        broken: broken.collect(),
    })
}
