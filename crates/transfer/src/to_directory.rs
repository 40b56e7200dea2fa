//! An archived directory to a directory: unpacked into a fresh one beside it, which gets the name when all of it is right.

use crate::{
    Content, Downloads, Limits, Observer, Options, Store, TransferError, Trouble, UnpackError, Unpacked,
    download::{Begun, Fetching},
    error::show,
    to_file::{beside, joined, parent, room},
    unpack::unpack,
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, syncfs};
use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Fetches `content` and unpacks it as `path`, which may not exist or be empty. Nothing of it is under that name before all of it is there,
/// compared with its digest and on disk. Fetched once more when the digest is wrong.
///
/// `limits.bytes` of None: as many as are free there. Errors: as [`crate::stream`], and `Unpack`, `Unwritable`, `NotEmpty`, `Busy`.
pub async fn to_directory(
    store: &Store,
    content: Content,
    path: &Path,
    limits: Limits,
    addresses: &dyn Downloads,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Unpacked, TransferError> {
    let fetching = Fetching::new(store, content, addresses, options, observer);
    let fresh_path = beside(path, content, "new");
    let mut is_second = false;
    loop {
        let (target, place) = (path.to_owned(), fresh_path.clone());
        let making = tokio::task::spawn_blocking(move || {
            if fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(TransferError::NotEmpty { place: show(&target) });
            }
            let fresh = Fresh::make(&place)?;
            Ok((room(&parent(&target), 0)?, fresh))
        });
        let (free, fresh) = joined(making.await)?;
        let bytes = limits.bytes.unwrap_or(free);
        let into =
            fresh.dir.try_clone().map_err(|source| TransferError::Unwritable { what: show(&fresh_path), source })?;
        let sink = move |incoming: &mut crate::Incoming| {
            let unpacked = unpack(incoming, &into, &Limits { bytes: Some(bytes), ..limits })?;
            syncfs(&into).map_err(|error| UnpackError::Unwritable { name: ".".to_owned(), source: error.into() })?;
            Ok(unpacked)
        };
        match fetching.pour(Begun::default(), sink).await {
            Ok(unpacked) => {
                let target = path.to_owned();
                joined(tokio::task::spawn_blocking(move || fresh.give_name(&target)).await)?;
                return Ok(unpacked);
            }
            Err(TransferError::WrongDigest { .. }) if !is_second => {
                is_second = true;
                observer.again(content.size);
                observer.trouble(&Trouble {
                    why: "the bytes that came are not those that were put there; all of them are fetched once more"
                        .to_owned(),
                    failures: 1,
                    next_in: Duration::ZERO,
                });
            }
            Err(error) => return Err(error),
        }
        // Removing it may take a while, and must be over before the next is made.
        let removing = move || {
            drop(fresh);
            Ok(())
        };
        joined(tokio::task::spawn_blocking(removing).await)?;
    }
}

/// The directory that is filled, for this process only; removed when dropped, unless it got its name.
struct Fresh {
    path: PathBuf,
    dir: OwnedFd,
    is_named: bool,
}

impl Fresh {
    /// In place of what a killed process has left there.
    fn make(path: &Path) -> Result<Self, TransferError> {
        let unwritable = |source: std::io::Error| TransferError::Unwritable { what: show(path), source };
        loop {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unwritable(error)),
                Ok(()) | Err(_) => {}
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = match open(path, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => continue,
                opened => opened.map_err(|error| unwritable(error.into()))?,
            };
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(TransferError::Busy { place: show(&parent(path)) });
            }
            let is_here = fs::symlink_metadata(path).is_ok_and(|there| {
                rustix::fs::fstat(&dir).is_ok_and(|own| (own.st_ino, own.st_dev) == (there.ino(), there.dev()))
            });
            if !is_here {
                continue;
            }
            let fresh = Self { path: path.to_owned(), dir, is_named: false };
            for entry in fs::read_dir(path).map_err(unwritable)? {
                let entry = entry.map_err(unwritable)?;
                let is_dir = entry.file_type().map_err(unwritable)?.is_dir();
                let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
                removed.map_err(unwritable)?;
            }
            return Ok(fresh);
        }
    }

    fn give_name(mut self, target: &Path) -> Result<(), TransferError> {
        let unwritable = |source| TransferError::Unwritable { what: show(target), source };
        // As mkdir would make it, which only the kernel knows: by the mask of this process.
        let probe = self.path.join(".unidesk-mode");
        fs::create_dir(&probe).map_err(unwritable)?;
        let mode = fs::metadata(&probe).map_err(unwritable)?.permissions().mode() & 0o777;
        fs::remove_dir(&probe).map_err(unwritable)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)).map_err(unwritable)?;
        fs::rename(&self.path, target).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => TransferError::NotEmpty { place: show(target) },
            _ => unwritable(error),
        })?;
        self.is_named = true;
        fs::File::open(parent(target)).and_then(|dir| dir.sync_all()).map_err(unwritable)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
