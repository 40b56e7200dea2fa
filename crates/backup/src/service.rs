//! The service: receives the log all the time, makes a backup of each kind once a day, verifies it, deletes what is too old.

use crate::{Config, Directory, Kind, Source, due, figures, made, verify, wal};
use anyhow::Context as _;
use chrono::Utc;
use local_postgres::Programs;
use service_kit::Service;
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After one that failed, as on a full disk.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Starts the service on this directory, which is made if it is not there. `first_after`: so long what was just started is left in peace.
pub async fn run(
    service: &Service,
    config: &Config,
    root: &Path,
    database_url: &str,
    first_after: Duration,
) -> anyhow::Result<()> {
    let programs = Programs::find()?;
    let source = Source::connect(programs, database_url).await?;
    let directory = Directory::create(root, &source.programs)?;
    let facts = source.facts().await?;
    figures::begin();
    let (sender, current) = watch::channel(None);
    if facts.may_replicate {
        if facts.slot_keeps_mb < 0 {
            tracing::warn!(
                "max_slot_wal_keep_size of the server has no limit, so a backup that does not run could fill its disk; set it: \
                 ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'; SELECT pg_reload_conf()"
            );
        }
        let (source, directory) = (source.clone(), directory.clone());
        service.spawn_until_stopped("wal", wal::receive(source, directory, sender));
    } else {
        tracing::warn!(
            role = facts.role,
            "this role may not copy the server's files, so there are dumps only, and up to a day may be lost; allow it: ALTER ROLE ... REPLICATION"
        );
    }
    let shift = Shift { source, directory, config: config.clone(), current, may_replicate: facts.may_replicate };
    service.spawn_until_stopped("backup", async move {
        tokio::time::sleep(first_after).await;
        shift.work().await;
    });
    Ok(())
}

struct Shift {
    source: Source,
    directory: Directory,
    config: Config,
    current: watch::Receiver<Option<String>>,
    may_replicate: bool,
}

impl Shift {
    async fn work(self) {
        let mut failed: BTreeMap<Kind, Instant> = BTreeMap::new();
        loop {
            for kind in Kind::ALL.into_iter().filter(|kind| self.may_replicate || *kind == Kind::Dump) {
                if failed.get(&kind).is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
                    continue;
                }
                match self.look_after(kind).await {
                    Ok(()) => _ = failed.remove(&kind),
                    Err(error) => {
                        tracing::error!(kind = kind.as_str(), error = format!("{error:#}"), "a backup failed");
                        figures::failed(kind);
                        failed.insert(kind, Instant::now());
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_after(&self, kind: Kind) -> anyhow::Result<()> {
        let all = self.directory.list()?;
        figures::of(kind, &all);
        let newest = all.iter().find(|one| one.kind == kind);
        let wal = if kind == Kind::Base { wal::begun(self.current.clone()).await } else { None };
        // A log that no base backup belongs to restores nothing.
        let has_log = || newest.and_then(|one| one.record.as_ref()?.wal.as_deref());
        let is_without_base = wal.is_some() && !wal::is_current(&self.current, has_log());
        if !is_without_base && !due::is_due(Utc::now(), self.config.backup_at, newest.map(|one| one.at)) {
            return Ok(());
        }
        // Somebody makes one by hand: the next look finds it.
        let Ok(lock) = self.directory.lock() else { return Ok(()) };
        let began = Instant::now();
        let made = made::make(&self.source, &self.directory, kind, wal.as_deref(), &lock).await?;
        figures::took(kind, began.elapsed());
        let gone = self.directory.delete_superfluous(&lock).context("deleting what is too old")?;
        tracing::info!(name = made.name, ?gone, "backed up");
        let scratch = self.config.scratch(self.directory.root());
        let verified = verify::verify(&self.source.programs, &self.directory, &made, &scratch, &lock).await;
        figures::of(kind, &self.directory.list()?);
        let verified = verified.with_context(|| format!("{} is kept, and not verified", made.name))?;
        anyhow::ensure!(
            verified.broken.is_empty(),
            "{} was restored, and its audit is not clean: {}",
            made.name,
            verified.broken.join("; ")
        );
        tracing::info!(name = made.name, tasks = verified.tasks, took_ms = verified.took_ms, "verified");
        Ok(())
    }
}
