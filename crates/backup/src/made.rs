//! One backup from its beginning to its name.

use crate::{
    Backup, Directory, Kind, Source, base,
    directory::{self, Lock, Record},
    dump, wal,
};
use anyhow::Context as _;

/// As [`make`], for somebody who makes one by hand.
pub async fn make_beside_service(
    source: &Source,
    directory: &Directory,
    kind: Kind,
    lock: &Lock,
) -> anyhow::Result<Backup> {
    let wal = wal::of_service(source, directory).await?;
    make(source, directory, kind, wal.as_deref(), lock).await
}

/// Makes one. Nothing else is touched, whatever goes wrong, and what is not whole has no name. `wal`: the log that is received.
pub async fn make(
    source: &Source,
    directory: &Directory,
    kind: Kind,
    wal: Option<&str>,
    lock: &Lock,
) -> anyhow::Result<Backup> {
    directory.clean(lock)?;
    let facts = source.facts().await?;
    anyhow::ensure!(
        kind == Kind::Dump || facts.may_replicate,
        "role {role} may not copy the server's files; allow it: ALTER ROLE \"{role}\" REPLICATION",
        role = facts.role
    );
    let began_at = source.store.now().await.context("asking the time")?;
    let (name, at) = directory.new_name(kind, began_at);
    let mut record = Record {
        began_at,
        finished_at: began_at,
        restored_bytes: if kind == Kind::Dump { facts.bytes } else { facts.server_bytes },
        postgres_version: facts.major_version,
        unidesk_version: env!("CARGO_PKG_VERSION").to_owned(),
        role: facts.role,
        database: facts.database,
        sha256: None,
        wal: wal.filter(|_| kind == Kind::Base).map(str::to_owned),
        first_segment: None,
        verified: None,
        not_verified: None,
    };
    let made = match kind {
        Kind::Dump => dump::make(source, directory, &name, &mut record).await,
        Kind::Base => base::make(source, directory, &name, &mut record).await,
    };
    if let Err(error) = made {
        // The room that it took may be what everybody waits for.
        directory::remove(&directory.partial(kind, &name))?;
        return Err(error);
    }
    record.finished_at = source.store.now().await.context("asking the time")?;
    directory.complete(kind, &name, &record)?;
    tracing::info!(name, kind = kind.as_str(), at = %at.to_rfc3339(), "a backup is whole");
    directory.find(&name, |_| true)
}
