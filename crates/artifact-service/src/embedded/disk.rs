//! How objects lie on disk. An object is a directory with a file for each part, whose name says all there is to know of it; so to put parts together
//! is to rename a directory: at once, whatever their size, and wholly or not at all.
//!
//! ```text
//! objects/<key>/<number>-<size>-<sha256>
//! logs/<key>/...                                     likewise: packs of logs
//! uploads/<upload>.<key>/<number>-<size>-<sha256>
//! tmp/...                                            emptied at the start
//! ```
//!
//! A part that is copied from another object is the same file under a second name: it takes no room, and stays until the last object that has it is deleted.
//!
//! Everything is synced before it has its name, and the directory after: what was acknowledged survives a power cut. An object is written once.

use domain::artifact::Sha256Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    ops::Range,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::SystemTime,
};
use uuid::Uuid;

pub(super) struct Disk {
    root: PathBuf,
    /// Parts come in under the shared half; who puts them together has all of it, so that no part comes between the look and the rename.
    gathering: RwLock<()>,
}

/// What lies in one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shelf {
    /// What artifacts have.
    Objects,
    /// Packs of logs.
    Logs,
}

impl Shelf {
    fn dir(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Logs => "logs",
        }
    }
}

/// Which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) shelf: Shelf,
    pub(super) id: Uuid,
}

/// A part, by its file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) number: u32,
    pub(super) size: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) path: PathBuf,
}

/// What was received and is synced, not yet under a name. Removed when it gets none.
pub(super) struct Received {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) sha256: Sha256Digest,
}

impl Drop for Received {
    fn drop(&mut self) {
        // It has another name by now, most often.
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("there is no such upload")]
    NoSuchUpload,
    #[error("there is no such object")]
    NoSuchObject,
    #[error("the parts are not those that are here")]
    PartsDiffer,
    #[error("an object is written once, and this key has another one")]
    WrittenBefore,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for name in ["objects", "logs", "uploads", "tmp"] {
            fs::create_dir_all(root.join(name))?;
        }
        // Whoever may look into the data directory has no business here.
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        sync(root)?;
        Ok(Self { root: root.to_owned(), gathering: RwLock::new(()) })
    }

    /// A fresh file, and where it is.
    pub(super) fn fresh(&self) -> io::Result<(File, PathBuf)> {
        let path = self.tmp();
        Ok((File::options().write(true).create_new(true).open(&path)?, path))
    }

    /// Makes an object of what was received. Repeated with the same bytes it is no error.
    pub(super) fn put(&self, key: Key, received: &Received) -> Result<(), DiskError> {
        let dir = self.tmp();
        fs::create_dir(&dir)?;
        fs::rename(&received.path, dir.join(name_of(1, received.size, &received.sha256)))?;
        sync(&dir)?;
        let object = self.object(key);
        match fs::rename(&dir, &object) {
            Ok(()) => Ok(sync(&self.root.join(key.shelf.dir()))?),
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                fs::remove_dir_all(&dir)?;
                let there = pieces(&object)?;
                let is_same = there.len() == 1 && (there[0].size, there[0].sha256) == (received.size, received.sha256);
                if is_same { Ok(()) } else { Err(DiskError::WrittenBefore) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The upload's name.
    pub(super) fn begin(&self, key: Uuid) -> io::Result<String> {
        let name = format!("{}.{key}", Uuid::new_v4());
        fs::create_dir(self.root.join("uploads").join(&name))?;
        sync(&self.root.join("uploads"))?;
        Ok(name)
    }

    /// Takes a part, in place of one of that number.
    pub(super) fn put_part(&self, key: Uuid, upload: &str, number: u32, received: &Received) -> Result<(), DiskError> {
        let dir = self.upload(key, upload)?;
        let _shared = self.gathering.read().unwrap_or_else(PoisonError::into_inner);
        let path = dir.join(name_of(number, received.size, &received.sha256));
        let is_there = fs::rename(&received.path, &path);
        is_there.map_err(|error| if dir.is_dir() { DiskError::Io(error) } else { DiskError::NoSuchUpload })?;
        Ok(only(&dir, number, &path)?)
    }

    /// Takes a part that is one of an object already, in place of one of that number: its checksum. None: these bytes are not exactly one part there, or the
    /// file system gives no file a second name.
    pub(super) fn link_part(
        &self,
        key: Uuid,
        upload: &str,
        number: u32,
        (from, range): (Key, Range<u64>),
    ) -> Result<Option<Sha256Digest>, DiskError> {
        let dir = self.upload(key, upload)?;
        let (there, _) = self.look(from)?.ok_or(DiskError::NoSuchObject)?;
        let mut begins = 0;
        let found = there.into_iter().find(|piece| {
            let is_it = (begins..begins + piece.size) == range;
            begins += piece.size;
            is_it
        });
        let Some(found) = found else { return Ok(None) };
        let _shared = self.gathering.read().unwrap_or_else(PoisonError::into_inner);
        let path = dir.join(name_of(number, found.size, &found.sha256));
        match fs::hard_link(&found.path, &path) {
            // Asked once more.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(_) if !dir.is_dir() => return Err(DiskError::NoSuchUpload),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(DiskError::NoSuchObject),
            Err(error) => {
                tracing::debug!(%error, "a part is copied, as it can't be linked");
                return Ok(None);
            }
            Ok(()) => {}
        }
        only(&dir, number, &path)?;
        Ok(Some(found.sha256))
    }

    /// Makes an object of these parts of an upload: their numbers and checksums.
    pub(super) fn finish(
        &self,
        key: Uuid,
        upload: &str,
        wanted: &[(u32, Sha256Digest)],
    ) -> Result<Vec<Piece>, DiskError> {
        let dir = self.upload(key, upload)?;
        let _alone = self.gathering.write().unwrap_or_else(PoisonError::into_inner);
        let there = pieces(&dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound => DiskError::NoSuchUpload,
            _ => DiskError::Io(error),
        })?;
        let (taken, superfluous): (Vec<Piece>, Vec<Piece>) =
            there.into_iter().partition(|piece| wanted.contains(&(piece.number, piece.sha256)));
        let numbers = taken.iter().map(|piece| piece.number);
        if wanted.is_empty() || !numbers.eq(wanted.iter().map(|(number, _)| *number)) {
            return Err(DiskError::PartsDiffer);
        }
        for piece in superfluous {
            fs::remove_file(piece.path)?;
        }
        sync(&dir)?;
        let object = self.object(Key { shelf: Shelf::Objects, id: key });
        fs::rename(&dir, &object).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => DiskError::WrittenBefore,
            _ => DiskError::Io(error),
        })?;
        sync(&self.root.join("objects"))?;
        sync(&self.root.join("uploads"))?;
        Ok(taken)
    }

    pub(super) fn abort(&self, key: Uuid, upload: &str) -> Result<(), DiskError> {
        let dir = self.upload(key, upload)?;
        let _alone = self.gathering.write().unwrap_or_else(PoisonError::into_inner);
        self.discard(&dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound => DiskError::NoSuchUpload,
            _ => DiskError::Io(error),
        })
    }

    /// False: it was not there.
    pub(super) fn delete(&self, key: Key) -> io::Result<bool> {
        match self.discard(&self.object(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The parts of an object, in their order, and since when it is there. None: it is not.
    pub(super) fn look(&self, key: Key) -> io::Result<Option<(Vec<Piece>, SystemTime)>> {
        let dir = self.object(key);
        let look = || io::Result::Ok((pieces(&dir)?, fs::metadata(&dir)?.modified()?));
        match look() {
            Ok((pieces, _)) if pieces.is_empty() => Ok(None),
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next keys after this one, in their order.
    pub(super) fn keys_after(&self, shelf: Shelf, after: Option<Uuid>, limit: usize) -> io::Result<Vec<Uuid>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.root.join(shelf.dir()))? {
            let key = entry?.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok());
            keys.extend(key.filter(|key| after.is_none_or(|after| *key > after)));
        }
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }

    /// Uploads that go on: their names, their keys, and since when.
    pub(super) fn uploads(&self) -> io::Result<Vec<(String, Uuid, SystemTime)>> {
        let mut uploads = Vec::new();
        for entry in fs::read_dir(self.root.join("uploads"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let key = name.split_once('.').and_then(|(_, key)| Uuid::try_parse(key).ok());
            if let (Some(key), Ok(metadata)) = (key, entry.metadata()) {
                uploads.push((name, key, metadata.modified()?));
            }
        }
        Ok(uploads)
    }

    fn object(&self, key: Key) -> PathBuf {
        self.root.join(key.shelf.dir()).join(key.id.to_string())
    }

    /// A name of ours and of this key, or none.
    fn upload(&self, key: Uuid, name: &str) -> Result<PathBuf, DiskError> {
        let is_ours = name.split_once('.').is_some_and(|(id, of)| Uuid::try_parse(id).is_ok() && of == key.to_string());
        if is_ours { Ok(self.root.join("uploads").join(name)) } else { Err(DiskError::NoSuchUpload) }
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp").join(Uuid::new_v4().to_string())
    }

    /// Gone in one step, whatever becomes of the steps after it.
    fn discard(&self, dir: &Path) -> io::Result<()> {
        let aside = self.tmp();
        fs::rename(dir, &aside)?;
        fs::remove_dir_all(&aside)
    }
}

/// As S3 has it: of one part its checksum, of several a checksum of theirs and how many there are.
pub(super) fn etag(pieces: &[Piece]) -> String {
    match pieces {
        [piece] => piece.sha256.to_string(),
        pieces => {
            let mut hasher = Sha256::new();
            pieces.iter().for_each(|piece| hasher.update(piece.sha256.0));
            format!("{}-{}", Sha256Digest(hasher.finalize().into()), pieces.len())
        }
    }
}

fn name_of(number: u32, size: u64, sha256: &Sha256Digest) -> String {
    format!("{number:05}-{size}-{sha256}")
}

/// Of all parts of this number the one that came last stays.
fn only(dir: &Path, number: u32, path: &Path) -> io::Result<()> {
    for other in pieces(dir)?.into_iter().filter(|other| other.number == number && other.path != path) {
        fs::remove_file(other.path)?;
    }
    sync(dir)
}

/// In the order of their numbers.
fn pieces(dir: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let read = || {
            let mut fields = path.file_name()?.to_str()?.split('-');
            let piece = Piece {
                number: fields.next()?.parse().ok()?,
                size: fields.next()?.parse().ok()?,
                sha256: fields.next()?.parse().ok()?,
                path: path.clone(),
            };
            fields.next().is_none().then_some(piece)
        };
        pieces.extend(read());
    }
    pieces.sort_by_key(|piece| piece.number);
    Ok(pieces)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
