//! Checkpoints of processes: read from below the attempt's directory as outputs are, and put there before the start, for the task's user to change.

use super::{
    outputs::pack,
    remove_tree,
    scratch::below_workspace,
    state::Record,
    tree::{open_beneath, open_directory, open_root, walk},
};
use crate::{
    artifacts::{
        checkpoints::{
            Look, Looking, STILL_FOR, Taken, Wanted,
            beginning::{Arriving, Landing},
        },
        inputs::Unfilled,
        outputs::Unread,
    },
    executor::{Failure, Job},
};
use domain::{outcome::FailureKind, spec::Checkpoints};
use futures::{FutureExt, future::BoxFuture};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, RawMode, Stat, chmodat, chownat, fstat, mkdirat, open, renameat},
    io::Errno,
    process::{Gid, Uid},
};
use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use transfer::{Limits, to_directory};

pub(super) async fn take(job: &Job, wanted: Wanted) -> Result<Taken, Unread> {
    let Some((record, below)) = Record::read(&job.dir).zip(below(job.spec.checkpoints.as_ref())) else {
        return Err(Failure::node("The attempt's directory is gone, and its checkpoints with it.").into());
    };
    let work = record.work();
    let (looking_in, looking_at) = (work.clone(), below.clone());
    let first = match unless_gone(super::blocking(move || look(&looking_in, &looking_at)).await?)? {
        None => return Ok(Taken::Unstill),
        Some(Seen::Directory(_, look)) => look,
        Some(Seen::Nothing) => return Ok(Taken::Nothing),
        Some(Seen::Other) => return Ok(Taken::NoDirectory),
    };
    if first.is_of_nothing() {
        return Ok(Taken::Nothing);
    }
    if wanted.stored.as_ref() == Some(&first) {
        return Ok(Taken::Unchanged);
    }
    if !wanted.is_last {
        tokio::time::sleep(STILL_FOR).await;
    }
    Ok(unless_gone(super::blocking(move || pack_still(&work, &below, first, wanted)).await?)?.unwrap_or(Taken::Unstill))
}

/// Where it lies in the attempt's directory.
fn below(checkpoints: Option<&Checkpoints>) -> Option<PathBuf> {
    below_workspace(&checkpoints?.path)
}

/// The directory as its program sees it.
pub(super) fn real_path(job: &Job, record: &Record) -> Option<PathBuf> {
    Some(record.work().join(below(job.spec.checkpoints.as_ref())?))
}

enum Seen {
    Directory(OwnedFd, Look),
    Nothing,
    Other,
}

fn look(work: &Path, below: &Path) -> io::Result<Seen> {
    let work = open_root(work).map_err(|failure| io::Error::other(failure.message))?;
    let dir = match open_beneath(work.as_fd(), below, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Seen::Nothing),
        Err(Errno::NOTDIR) => return Ok(Seen::Other),
        Err(Errno::XDEV | Errno::LOOP) => {
            return Err(io::Error::other("it is a link that leads out, or lies behind one"));
        }
        Err(error) => return Err(error.into()),
    };
    let mut looking = Looking::default();
    looking.add(b"", &told(&fstat(&dir)?));
    walk(dir.try_clone()?, &mut |entry| {
        looking.add(entry.name, &told(&entry.stat));
        Ok(true)
    })?;
    Ok(Seen::Directory(dir, looking.finish()))
}

/// All that changes when an entry does: no program can set the time of its last change.
fn told(stat: &Stat) -> [u64; 7] {
    let Stat { st_mode, st_size, st_ino, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, .. } = *stat;
    [u64::from(st_mode), st_size as u64, st_ino, st_mtime as u64, st_mtime_nsec, st_ctime as u64, st_ctime_nsec]
}

/// Looked at before and after, it is what it was at the first look.
fn pack_still(work: &Path, below: &Path, first: Look, wanted: Wanted) -> io::Result<Taken> {
    let mut packing = wanted.packing;
    match look(work, below)? {
        Seen::Directory(dir, look) if look == first => {
            let seen = packing.seen.clone();
            pack(dir, &mut packing, None, Vec::new(), seen)?;
        }
        _ => return Ok(Taken::Unstill),
    }
    match look(work, below)? {
        Seen::Directory(_, look) if look == first => Ok(Taken::Packed(packing.finish(), look)),
        _ => Ok(Taken::Unstill),
    }
}

/// None: something went away, or became shorter, while it was read.
fn unless_gone<T>(done: io::Result<T>) -> Result<Option<T>, Failure> {
    use io::ErrorKind::{NotADirectory, NotFound, UnexpectedEof};
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | UnexpectedEof) => Ok(None),
        Err(error) => Err(Failure::node(error.to_string())),
    }
}

/// Beside the directory that the process works in: on the same disk, and out of its sight.
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn of(record: &Record) -> Self {
        Self(record.scratch.join("checkpoint.new"))
    }
}

impl Landing for Staging {
    fn land<'a>(&'a self, arriving: Arriving<'a>) -> BoxFuture<'a, Result<(), Unfilled>> {
        async move {
            let staging = self.0.clone();
            let removed = super::blocking(move || remove_tree(&staging)).await?;
            removed
                .map_err(|error| Failure::node(format!("What is left of a checkpoint can't be removed: {error}.")))?;
            let Arriving { content, artifacts, addresses, observer } = arriving;
            let (store, options) = (&artifacts.store, &artifacts.options);
            to_directory(store, content, &self.0, Limits::default(), &addresses, options, &*observer).await?;
            Ok(())
        }
        .boxed()
    }
}

/// Makes the directory of checkpoints the task user's own: what has landed in place of what the code has there, or else an empty one. Blocks.
pub(super) fn place(checkpoints: &Checkpoints, record: &Record, has_landed: bool) -> Result<(), Failure> {
    put(checkpoints, record, has_landed).map_err(|error| {
        let path = &checkpoints.path;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP | Errno::NOTDIR) => Failure::new(
                FailureKind::InputUnavailable,
                format!("The code has a link or a file at the directory of checkpoints, or on the way there: {path}."),
            ),
            _ => Failure::node(format!("The directory of checkpoints, {path}, can't be made: {error}.")),
        }
    })
}

fn put(checkpoints: &Checkpoints, record: &Record, has_landed: bool) -> io::Result<()> {
    let below = below(Some(checkpoints)).ok_or(io::ErrorKind::InvalidInput)?;
    let staging = Staging::of(record).0;
    if has_landed {
        give_away(&staging, record)?;
    }
    let mut dir = open_root(&record.work()).map_err(|failure| io::Error::other(failure.message))?;
    let (parents, last) = (below.parent().unwrap_or(Path::new("")), below.file_name().unwrap_or_default());
    for part in parents.components() {
        dir = enter(&dir, part.as_os_str().as_bytes(), record)?;
    }
    if !has_landed {
        return enter(&dir, last.as_bytes(), record).map(drop);
    }
    // No link is on the way, and nothing of the task runs yet.
    remove_tree(&record.work().join(&below))?;
    let scratch = open(&record.scratch, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(renameat(&scratch, staging.file_name().unwrap_or_default(), &dir, last)?)
}

/// A directory in a directory, made for the task's user where it is missing.
fn enter(dir: &OwnedFd, name: &[u8], record: &Record) -> io::Result<OwnedFd> {
    match mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            let (uid, gid) = owner(record);
            chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_directory(dir.as_fd(), name)
}

fn owner(record: &Record) -> (Option<Uid>, Option<Gid>) {
    record.uid.map(|uid| (Uid::from_raw(uid), Gid::from_raw(uid))).unzip()
}

/// What was unpacked becomes the task user's own, for it to change.
fn give_away(root: &Path, record: &Record) -> io::Result<()> {
    let (uid, gid) = owner(record);
    walk(open_root(root).map_err(|failure| io::Error::other(failure.message))?, &mut |entry| {
        chownat(entry.parent, entry.last, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(mode) = open_mode(entry.kind, entry.stat.st_mode) {
            chmodat(entry.parent, entry.last, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(true)
    })?;
    std::os::unix::fs::chown(root, record.uid, record.uid)?;
    fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

fn open_mode(kind: FileType, mode: RawMode) -> Option<RawMode> {
    match kind {
        FileType::Directory => Some(0o755),
        FileType::RegularFile if mode & 0o100 != 0 => Some(0o755),
        FileType::RegularFile => Some(0o644),
        _ => None,
    }
}
