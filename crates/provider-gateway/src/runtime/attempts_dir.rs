//! The attempts on disk: the journal with all records, and a directory each, with its spool and what its executor keeps.
//!
//! Making a file or a directory is what costs most about a short task. So nothing is made anew that can be had again: a directory that
//! was left as it is made goes to the next attempt of the same project.

use super::journal::{Journal, Kept, Opened};
use crate::agent::Record;
use domain::ids::{AttemptId, ProjectId};
use nix::{fcntl::posix_fallocate, sys::statvfs::statvfs};
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Where earlier versions kept the record of an attempt: in its directory.
const RECORD: &str = "record.json";
const JOURNAL: &str = "attempts.journal";
/// An attempt's log, in its directory.
pub(super) const SPOOL: &str = "spool";
/// Directories that wait for their next attempt.
const SPARE: &str = "spare";
const MOST_SPARE: usize = 256;
/// Tasks run as users of their own: they may pass, not look.
const DIR_MODE: u32 = 0o711;
/// Blocks that are kept for records: given back to the disk when it is full, so that a result is never lost for want of room.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub struct AttemptsDir {
    root: PathBuf,
    /// The disk did not take the last assignment.
    has_refused: Arc<AtomicBool>,
    journal: Arc<Mutex<Journal>>,
    /// What the journal held when it was opened.
    found: Arc<Mutex<Found>>,
    spare: Arc<Spare>,
}

#[derive(Debug, Default)]
struct Found {
    kept: Vec<Kept>,
    /// Its end was torn, or something in it is not understood: what it does not name may have been named there.
    is_cut: bool,
}

impl AttemptsDir {
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        let boot = crate::process::boot_id();
        let (older, unreadable) = read_older(root)?;
        let ids: Vec<_> = older.iter().map(|record| record.assign.held.attempt).collect();
        let path = root.with_file_name(JOURNAL);
        let Opened { journal, kept, cut_bytes, foreign_bytes, took_over } = Journal::open(&path, boot, older)?;
        if took_over {
            // They are on disk in their new place.
            ids.iter().for_each(|id| drop(fs::remove_file(root.join(id.to_string()).join(RECORD))));
        }
        if cut_bytes > 0 {
            tracing::error!(
                cut_bytes,
                "the end of the journal of attempts was torn; directories that it does not name stay for a look"
            );
        }
        let is_cut = cut_bytes > 0 || foreign_bytes > 0 || unreadable;
        let dir = Self {
            root: root.to_owned(),
            has_refused: Arc::default(),
            journal: Arc::new(Mutex::new(journal)),
            found: Arc::new(Mutex::new(Found { kept, is_cut })),
            spare: Arc::new(Spare::open(root.with_file_name(SPARE))),
        };
        dir.keep_reserve();
        Ok(dir)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // A panic in the middle of a write leaves at worst a torn entry, which the next write overwrites.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beside the attempts, on the same disk.
    fn reserve(&self) -> PathBuf {
        self.root.with_file_name(RESERVE)
    }

    /// Takes the reserve, where the disk has far more than that.
    fn keep_reserve(&self) {
        let path = self.reserve();
        if path.exists() {
            return;
        }
        let Ok(disk) = statvfs(&self.root) else { return };
        let available = disk.blocks_available() * disk.fragment_size();
        let bytes = RESERVE_BYTES.min(disk.blocks() * disk.fragment_size() / 8);
        if available < 4 * bytes {
            return;
        }
        let kept = File::create(&path).and_then(|file| Ok(posix_fallocate(&file, 0, bytes as i64)?));
        if let Err(error) = kept {
            tracing::warn!(%error, "no room could be reserved for results");
            let _ = fs::remove_file(path);
        }
    }

    pub(super) fn note_refusal(&self) {
        self.has_refused.store(true, Ordering::Relaxed);
    }

    /// False: the disk refused an assignment, and would still refuse one. For a blocking thread.
    pub(super) fn takes_work(&self) -> bool {
        if !self.has_refused.load(Ordering::Relaxed) {
            return true;
        }
        let probe = self.root.with_file_name("probe");
        let takes = fs::write(&probe, [0; 256 << 10]).and_then(|()| File::open(&probe)?.sync_all());
        let _ = fs::remove_file(&probe);
        let takes = takes.is_ok();
        self.has_refused.store(!takes, Ordering::Relaxed);
        takes
    }

    pub fn dir(&self, attempt: AttemptId) -> PathBuf {
        self.root.join(attempt.to_string())
    }

    /// Makes an attempt's directory, if it is not there.
    pub fn create(&self, attempt: AttemptId, project: ProjectId) -> io::Result<PathBuf> {
        let dir = self.dir(attempt);
        if !dir.exists() && !self.spare.take(project, &dir) {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(DIR_MODE))?;
        }
        Ok(dir)
    }

    /// Makes records survive a power loss, all of them or none. On a full disk the reserve makes room for them. Blocks.
    pub fn write(&self, records: &[Record]) -> io::Result<()> {
        let written = self.journal().commit(records);
        match written {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && fs::remove_file(self.reserve()).is_ok() => {
                tracing::warn!("the disk is full; a record takes from the reserve");
                self.journal().commit(records)
            }
            written => written,
        }
    }

    /// All records that were found. A directory that has none was never answered for, so it is deleted.
    pub(super) fn take_found(&self) -> io::Result<Vec<Kept>> {
        let Found { kept, is_cut } = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        let known: BTreeSet<AttemptId> = kept.iter().map(|kept| kept.record.assign.held.attempt).collect();
        for (dir, attempt) in directories(&self.root)? {
            if !known.contains(&attempt) && !is_cut {
                let _ = fs::remove_dir_all(&dir);
            }
        }
        Ok(kept)
    }

    /// Deletes an attempt's directory, or keeps it for the next one of the project.
    pub fn remove(&self, attempt: AttemptId, project: Option<ProjectId>) -> io::Result<()> {
        self.journal().forget(attempt);
        let dir = self.dir(attempt);
        let _ = fs::remove_dir_all(dir.join(SPOOL));
        let is_given = project.is_some_and(|project| is_as_made(&dir) && self.spare.give(project, &dir));
        let removed = match if is_given { Ok(()) } else { fs::remove_dir_all(dir) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        self.keep_reserve();
        removed
    }

    /// Writes what was forgotten.
    pub fn flush(&self) {
        self.journal().flush();
    }
}

/// The directories of attempts.
fn directories(root: &Path) -> io::Result<Vec<(PathBuf, AttemptId)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        let name = dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        found.extend(name.map(|attempt| (dir, attempt)));
    }
    Ok(found)
}

/// The records of an earlier version, and whether one can't be read.
fn read_older(root: &Path) -> io::Result<(Vec<Record>, bool)> {
    let (mut records, mut unreadable) = (Vec::new(), false);
    for (dir, attempt) in directories(root)? {
        match fs::read(dir.join(RECORD)).map(|json| serde_json::from_slice::<Record>(&json)) {
            Ok(Ok(record)) => records.push(record),
            Ok(Err(error)) => {
                unreadable = true;
                tracing::error!(attempt.id = %attempt, %error, "an attempt's record is unreadable; its directory stays for a look");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((records, unreadable))
}

/// Whether a directory is as it was made, and holds nothing but what the process executor makes in every one, as it makes it: an empty
/// state file and its two directories. Whether those are empty, it looks at itself before it gives them away. A task that shares the agent's
/// user can change all of that.
fn is_as_made(dir: &Path) -> bool {
    let is_plain = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o7777 == DIR_MODE);
    if !is_plain || !crate::process::has_no_marks(dir) {
        return false;
    }
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let mut parts = 0;
    for entry in entries {
        let Ok(entry) = entry else { return false };
        let is_known = match entry.file_name().to_str() {
            // Through another name it could be read from elsewhere.
            Some(crate::process::STATE) => entry.metadata().is_ok_and(|meta| {
                meta.is_file() && meta.len() == 0 && meta.mode() & 0o7777 == 0o600 && meta.nlink() == 1
            }),
            Some("work" | "tmp") => entry.file_type().is_ok_and(|kind| kind.is_dir()),
            _ => false,
        };
        if !is_known {
            return false;
        }
        parts += 1;
    }
    parts == 3
}

/// Directories of attempts that have ended, as they were made. Within a project only: whoever has opened a directory goes on seeing the
/// names in it.
#[derive(Debug)]
struct Spare {
    root: PathBuf,
    number: AtomicU64,
    dirs: Mutex<HashMap<ProjectId, Vec<PathBuf>>>,
}

impl Spare {
    /// Nothing is known of what an earlier agent left, so it goes.
    fn open(root: PathBuf) -> Self {
        let made = crate::process::remove_tree(&root).and_then(|()| DirBuilder::new().mode(0o700).create(&root));
        if let Err(error) = made {
            tracing::warn!(%error, "directories of attempts can't be kept for later ones");
        }
        Self { root, number: AtomicU64::default(), dirs: Mutex::default() }
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<ProjectId, Vec<PathBuf>>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, project: ProjectId, as_dir: &Path) -> bool {
        let spare = self.dirs().get_mut(&project).and_then(Vec::pop);
        spare.is_some_and(|spare| fs::rename(spare, as_dir).is_ok())
    }

    fn give(&self, project: ProjectId, dir: &Path) -> bool {
        if self.dirs().values().map(Vec::len).sum::<usize>() >= MOST_SPARE {
            return false;
        }
        let spare = self.root.join(self.number.fetch_add(1, Ordering::Relaxed).to_string());
        if fs::rename(dir, &spare).is_err() {
            return false;
        }
        self.dirs().entry(project).or_default().push(spare);
        true
    }
}

#[cfg(test)]
mod tests;
