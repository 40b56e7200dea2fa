//! The attempts on disk: one directory each, with its record, its spool, and what its executor keeps.

use crate::agent::Record;
use domain::ids::AttemptId;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const RECORD: &str = "record.json";

#[derive(Clone, Debug)]
pub struct AttemptsDir {
    root: PathBuf,
}

impl AttemptsDir {
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        Ok(Self { root: root.to_owned() })
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

    /// Replaces the record in one step and makes it survive a power loss.
    pub fn write(&self, attempt: AttemptId, record: &Record) -> io::Result<()> {
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
        match fs::remove_dir_all(self.dir(attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
