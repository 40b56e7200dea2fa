//! The directory of backups: what is in it is whole, and beside each stands what is known of it.
//!
//! ```text
//! dumps/2026-11-23T030000Z.dump   base/2026-11-23T030500Z/   wal/SERVER-TIMELINE-TIME/   scratch/
//! ```

use crate::{files, keep};
use anyhow::Context as _;
use chrono::{DateTime, NaiveDateTime, Utc};
use local_postgres::Programs;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const TIME: &str = "%Y-%m-%dT%H%M%SZ";
const PARTIAL: &str = ".partial";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All rows: small, and any later PostgreSQL can read it.
    Dump,
    /// The files of the server: with the log that follows, every moment since.
    Base,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Dump, Self::Base];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Base => "base",
        }
    }
    /// So many of the newest.
    pub(crate) fn kept(self) -> usize {
        match self {
            Self::Dump => 7,
            Self::Base => 2,
        }
    }
    fn dir(self) -> &'static str {
        match self {
            Self::Dump => "dumps",
            Self::Base => "base",
        }
    }
    fn suffix(self) -> &'static str {
        match self {
            Self::Dump => ".dump",
            Self::Base => "",
        }
    }
}

/// What is known of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub began_at: DateTime<Utc>,
    /// From then on it has all that was committed before it began.
    pub finished_at: DateTime<Utc>,
    /// What it is when it is restored.
    pub restored_bytes: u64,
    pub postgres_version: u32,
    pub unidesk_version: String,
    pub role: String,
    pub database: String,
    /// Of a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of a base backup: the log that follows it, a directory below `wal`, and where it begins there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_segment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why it could not be verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_verified: Option<String>,
}

/// It was restored once, and looked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub at: DateTime<Utc>,
    pub took_ms: u64,
    pub tasks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_at: Option<DateTime<Utc>>,
    /// Invariants that do not hold in it, or could not be looked at; none: the audit is clean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    pub name: String,
    pub kind: Kind,
    pub at: DateTime<Utc>,
    pub bytes: u64,
    #[serde(skip)]
    pub path: PathBuf,
    /// None: it was put here by hand, or its record is unreadable.
    #[serde(flatten)]
    pub record: Option<Record>,
}

impl Backup {
    pub fn verified(&self) -> Option<&Verified> {
        self.record.as_ref()?.verified.as_ref()
    }
    fn is_good(&self) -> bool {
        self.verified().is_some_and(|verified| verified.broken.is_empty())
    }
}

#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

/// Held while a backup is made, verified or deleted: one at a time, whoever does it.
pub struct Lock {
    _file: Flock<File>,
}

impl Directory {
    /// Makes what is missing, for PostgreSQL's user, who writes here.
    pub fn create(root: &Path, programs: &Programs) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("making the directory of backups {}", root.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("setting permissions of {}", root.display()))?;
        let directory = Self { root: root.to_owned() };
        for dir in [Kind::Dump.dir(), Kind::Base.dir(), "wal"] {
            programs.make_dir(&root.join(dir))?;
        }
        Ok(directory)
    }

    /// One that is there.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            root.join(Kind::Dump.dir()).is_dir(),
            "there are no backups in {}; name their directory with --backup-dir",
            root.display()
        );
        Ok(Self { root: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }
    fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.root.join(kind.dir()).join(name)
    }
    /// Where one is made before it is whole.
    pub(crate) fn partial(&self, kind: Kind, name: &str) -> PathBuf {
        self.path(kind, &format!("{name}{PARTIAL}"))
    }
    fn record(&self, kind: Kind, name: &str) -> PathBuf {
        self.path(kind, &format!("{name}.json"))
    }

    /// A name that nothing here has.
    pub(crate) fn new_name(&self, kind: Kind, now: DateTime<Utc>) -> (String, DateTime<Utc>) {
        let mut at = now;
        loop {
            let name = format!("{}{}", at.format(TIME), kind.suffix());
            if !self.path(kind, &name).exists() {
                return (name, at);
            }
            at += chrono::TimeDelta::seconds(1);
        }
    }

    /// All that are whole, the newest first.
    pub fn list(&self) -> anyhow::Result<Vec<Backup>> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let dir = self.root.join(kind.dir());
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Some(at) = name.strip_suffix(kind.suffix()).and_then(parse_time) else { continue };
                let record = fs::read_to_string(self.record(kind, &name)).ok();
                let record = record.and_then(|text| serde_json::from_str(&text).ok());
                let path = entry.path();
                all.push(Backup { bytes: files::bytes(&path), name, kind, at, path, record });
            }
        }
        all.sort_by_key(|one| Reverse((one.at, one.kind)));
        Ok(all)
    }

    /// By its name; `latest`: the newest one that satisfies `fits`, a verified one before others of the same kind.
    pub fn find(&self, name: &str, fits: impl Fn(&Backup) -> bool) -> anyhow::Result<Backup> {
        let all = self.list()?;
        if name == "latest" {
            return all
                .into_iter()
                .find(|one| fits(one))
                .with_context(|| format!("no backup in {} is one that could be used for this", self.root.display()));
        }
        let names = all.iter().map(|one| one.name.clone()).collect::<Vec<_>>().join(", ");
        all.into_iter().find(|one| one.name == name).with_context(|| {
            let there = if names.is_empty() { "none".to_owned() } else { names };
            format!("there is no backup {name} in {}; there are: {there}", self.root.display())
        })
    }

    /// Notes what is known of one, before it gets its name or after.
    pub(crate) fn note(&self, kind: Kind, name: &str, record: &Record) -> anyhow::Result<()> {
        files::write_whole(&self.record(kind, name), &(serde_json::to_string_pretty(record)? + "\n"))
    }

    /// It is whole from here on.
    pub(crate) fn complete(&self, kind: Kind, name: &str, record: &Record) -> anyhow::Result<()> {
        self.note(kind, name, record)?;
        files::rename_whole(&self.partial(kind, name), &self.path(kind, name))
    }

    /// Waits for nobody.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join("lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let _file = locked.map_err(|_| {
            anyhow::anyhow!(
                "another process makes or verifies a backup in {} at this moment; try again later",
                self.root.display()
            )
        })?;
        Ok(Lock { _file })
    }

    /// Removes what whoever died here has left. Under the lock.
    pub(crate) fn clean(&self, _: &Lock) -> anyhow::Result<()> {
        for kind in Kind::ALL {
            let dir = self.root.join(kind.dir());
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let (path, name) = {
                    let entry = entry?;
                    (entry.path(), entry.file_name().to_string_lossy().into_owned())
                };
                let is_orphan = name.strip_suffix(".json").is_some_and(|of| !dir.join(of).exists());
                if name.ends_with(PARTIAL) || is_orphan {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Deletes what is not kept any more; returns the names. Under the lock, once a new one is whole.
    pub(crate) fn delete_superfluous(&self, _: &Lock) -> anyhow::Result<Vec<String>> {
        let all = self.list()?;
        let candidates: Vec<keep::Candidate> = all
            .iter()
            .map(|one| keep::Candidate { at: one.at, name: one.name.clone(), kind: one.kind, is_good: one.is_good() })
            .collect();
        let goes = keep::superfluous(&candidates);
        let (gone, kept): (Vec<Backup>, Vec<Backup>) = all.into_iter().partition(|one| goes.contains(&one.name));
        for one in &gone {
            // A name that says it is not whole first: a deletion may be cut off in the middle.
            let partial = self.partial(one.kind, &one.name);
            files::rename_whole(&one.path, &partial)?;
            remove(&partial)?;
            remove(&self.record(one.kind, &one.name))?;
        }
        self.delete_wal(&kept)?;
        Ok(gone.into_iter().map(|one| one.name).collect())
    }

    /// What no base backup needs any more. A directory that none names is only just begun if it is the newest.
    fn delete_wal(&self, kept: &[Backup]) -> anyhow::Result<()> {
        let newest = self.newest_wal();
        for entry in fs::read_dir(self.wal())?.flatten().filter(|entry| entry.path().is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let records = kept.iter().filter_map(|one| one.record.as_ref());
            let users = records.filter(|record| record.wal.as_ref() == Some(&name));
            let first =
                users.filter_map(|record| record.first_segment.clone()).min_by_key(|first| first[8..].to_owned());
            match first {
                None if newest.as_ref() == Some(&name) => {}
                None => remove(&entry.path())?,
                Some(first) => {
                    for file in fs::read_dir(entry.path())?.flatten() {
                        if keep::is_before(&file.file_name().to_string_lossy(), &first) {
                            remove(&file.path())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The directory of the received log that was begun last: its name ends with the time.
    pub(crate) fn newest_wal(&self) -> Option<String> {
        let names = fs::read_dir(self.wal()).ok()?.flatten().filter(|entry| entry.path().is_dir());
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .max_by_key(|name| name.rsplit_once("-2").map(|(_, time)| time.to_owned()))
    }

    pub(crate) fn new_wal(
        &self,
        programs: &Programs,
        server: &str,
        timeline: &str,
        now: DateTime<Utc>,
    ) -> anyhow::Result<String> {
        let name = format!("{server}-{timeline}-{}", now.format(TIME));
        programs.make_dir(&self.wal().join(&name))?;
        Ok(name)
    }
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    NaiveDateTime::parse_from_str(text, TIME).ok().map(|time| time.and_utc())
}

pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
