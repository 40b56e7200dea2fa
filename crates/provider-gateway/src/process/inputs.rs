//! Inputs of processes: unpacked once below the agent's data directory, for nobody to change, and put into an attempt's directory as a link. Where
//! the task's user could not follow that, or is the agent's own and could change what it leads to, as a copy.

use super::{
    remove_tree,
    scratch::{below_workspace, is_reachable_by_all},
    state::Record,
    tree::{open_directory, open_root, walk},
};
use crate::{
    artifacts::inputs::{Brought, Place, Unfilled, Wanted},
    executor::Failure,
};
use domain::{artifact::ArtifactKind, outcome::FailureKind};
use futures::{FutureExt, future::BoxFuture};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, FileType, Mode, OFlags, chmodat, chownat, fchmod, ioctl_ficlone, mkdirat, openat, readlinkat,
        symlinkat, syncfs,
    },
    io::Errno,
    process::{Gid, Uid},
};
use std::{
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use transfer::{Limits, to_directory, to_file};

/// Of a file, half fetched, that nobody went on with.
const PARTS_STAY: Duration = Duration::from_secs(24 * 3_600);

/// The directory of this node's inputs.
#[derive(Clone, Debug)]
pub(super) struct Cellar {
    root: PathBuf,
}

impl Cellar {
    /// Makes it, and removes what is not known as whole. Errors: it can't be made.
    pub(super) fn open(root: &Path, is_whole: impl Fn(&str) -> bool) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        // Tasks run as users of their own: they may pass, not look.
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // A fetch that was cut goes on with it.
            let is_fresh_part = || {
                let changed = entry.metadata().and_then(|meta| meta.modified()).ok();
                let age = changed
                    .and_then(|at| (chrono::Utc::now() - chrono::DateTime::<chrono::Utc>::from(at)).to_std().ok());
                name.ends_with(".part") && age.is_none_or(|age| age < PARTS_STAY)
            };
            if !is_whole(&name)
                && !is_fresh_part()
                && let Err(error) = remove_tree(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "what is left of an input could not be removed");
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Puts inputs where the task finds them. Blocks.
    pub(super) fn place_all(&self, record: &Record, inputs: &[Brought]) -> Result<(), Failure> {
        let as_link = record.uid.is_some() && is_reachable_by_all(&self.root);
        for input in inputs {
            self.place(record, input, as_link).map_err(|error| {
                let path = &input.path;
                let taken = |why: &str| {
                    Failure::new(FailureKind::InputUnavailable, format!("{why} the path of an input: {path}."))
                };
                match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::EXIST) => taken("The code has a file or a directory at"),
                    Some(Errno::LOOP | Errno::NOTDIR) => taken("The code has a link or a file on the way to"),
                    _ => Failure::node(format!("The input at {path} can't be put there: {error}.")),
                }
            })?;
        }
        Ok(())
    }

    fn place(&self, record: &Record, input: &Brought, as_link: bool) -> io::Result<()> {
        let below = below_workspace(&input.path).ok_or(io::ErrorKind::InvalidInput)?;
        let mut dir = open_root(&record.work()).map_err(|failure| io::Error::other(failure.message))?;
        let (parents, last) = (below.parent().unwrap_or(Path::new("")), below.file_name().unwrap_or_default());
        for part in parents.components() {
            let name = part.as_os_str().as_bytes();
            if mkdirat(&dir, name, Mode::from_raw_mode(0o755)) != Err(Errno::EXIST) {
                let owner = record.uid.map(|uid| (Uid::from_raw(uid), Gid::from_raw(uid)));
                let (uid, gid) = owner.unzip();
                chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            dir = open_directory(dir.as_fd(), name)?;
        }
        let (cached, last) = (self.path(&input.key), last.as_bytes());
        if as_link {
            let target = cached.canonicalize()?;
            return Ok(symlinkat(target, &dir, last)?);
        }
        match input.kind {
            ArtifactKind::File => copy_file(&File::open(cached)?, dir.as_fd(), last, 0o444),
            ArtifactKind::Directory => copy_tree(&cached, dir.as_fd(), last),
        }
    }
}

impl Place for Cellar {
    fn has<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        async move { Ok(fs::symlink_metadata(self.path(key)).is_ok()) }.boxed()
    }

    fn fill<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<u64, Unfilled>> {
        async move {
            let path = self.path(wanted.key);
            self.remove(wanted.key).await?;
            let (artifacts, content, observer) = (wanted.artifacts, wanted.content(), &*wanted.observer);
            let (store, addresses, options) = (&artifacts.store, &wanted.addresses, &artifacts.options);
            match wanted.pinned.kind {
                ArtifactKind::File => to_file(store, content, &path, addresses, options, observer).await?,
                ArtifactKind::Directory => {
                    let limits = Limits::default();
                    to_directory(store, content, &path, limits, addresses, options, observer).await?;
                }
            }
            let closed = super::blocking(move || close(&path)).await?;
            Ok(closed.map_err(|error| Failure::node(format!("An input can't be made read-only: {error}.")))?)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let path = self.path(key);
            let removed = super::blocking(move || remove_tree(&path)).await?;
            removed.map_err(|error| Failure::node(format!("An input can't be removed: {error}.")))
        }
        .boxed()
    }
}

/// Nobody can write to it from here on; on disk, too. Gives how many bytes it takes there.
fn close(path: &Path) -> io::Result<u64> {
    if fs::symlink_metadata(path)?.is_file() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
        let file = File::open(path)?;
        file.sync_all()?;
        return Ok(file.metadata()?.blocks() * 512);
    }
    let root = open_root(path).map_err(|failure| io::Error::other(failure.message))?;
    let mut blocks = 0;
    walk(root.try_clone()?, &mut |entry| {
        blocks += entry.stat.st_blocks as u64;
        if let Some(mode) = closed_mode(entry.kind, entry.stat.st_mode) {
            chmodat(entry.parent, entry.last, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(true)
    })?;
    fchmod(&root, Mode::from_raw_mode(0o555))?;
    syncfs(&root)?;
    Ok(blocks * 512)
}

fn closed_mode(kind: FileType, mode: u32) -> Option<u32> {
    match kind {
        FileType::Directory => Some(0o555),
        FileType::RegularFile if mode & 0o100 != 0 => Some(0o555),
        FileType::RegularFile => Some(0o444),
        _ => None,
    }
}

fn copy_file(from: &File, dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut into = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
    // Where the file system can, both share their blocks until one is changed.
    if ioctl_ficlone(&into, from).is_err() {
        io::copy(&mut &*from, &mut into)?;
    }
    Ok(fchmod(&into, Mode::from_raw_mode(mode))?)
}

fn copy_tree(from: &Path, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
    let into: OwnedFd = open_directory(dir, name)?;
    let mut directories = Vec::new();
    let from = open_root(from).map_err(|failure| io::Error::other(failure.message))?;
    walk(from, &mut |entry| {
        match entry.kind {
            FileType::Directory => {
                mkdirat(&into, entry.name, Mode::from_raw_mode(0o700))?;
                directories.push(entry.name.to_vec());
            }
            FileType::Symlink => {
                let target = readlinkat(entry.parent, entry.last, Vec::new())?;
                symlinkat(target, &into, entry.name)?;
            }
            _ => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(openat(entry.parent, entry.last, flags, Mode::empty())?);
                copy_file(&file, into.as_fd(), entry.name, entry.stat.st_mode & 0o777)?;
            }
        }
        Ok(true)
    })?;
    // Nothing can be made in them any more.
    for name in directories.iter().rev() {
        chmodat(&into, name.as_slice(), Mode::from_raw_mode(0o555), AtFlags::empty())?;
    }
    Ok(fchmod(&into, Mode::from_raw_mode(0o555))?)
}
