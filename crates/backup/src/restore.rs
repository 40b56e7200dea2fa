//! The way back. What is there is never overwritten, and a restore that fails has touched nothing.

use crate::{
    Backup, Directory, Kind, base, directory, dump, files,
    source::{client, split_password},
    verify,
};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use local_postgres::{Access, Postgres, Programs, Recovery};
use std::{
    fs,
    path::{Path, PathBuf},
};
use store::{Contents, DatabaseConfig, Restored, Store};
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};

/// What a restore brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    pub contents: Contents,
    /// Where the cluster of before is now.
    pub aside: Option<PathBuf>,
}

/// The backup of this name, or for `latest` the newest one from which that moment can be reached.
pub fn choose(
    directory: &Directory,
    name: &str,
    until: Option<DateTime<Utc>>,
    kind: Option<Kind>,
) -> anyhow::Result<Backup> {
    let reaches =
        |one: &Backup| until.is_none_or(|until| one.record.as_ref().is_some_and(|record| record.finished_at <= until));
    let kind = kind.or(until.map(|_| Kind::Base));
    let found = directory.find(name, |one| kind.is_none_or(|kind| one.kind == kind) && reaches(one));
    let chosen = match until.filter(|_| name == "latest") {
        Some(until) => found.with_context(|| format!("no base backup was finished by {}", until.to_rfc3339()))?,
        None => found?,
    };
    if let Some(until) = until {
        anyhow::ensure!(
            chosen.kind == Kind::Base,
            "{} is a dump, which has one moment only; a moment of one's own (--until) needs a base backup",
            chosen.name
        );
        anyhow::ensure!(
            reaches(&chosen),
            "{} was finished after {}; an earlier base backup is needed for that moment",
            chosen.name,
            until.to_rfc3339()
        );
    }
    if let Some(kind) = kind {
        anyhow::ensure!(chosen.kind == kind, "{} is no {} backup, and that is needed here", chosen.name, kind.as_str());
    }
    Ok(chosen)
}

/// Restores the cluster of `up` below `root`. The caller holds the lock of the data directory.
pub async fn platform(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    until: Option<DateTime<Utc>>,
    root: &Path,
) -> anyhow::Result<Back> {
    check(programs, backup).await?;
    verify::has_room(backup, root)?;
    let beside =
        |what: &str| root.with_file_name(format!("{}.{what}", root.file_name().unwrap_or_default().to_string_lossy()));
    let fresh = beside("restoring");
    directory::remove(&fresh)?;
    let contents = match restore_cluster(programs, directory, backup, until, &fresh).await {
        Ok(contents) => contents,
        Err(error) => {
            directory::remove(&fresh)?;
            return Err(error);
        }
    };
    let aside = root.exists().then(|| beside(&format!("before-{}", Utc::now().format("%Y-%m-%dT%H%M%SZ"))));
    if let Some(aside) = &aside {
        fs::rename(root, aside).with_context(|| format!("moving {} aside", root.display()))?;
    }
    files::rename_whole(&fresh, root)?;
    Ok(Back { contents, aside })
}

async fn restore_cluster(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    until: Option<DateTime<Utc>>,
    root: &Path,
) -> anyhow::Result<Contents> {
    let postgres = match backup.kind {
        Kind::Dump => {
            let postgres = Postgres::fill(programs, root).await?;
            fill(programs, backup, &postgres.url()).await?;
            postgres
        }
        Kind::Base => recover(programs, directory, backup, root, until, true).await?,
    };
    let settled = settle(&postgres.url()).with_subscriber(NoSubscriber::default()).await;
    postgres.stop_whole().await;
    // Rules of the recovery.
    directory::remove(&root.join("config"))?;
    settled
}

/// Restores a dump into an empty database.
pub async fn into_database(programs: &Programs, backup: &Backup, url: &str) -> anyhow::Result<Back> {
    check(programs, backup).await?;
    anyhow::ensure!(
        store::is_empty_database(url).await.context("looking at the database to be filled")?,
        "the database has tables already, and nothing is overwritten: make an empty one (createdb), or restore into another"
    );
    fill(programs, backup, url).await?;
    Ok(Back { contents: settle(url).with_subscriber(NoSubscriber::default()).await?, aside: None })
}

/// Makes the data directory of a server from a base backup, recovered to its end, so that a server can be started on it.
pub async fn into_directory(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    until: Option<DateTime<Utc>>,
    target: &Path,
) -> anyhow::Result<Back> {
    check(programs, backup).await?;
    let is_empty = !target.exists() || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    anyhow::ensure!(
        is_empty,
        "{} is not empty, and nothing is overwritten: move aside what is in it",
        target.display()
    );
    verify::has_room(backup, target)?;
    let root = target.with_file_name(format!("{}.restoring", target.file_name().unwrap_or_default().to_string_lossy()));
    directory::remove(&root)?;
    let contents = match restore_cluster(programs, directory, backup, until, &root).await {
        Ok(contents) => contents,
        Err(error) => {
            directory::remove(&root)?;
            return Err(error);
        }
    };
    if target.exists() {
        fs::remove_dir(target).with_context(|| format!("replacing {}", target.display()))?;
    }
    files::rename_whole(&root.join("data"), target)?;
    directory::remove(&root)?;
    Ok(Back { contents, aside: None })
}

/// Whether it is as it was made.
pub(crate) async fn check(programs: &Programs, backup: &Backup) -> anyhow::Result<()> {
    match backup.kind {
        Kind::Dump => dump::check(programs, &backup.path, backup.record.as_ref()).await,
        Kind::Base => base::check(programs, &backup.path).await,
    }
}

/// Puts the rows of a dump into an empty database.
pub(crate) async fn fill(programs: &Programs, backup: &Backup, url: &str) -> anyhow::Result<()> {
    let (url, password) = split_password(url);
    let mut command = client(programs, "pg_restore", &url, password.as_deref());
    command.args(["--no-owner", "--no-privileges", "--exit-on-error"]).arg(&backup.path);
    programs.run(command).await.with_context(|| format!("restoring {}", backup.name)).map(drop)
}

/// A server on a copy of a base backup below `root`, with the log that followed.
pub(crate) async fn recover(
    programs: &Programs,
    directory: &Directory,
    backup: &Backup,
    root: &Path,
    until: Option<DateTime<Utc>>,
    is_kept: bool,
) -> anyhow::Result<Postgres> {
    let record = backup.record.as_ref().with_context(|| format!("the record of {} is missing", backup.name))?;
    let ours = programs.major_version().await?;
    anyhow::ensure!(
        ours == record.postgres_version,
        "{} is of PostgreSQL {}, and the programs here are of version {ours}; name the directory of its own in UNIDESK_PG_BIN, or use a dump",
        backup.name,
        record.postgres_version
    );
    fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    files::copy(programs, &backup.path, &root.join("data"), is_kept).await?;
    let wal = record.wal.as_ref().map(|name| directory.wal().join(name)).filter(|wal| wal.is_dir());
    let recovery = Recovery {
        access: Access { role: record.role.clone(), database: record.database.clone() },
        wal,
        until: until.map(|until| until.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
        is_kept,
    };
    Postgres::recover(programs, root, &recovery).await.with_context(|| format!("recovering {}", backup.name))
}

/// Brings what was restored to this version and begins its epoch, which the caller tells.
async fn settle(url: &str) -> anyhow::Result<Contents> {
    let config = DatabaseConfig { url: url.to_owned(), max_connections: 2, shared: false };
    let store = Store::connect(&config).await.context("connecting to what was restored")?;
    store.migrate().await.context("bringing what was restored to this version")?;
    store.close().await;
    match store::declare_restored(url).await.context("beginning a new epoch")? {
        Restored::Epoch(_) => {}
        Restored::InUse(connections) => {
            anyhow::bail!("services are connected to what was restored ({connections} connections)")
        }
    }
    let store = Store::connect(&config).await.context("connecting to what was restored")?;
    let contents = store.contents().await?;
    store.close().await;
    Ok(contents)
}
