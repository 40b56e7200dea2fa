//! Content to a file: a partial file beside it grows in order, survives a restart, and gets the name when all of it is right.

use crate::{
    Content, Downloads, Incoming, Observer, Options, Store, TransferError, Trouble,
    download::{Begun, Fetching},
    error::show,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Fetches `content` to `path`, in place of what stands there. Goes on with what an earlier call of the same content has left in this
/// directory, and fetches all of it once more when the digest is wrong. What is under the name afterwards is on disk and right.
///
/// Errors: as [`crate::stream`], and `Unwritable`, `NoRoom`, `Busy`. The partial file stays, except for a wrong digest.
pub async fn to_file(
    store: &Store,
    content: Content,
    path: &Path,
    addresses: &dyn Downloads,
    options: &Options,
    observer: &dyn Observer,
) -> Result<(), TransferError> {
    let fetching = Fetching::new(store, content, addresses, options, observer);
    let partial_path = beside(path, content, "part");
    let mut is_second = false;
    loop {
        let (path_of_partial, dir) = (partial_path.clone(), parent(path));
        let opening = tokio::task::spawn_blocking(move || {
            let mut partial = open_alone(&path_of_partial)?;
            let begun = if is_second { Begun::default() } else { take_up(&mut partial, content, &path_of_partial)? };
            let place = |source| TransferError::Unwritable { what: show(&path_of_partial), source };
            partial.set_len(begun.at).and_then(|()| partial.seek(SeekFrom::End(0))).map_err(place)?;
            room(&dir, content.size - begun.at)?;
            Ok::<_, TransferError>((partial, begun))
        });
        let (partial, begun) = joined(opening.await)?;
        // Held until the end: it has the lock.
        let writing =
            partial.try_clone().map_err(|source| TransferError::Unwritable { what: show(&partial_path), source })?;
        observer.had(begun.at);
        let (target, from) = (path.to_owned(), partial_path.clone());
        let poured = fetching.pour(begun, move |incoming| write_all(incoming, writing, &from)).await;
        match poured {
            Ok(()) => {
                let named = tokio::task::spawn_blocking(move || {
                    let what = show(&target);
                    let place = |source| TransferError::Unwritable { what: what.clone(), source };
                    fs::rename(&partial_path, &target).map_err(place)?;
                    File::open(parent(&target)).and_then(|dir| dir.sync_all()).map_err(place)
                });
                return joined(named.await);
            }
            Err(TransferError::WrongDigest { .. }) if !is_second => {
                is_second = true;
                // What was there before is not taken for good either.
                observer.again(content.size);
                observer.trouble(&Trouble {
                    why: "the bytes that came are not those that were put there; all of them are fetched once more"
                        .to_owned(),
                    failures: 1,
                    next_in: Duration::ZERO,
                });
            }
            Err(error) => {
                if matches!(error, TransferError::WrongDigest { .. }) {
                    let _ = fs::remove_file(&partial_path);
                }
                return Err(error);
            }
        }
    }
}

fn write_all(incoming: &mut Incoming, mut file: File, path: &Path) -> Result<(), TransferError> {
    let unwritable = |source| TransferError::Unwritable { what: show(path), source };
    loop {
        let piece = incoming.fill_buf().map_err(|_| TransferError::Broken("the transfer was stopped".to_owned()))?;
        let length = piece.len();
        if length == 0 {
            return file.sync_all().map_err(unwritable);
        }
        file.write_all(piece).map_err(unwritable)?;
        incoming.consume(length);
    }
}

/// `.unidesk-0123456789abcdef.part`, in the directory of `path`: named by content, so that it is found again, whatever the target is called.
pub(crate) fn beside(path: &Path, content: Content, ending: &str) -> PathBuf {
    let digest = content.sha256.to_string();
    parent(path).join(format!(".unidesk-{}.{ending}", &digest[..16]))
}

pub(crate) fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Opens the partial file, for this process only.
fn open_alone(path: &Path) -> Result<File, TransferError> {
    let unwritable = |source| TransferError::Unwritable { what: show(path), source };
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(unwritable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(TransferError::Busy { place: show(&parent(path)) });
        }
        // Another process may just have given it its name.
        let is_here = fs::metadata(path)
            .is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino() && own.dev() == there.dev()));
        if is_here {
            return Ok(file);
        }
    }
}

/// What an earlier call has left, hashed.
fn take_up(partial: &mut File, content: Content, path: &Path) -> Result<Begun, TransferError> {
    let unreadable = |source| TransferError::Unreadable { what: show(path), source };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    let mut left = partial.take(content.size);
    loop {
        match left.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(Begun { at, hasher }),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

/// Errors: `NoRoom`. Where it can't be known, writing will tell.
pub(crate) fn room(dir: &Path, needed: u64) -> Result<u64, TransferError> {
    let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if needed > free {
        return Err(TransferError::NoRoom { place: show(dir), needed, free });
    }
    Ok(free)
}

pub(crate) fn joined<T>(result: Result<Result<T, TransferError>, tokio::task::JoinError>) -> Result<T, TransferError> {
    result.unwrap_or_else(|error| Err(TransferError::Broken(format!("a thread ended: {error}"))))
}

/// For errors of reading what is fetched.
pub(crate) fn is_cut(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
