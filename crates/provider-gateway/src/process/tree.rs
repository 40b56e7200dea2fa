//! Trees that others have made, walked by open directories: no link is followed, and no path is too long.

use crate::executor::Failure;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, statat},
    io::Errno,
};
use std::{io, path::Path};
use transfer::MAX_DEPTH;

/// One entry on the way.
pub(super) struct Entry<'a> {
    /// Below the root, without a slash at either end.
    pub(super) name: &'a [u8],
    pub(super) parent: BorrowedFd<'a>,
    /// In its parent.
    pub(super) last: &'a [u8],
    pub(super) kind: FileType,
    pub(super) stat: Stat,
}

/// Visits every entry below `root`: names sorted, directories before what is in them. What `visit` says no to is not entered. What lies deeper
/// than any archive may be is not visited.
pub(super) fn walk(root: OwnedFd, visit: &mut dyn FnMut(&Entry<'_>) -> io::Result<bool>) -> io::Result<()> {
    let first = names(root.as_fd())?;
    let mut open = vec![(root, first)];
    let mut below: Vec<u8> = Vec::new();
    while let Some((dir, left)) = open.last_mut() {
        let Some(last) = left.pop() else {
            open.pop();
            below.truncate(below.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        };
        let name = if below.is_empty() { last.clone() } else { [below.as_slice(), b"/", &last].concat() };
        let stat = match statat(&*dir, last.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Gone since.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let enters = visit(&Entry { name: &name, parent: dir.as_fd(), last: &last, kind, stat })?;
        if enters && kind == FileType::Directory && open.len() < MAX_DEPTH {
            let Some((dir, _)) = open.last() else { return Ok(()) };
            let inner = open_directory(dir.as_fd(), &last)?;
            let inside = names(inner.as_fd())?;
            below = name;
            open.push((inner, inside));
        }
    }
    Ok(())
}

/// Sorted, the first one last.
pub(super) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

/// A directory in a directory, and never what a link leads to.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Opens what lies at a path below `root`. Links are followed as long as they stay below it.
///
/// Errors: `XDEV` where one does not.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        // Kernels before 5.6, and the filters of old container runtimes: there no link is followed at all.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut dir = openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let parts: Vec<_> = path.components().collect();
            for (at, part) in parts.iter().enumerate() {
                let is_last = at + 1 == parts.len();
                let flags = if is_last { flags } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC };
                dir = openat(&dir, part.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty())?;
            }
            Ok(dir)
        }
        opened => opened,
    }
}

/// A directory by its path, which is the agent's own.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| Failure::node(format!("{} can't be opened: {error}.", path.display())))
}
