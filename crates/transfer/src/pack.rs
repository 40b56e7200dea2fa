//! A directory as one archive: tar within zstd, and equal directories are equal bytes, whoever packs them, where and when.

use crate::{
    archive::{MAX_DEPTH, stays_within},
    error::{show, show_bytes_of},
    source::is_changed,
    writer::Archive,
};
use rustix::fs::OFlags;
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{path} can't be read: {source}")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} changed while it was read")]
    Changed { path: String },
    /// It would be no file any more where it is unpacked.
    #[error("{path} is {what}: only files, directories and symbolic links can be stored")]
    Special { path: String, what: &'static str },
    #[error(
        "{path} is a symbolic link to {target}, which leads out of the directory or may do so: nothing would be there for whoever gets it"
    )]
    LinkLeadsOut { path: String, target: String },
    #[error("{path} lies more than {MAX_DEPTH} directories deep")]
    TooDeep { path: String },
    #[error("the archive can't be written: {0}")]
    Write(#[source] io::Error),
}

/// What a directory is made of, before it is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub entries: u64,
    /// Of all files.
    pub bytes: u64,
    /// Seconds and nanoseconds of the last change of anything in it: of its content, its name or its modes.
    pub newest: (i64, i64),
}

/// Looks at everything without reading it. Errors: what [`pack`] would refuse.
pub fn survey(root: &Path) -> Result<Survey, PackError> {
    let mut survey = Survey::default();
    walk(root, &mut |entry| {
        survey.entries += 1;
        survey.newest = survey.newest.max((entry.meta.ctime(), entry.meta.ctime_nsec()));
        if let Kind::File = entry.kind {
            survey.bytes += entry.meta.len();
        }
        Ok(())
    })?;
    let root = fs::metadata(root).map_err(|source| PackError::Unreadable { path: show(root), source })?;
    survey.newest = survey.newest.max((root.ctime(), root.ctime_nsec()));
    Ok(survey)
}

/// Packs what is in `root`; `tell` hears of bytes of files that were read. Blocks.
///
/// Names of a directory are sorted by bytes; times and owners are left out, of modes there is one bit: executable. Hard links become copies.
pub fn pack(root: &Path, out: impl Write, tell: &dyn Fn(u64)) -> Result<(), PackError> {
    let mut archive = Archive::new(out).map_err(PackError::Write)?;
    let mut buffer = vec![0; 256 << 10];
    walk(root, &mut |entry| {
        let name = entry.name.as_slice();
        match &entry.kind {
            Kind::Directory => archive.directory(name).map_err(PackError::Write),
            Kind::Link(target) => archive.link(name, target).map_err(PackError::Write),
            Kind::File => {
                let mut reader = Exactly::open(entry, tell, &mut buffer)?;
                let is_executable = entry.meta.mode() & 0o100 != 0;
                let appended = archive.file(name, entry.meta.len(), is_executable, &mut reader);
                match reader.fault.take() {
                    Some(fault) => Err(fault),
                    None => appended.map_err(PackError::Write).and_then(|()| reader.finish()),
                }
            }
        }
    })?;
    archive.finish().map(drop).map_err(PackError::Write)
}

struct Entry {
    path: PathBuf,
    /// Below the root, without a slash at either end.
    name: Vec<u8>,
    kind: Kind,
    meta: Metadata,
}

enum Kind {
    File,
    Directory,
    Link(Vec<u8>),
}

/// Every entry below `root`, directories before what is in them.
fn walk(root: &Path, visit: &mut dyn FnMut(&Entry) -> Result<(), PackError>) -> Result<(), PackError> {
    // Directories that are being walked: their path, and the names that are left, the next one last.
    let mut open = vec![(root.to_owned(), names(root)?)];
    let mut below: Vec<u8> = Vec::new();
    while let Some((dir, names_left)) = open.last_mut() {
        let Some(name) = names_left.pop() else {
            open.pop();
            below.truncate(below.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        };
        let path = dir.join(std::ffi::OsStr::from_bytes(&name));
        let depth = open.len() - 1;
        let full = if below.is_empty() { name } else { [below.as_slice(), b"/", &name].concat() };
        let entry = look(path, full, depth)?;
        visit(&entry)?;
        if let Kind::Directory = entry.kind {
            if open.len() >= MAX_DEPTH {
                return Err(PackError::TooDeep { path: show(&entry.path) });
            }
            let inner = names(&entry.path)?;
            below.clone_from(&entry.name);
            open.push((entry.path, inner));
        }
    }
    Ok(())
}

/// Sorted, the first one last.
fn names(dir: &Path) -> Result<Vec<Vec<u8>>, PackError> {
    let unreadable = |source| PackError::Unreadable { path: show(dir), source };
    let entries = fs::read_dir(dir).map_err(unreadable)?;
    let mut names: Vec<Vec<u8>> = entries
        .map(|entry| entry.map(|entry| entry.file_name().into_vec()))
        .collect::<io::Result<_>>()
        .map_err(unreadable)?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn look(path: PathBuf, name: Vec<u8>, depth: usize) -> Result<Entry, PackError> {
    let unreadable = |source| PackError::Unreadable { path: show(&path), source };
    let meta = fs::symlink_metadata(&path).map_err(unreadable)?;
    let kind = meta.file_type();
    let special = |what| Err(PackError::Special { path: show(&path), what });
    let kind = if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(unreadable)?.into_os_string().into_vec();
        if !stays_within(&target, depth) {
            return Err(PackError::LinkLeadsOut { path: show(&path), target: show_bytes_of(&target) });
        }
        Kind::Link(target)
    } else if kind.is_fifo() {
        return special("a named pipe");
    } else if kind.is_socket() {
        return special("a socket");
    } else {
        return special("a device");
    };
    Ok(Entry { path, name, kind, meta })
}

/// A file as it was when it was looked at: its whole size, or a fault.
struct Exactly<'a> {
    file: File,
    entry: &'a Entry,
    left: u64,
    tell: &'a dyn Fn(u64),
    fault: Option<PackError>,
    /// tar copies in small pieces.
    buffer: &'a mut Vec<u8>,
    at: usize,
    filled: usize,
}

impl<'a> Exactly<'a> {
    fn open(entry: &'a Entry, tell: &'a dyn Fn(u64), buffer: &'a mut Vec<u8>) -> Result<Self, PackError> {
        let unreadable = |source| PackError::Unreadable { path: show(&entry.path), source };
        // What has become a link or a pipe since is neither followed nor waited for.
        let flags = i32::from_ne_bytes((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().to_ne_bytes());
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&entry.path).map_err(unreadable)?;
        let now = file.metadata().map_err(unreadable)?;
        if !now.is_file() || is_changed(&entry.meta, &now) {
            return Err(PackError::Changed { path: show(&entry.path) });
        }
        Ok(Self { file, entry, left: entry.meta.len(), tell, fault: None, buffer, at: 0, filled: 0 })
    }

    fn finish(self) -> Result<(), PackError> {
        let unreadable = |source| PackError::Unreadable { path: show(&self.entry.path), source };
        if is_changed(&self.entry.meta, &self.file.metadata().map_err(unreadable)?) {
            return Err(PackError::Changed { path: show(&self.entry.path) });
        }
        Ok(())
    }
}

impl Read for Exactly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        if self.at == self.filled {
            match self.file.read(self.buffer) {
                Ok(0) => {
                    self.fault = Some(PackError::Changed { path: show(&self.entry.path) });
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(read) => (self.at, self.filled) = (0, read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(source) => {
                    self.fault = Some(PackError::Unreadable { path: show(&self.entry.path), source });
                    return Err(io::ErrorKind::Other.into());
                }
            }
            (self.tell)(self.filled as u64);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let taken = into.len().min(self.filled - self.at).min(left);
        into[..taken].copy_from_slice(&self.buffer[self.at..self.at + taken]);
        self.at += taken;
        self.left -= taken as u64;
        Ok(taken)
    }
}
