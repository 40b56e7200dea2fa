//! The attempts on disk: one directory each, with its record, its spool, and what its executor keeps.

use crate::agent::Record;
use domain::ids::AttemptId;
use nix::{fcntl::posix_fallocate, sys::statvfs::statvfs};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const RECORD: &str = "record.json";
/// Blocks that are kept for records: given back to the disk when it is full, so that a result is never lost for want of room.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub struct AttemptsDir {
    root: PathBuf,
    /// The disk did not take the last assignment.
    has_refused: Arc<AtomicBool>,
}

impl AttemptsDir {
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        let dir = Self { root: root.to_owned(), has_refused: Arc::default() };
        dir.keep_reserve();
        Ok(dir)
    }

    /// Beside the attempts, on the same disk.
    fn reserve(&self) -> PathBuf {
        self.root.with_file_name(RESERVE)
    }

    /// Takes the reserve, where the disk has far more than that.
    fn keep_reserve(&self) {
        let path = self.reserve();
        let Ok(disk) = statvfs(&self.root) else { return };
        let available = disk.blocks_available() * disk.fragment_size();
        let bytes = RESERVE_BYTES.min(disk.blocks() * disk.fragment_size() / 8);
        if path.exists() || available < 4 * bytes {
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

    pub fn create(&self, attempt: AttemptId) -> io::Result<PathBuf> {
        let dir = self.dir(attempt);
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        Ok(dir)
    }

    /// Replaces the record in one step and makes it survive a power loss. On a full disk the reserve makes room for it.
    pub fn write(&self, attempt: AttemptId, record: &Record) -> io::Result<()> {
        match self.try_write(attempt, record) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && fs::remove_file(self.reserve()).is_ok() => {
                tracing::warn!("the disk is full; a record takes from the reserve");
                self.try_write(attempt, record)
            }
            written => written,
        }
    }

    fn try_write(&self, attempt: AttemptId, record: &Record) -> io::Result<()> {
        let dir = self.dir(attempt);
        let (path, fresh) = (dir.join(RECORD), dir.join("record.new"));
        let is_first = !path.exists();
        let mut file = File::options().write(true).create(true).truncate(true).open(&fresh)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let json = serde_json::to_vec(record).map_err(io::Error::other)?;
        file.write_all(&json)?;
        file.sync_data()?;
        fs::rename(&fresh, &path)?;
        File::open(&dir)?.sync_all()?;
        // The directory's own name.
        if is_first { File::open(&self.root)?.sync_all() } else { Ok(()) }
    }

    /// All records. A directory without a readable one was never answered for, so it is deleted.
    pub fn read_all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let dir = entry?.path();
            let Some(attempt) =
                dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<AttemptId>().ok())
            else {
                continue;
            };
            match fs::read(dir.join(RECORD)).map(|json| serde_json::from_slice::<Record>(&json)) {
                Ok(Ok(record)) => records.push(record),
                Ok(Err(error)) => {
                    tracing::error!(attempt.id = %attempt, %error, "an attempt's record is unreadable; its directory stays for a look")
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let _ = fs::remove_dir_all(&dir);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    pub fn remove(&self, attempt: AttemptId) -> io::Result<()> {
        let removed = match fs::remove_dir_all(self.dir(attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        self.keep_reserve();
        removed
    }
}
