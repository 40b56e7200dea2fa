//! Writes a tree out: as a tar for Docker, or as plain files into an empty directory. The whole tree is looked at first, so
//! that a refused one leaves nothing behind.

use super::{
    scan::{Entry, Kind},
    tree::Reader,
};
use crate::executor::Failure;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, BufWriter, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    time::{Duration, SystemTime},
};

/// What GNU tar's header holds of a link's target.
const TAR_LINK_BYTES: usize = 100;

/// Who owns the files of a tar, and under which directory they lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TarOptions {
    /// A directory that is itself part of the tar, such as `workspace`. Empty: the files lie at its root.
    pub prefix: String,
    pub uid: u32,
    pub gid: u32,
    /// Path -> content that stands in for the file's own.
    pub replace: BTreeMap<String, Bytes>,
}

impl Reader {
    /// Streams the tree as a tar: the same commit and options, the same bytes. All times are the commit's. Answers notes about
    /// what is left out.
    pub fn write_tar(&self, options: &TarOptions, out: impl Write) -> Result<Vec<String>, Failure> {
        let listing = self.listing()?;
        let time = self.commit_time()?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(64 << 10, out));
        if !options.prefix.is_empty() {
            let mut header = header(options, time, tar::EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, &options.prefix, io::empty()).map_err(cannot_write)?;
        }
        for entry in &listing.entries {
            self.still_wanted()?;
            let path = Path::new(&options.prefix).join(OsStr::from_bytes(&entry.path));
            match &entry.kind {
                Kind::Directory => {
                    let mut header = header(options, time, tar::EntryType::Directory, 0o755, 0);
                    tar.append_data(&mut header, &path, io::empty())
                }
                Kind::File { oid, executable } => {
                    let blob = self.blob(*oid)?;
                    let replaced = std::str::from_utf8(&entry.path).ok().and_then(|path| options.replace.get(path));
                    let content = replaced.map_or(blob.content(), |content| content);
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let mut header = header(options, time, tar::EntryType::Regular, mode, content.len() as u64);
                    tar.append_data(&mut header, &path, content)
                }
                Kind::Symlink { target } => {
                    let mut header = header(options, time, tar::EntryType::Symlink, 0o777, 0);
                    // append_link would tidy the target up; a link says what its author wrote.
                    if target.len() <= TAR_LINK_BYTES {
                        header
                            .set_link_name_literal(target)
                            .and_then(|()| tar.append_data(&mut header, &path, io::empty()))
                    } else {
                        tar.append_link(&mut header, &path, OsStr::from_bytes(target))
                    }
                }
            }
            .map_err(cannot_write)?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(cannot_write)?;
        Ok(listing.notes)
    }

    /// Writes plain files into `directory`, which is there, empty and writable by nobody else. With `owner` everything,
    /// `directory` too, is given to that user and group. Answers notes about what is left out.
    pub fn materialise(&self, directory: &Path, owner: Option<(u32, u32)>) -> Result<Vec<String>, Failure> {
        let listing = self.listing()?;
        let is_empty = fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir())
            && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            return Err(Failure::node("the directory for the files is not an empty directory"));
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.commit_time()?);
        // Links last: until then there is none that a path could lead through.
        let (links, others): (Vec<&Entry>, Vec<&Entry>) =
            listing.entries.iter().partition(|entry| matches!(entry.kind, Kind::Symlink { .. }));
        for entry in others.iter().chain(&links) {
            self.still_wanted()?;
            let path = directory.join(OsStr::from_bytes(&entry.path));
            match &entry.kind {
                Kind::Directory => make_directory(&path),
                Kind::File { oid, executable } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    make_file(&path, self.blob(*oid)?.content(), mode, time)
                }
                Kind::Symlink { target } => std::os::unix::fs::symlink(OsStr::from_bytes(target), &path),
            }
            .map_err(cannot_write)?;
        }
        if let Some((uid, gid)) = owner {
            // From the leaves up: as long as a path is walked, everything above it is still ours, and so the new owner can't
            // turn a directory into a link under our feet.
            let mut paths: Vec<&[u8]> = listing.entries.iter().map(|entry| entry.path.as_slice()).collect();
            paths.sort_unstable_by_key(|path| std::cmp::Reverse(path.iter().filter(|b| **b == b'/').count()));
            for path in
                paths.into_iter().map(|path| directory.join(OsStr::from_bytes(path))).chain([directory.to_owned()])
            {
                std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(cannot_write)?;
            }
        }
        Ok(listing.notes)
    }
}

fn header(options: &TarOptions, time: u64, kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(time);
    header.set_uid(options.uid.into());
    header.set_gid(options.gid.into());
    header
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn make_file(path: &Path, content: &[u8], mode: u32, time: SystemTime) -> io::Result<()> {
    // create_new is O_EXCL, which follows no link either.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.set_modified(time)
}

fn cannot_write(error: io::Error) -> Failure {
    let why = if error.kind() == io::ErrorKind::StorageFull {
        "this node's disk is full".to_owned()
    } else {
        error.to_string()
    };
    Failure::node(format!("the files of the commit can't be written: {why}"))
}
