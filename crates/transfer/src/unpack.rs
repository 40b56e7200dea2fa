//! An archive becomes a directory again. Archives may be made by anyone: nothing in one reaches beyond its directory, makes anything but
//! files, directories and links within it, or takes more room than it was given.

use crate::{
    archive::{components, stays_within},
    error::show_bytes_of,
    writer::{Exactly, Head, append},
};
use domain::{artifact::Sha256Digest, quantity::show_bytes};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat},
    io::Errno,
};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};
use tar::EntryType;

/// Of extension headers: names have at most 4 KiB.
const MOST_EXTENSION: u64 = 64 << 10;
/// What is written at one time; when all of it is zero, nothing is.
const BLOCK: usize = 64 << 10;
/// log2 of the largest window that is decompressed with: 16 MiB of memory. What we pack needs 2.
const WINDOW_LOG: u32 = 24;
/// A ratio means nothing before so many bytes.
const RATIO_FROM: u64 = 1 << 20;

/// What an archive may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, unpacked, the archive's own headers included. None: no limit, or what is free where it is unpacked.
    pub bytes: Option<u64>,
    pub entries: u64,
    /// So many bytes unpacked for each packed one.
    pub ratio: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: None, entries: 10_000_000, ratio: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// No archive that was made by this program has it.
    #[error("{name} in the archive is refused: {why}")]
    Refused { name: String, why: &'static str },
    #[error("unpacked it would be more than {}", show_bytes(*.limit))]
    TooLarge { limit: u64 },
    #[error("it has more than {limit} entries")]
    TooMany { limit: u64 },
    #[error("it unpacks to more than {limit} times its size")]
    Bomb { limit: u64 },
    #[error("it is no archive, or a damaged one: {0}")]
    Garbled(String),
    /// The reader ended early.
    #[error("the archive was cut off")]
    Cut,
    #[error("{name} can't be written: {source}")]
    Unwritable {
        name: String,
        #[source]
        source: io::Error,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    /// Of all files.
    pub bytes: u64,
}

/// What stands under a name in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    File { size: u64, sha256: Sha256Digest, is_executable: bool },
    Directory,
    Link { target: Vec<u8> },
}

/// Unpacks into `dir`, which should be empty and nobody else's. Blocks. What was made before an error stays.
pub fn unpack(from: impl Read, dir: &OwnedFd, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let mut place = Place { root: dir, open: Vec::new() };
    let mut unpacked = Unpacked::default();
    each(from, limits, &mut |entry, content| {
        unpacked.entries += 1;
        let (name, parents) = entry.path.split_last().ok_or_else(|| refused(entry.name, "it has no name"))?;
        let unwritable = |error: Errno| match error {
            Errno::EXIST => refused(entry.name, "it is there twice"),
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
                refused(entry.name, "it lies in what is no directory of the archive")
            }
            error => UnpackError::Unwritable { name: show_bytes_of(entry.name), source: error.into() },
        };
        let parent = place.enter(parents).map_err(unwritable)?;
        match &entry.kind {
            EntryKind::Directory => place.enter(&entry.path).map(drop).map_err(unwritable),
            EntryKind::Link { target } => symlinkat(target.as_slice(), parent, *name).map_err(unwritable),
            EntryKind::File { size, is_executable } => {
                let mode = Mode::from_raw_mode(if *is_executable { 0o777 } else { 0o666 });
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(parent, *name, flags, mode).map_err(unwritable)?;
                unpacked.bytes += *size;
                write_file(File::from(file), *size, content, entry.name)
            }
        }
    })?;
    Ok(unpacked)
}

/// What is in an archive, without unpacking it: by name. Blocks.
pub fn list(from: impl Read, limits: &Limits) -> Result<BTreeMap<Vec<u8>, Listed>, UnpackError> {
    let mut found = BTreeMap::new();
    each(from, limits, &mut |entry, content| {
        let listed = match &entry.kind {
            EntryKind::Directory => Listed::Directory,
            EntryKind::Link { target } => Listed::Link { target: target.clone() },
            EntryKind::File { size, is_executable } => {
                let mut hasher = Sha256::new();
                let mut buffer = vec![0; BLOCK];
                loop {
                    match content.read(&mut buffer).map_err(of_io)? {
                        0 => break,
                        read => hasher.update(&buffer[..read]),
                    }
                }
                Listed::File { size: *size, sha256: crate::source::digest(hasher), is_executable: *is_executable }
            }
        };
        match found.insert(entry.path.join(&b'/'), listed) {
            Some(before) if before != Listed::Directory => Err(refused(entry.name, "it is there twice")),
            _ => Ok(()),
        }
    })?;
    Ok(found)
}

/// Whose entries of a plain tar are, and what may be done with them.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// User and group.
    pub owner: (u32, u32),
    pub is_writable: bool,
    /// Of all entries, in seconds since 1970.
    pub mtime: u64,
}

impl Rights {
    /// For everybody to read, and for nobody to change.
    pub const READ_ONLY: Self = Self { owner: (0, 0), is_writable: false, mtime: 0 };

    fn head<'a>(&self, name: &'a [u8], kind: EntryType, mode: u32) -> Head<'a> {
        let mode = if self.is_writable && kind != EntryType::Symlink { mode | 0o200 } else { mode };
        Head { owner: self.owner, mtime: self.mtime, ..Head::new(name, kind, mode) }
    }
}

/// Writes what is in an archive as a plain tar, for whoever unpacks it elsewhere: nothing but what [`unpack`] would make. Blocks. `out` has got no
/// whole tar before this returns.
pub fn relay(from: impl Read, limits: &Limits, rights: &Rights, out: impl Write) -> Result<Unpacked, UnpackError> {
    let mut tar = tar::Builder::new(out);
    let mut unpacked = Unpacked::default();
    let mut seen = Seen::default();
    each(from, limits, &mut |entry, content| {
        unpacked.entries += 1;
        seen.add(&entry.path, entry.kind == EntryKind::Directory).map_err(|why| refused(entry.name, why))?;
        let unwritable = |source| UnpackError::Unwritable { name: show_bytes_of(entry.name), source };
        let name = entry.path.join(&b'/');
        match &entry.kind {
            EntryKind::Directory => {
                let name = [name.as_slice(), b"/"].concat();
                append(&mut tar, &rights.head(&name, EntryType::Directory, 0o555), io::empty()).map_err(unwritable)
            }
            EntryKind::Link { target } => {
                let head = Head { target, ..rights.head(&name, EntryType::Symlink, 0o777) };
                append(&mut tar, &head, io::empty()).map_err(unwritable)
            }
            EntryKind::File { size, is_executable } => {
                unpacked.bytes += *size;
                let mode = if *is_executable { 0o555 } else { 0o444 };
                let head = Head { size: *size, ..rights.head(&name, EntryType::Regular, mode) };
                let mut reader = Faulty { inner: Exactly { inner: content, left: *size }, fault: None };
                let appended = append(&mut tar, &head, &mut reader);
                match reader.fault.take() {
                    Some(fault) => Err(of_io(fault)),
                    None => appended.map_err(unwritable),
                }
            }
        }
    })?;
    let finished = tar.into_inner().and_then(|mut out| out.flush());
    finished.map_err(|source| UnpackError::Unwritable { name: ".".to_owned(), source })?;
    Ok(unpacked)
}

/// As [`relay`], for content that is one file, read-only: it gets this name. Blocks.
pub fn relay_file(mut from: impl Read, size: u64, name: &str, out: impl Write) -> Result<Unpacked, UnpackError> {
    let mut tar = tar::Builder::new(out);
    let mut reader = Faulty { inner: Exactly { inner: &mut from, left: size }, fault: None };
    let head = Head { size, ..Head::new(name.as_bytes(), EntryType::Regular, 0o444) };
    let appended = append(&mut tar, &head, &mut reader);
    if let Some(fault) = reader.fault.take() {
        return Err(if crate::to_file::is_cut(&fault) { UnpackError::Cut } else { of_io(fault) });
    }
    let finished = appended.and_then(|()| tar.into_inner()).and_then(|mut out| out.flush());
    finished.map_err(|source| UnpackError::Unwritable { name: name.to_owned(), source })?;
    Ok(Unpacked { entries: 1, bytes: size })
}

/// What an archive has had, where nobody's file system tells: a name that is there twice, or that leads through what is no directory.
///
/// Names are kept as hashes with keys of their own: nobody can choose two that are taken for one.
#[derive(Default)]
struct Seen {
    keys: [RandomState; 2],
    /// Whether it is a directory.
    entries: HashMap<(u64, u64), bool>,
}

impl Seen {
    fn add(&mut self, path: &[&[u8]], is_directory: bool) -> Result<(), &'static str> {
        for length in 1..path.len() {
            let key = self.key(&path[..length]);
            if !*self.entries.entry(key).or_insert(true) {
                return Err("it lies in what is no directory of the archive");
            }
        }
        let key = self.key(path);
        match self.entries.insert(key, is_directory) {
            None => Ok(()),
            Some(true) if is_directory => Ok(()),
            Some(_) => Err("it is there twice"),
        }
    }

    fn key(&self, path: &[&[u8]]) -> (u64, u64) {
        (self.keys[0].hash_one(path), self.keys[1].hash_one(path))
    }
}

/// Remembers an error of reading, which whoever copies can't tell from one of writing.
struct Faulty<R> {
    inner: R,
    fault: Option<io::Error>,
}

impl<R: Read> Read for Faulty<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            self.fault = Some(error);
            kind.into()
        })
    }
}

struct Entry<'a> {
    /// As the archive says it.
    name: &'a [u8],
    path: Vec<&'a [u8]>,
    kind: EntryKind,
}

#[derive(PartialEq, Eq)]
enum EntryKind {
    File { size: u64, is_executable: bool },
    Directory,
    Link { target: Vec<u8> },
}

/// Reads an archive entry by entry, each checked before `visit` sees it.
fn each(
    from: impl Read,
    limits: &Limits,
    visit: &mut dyn FnMut(&Entry<'_>, &mut dyn Read) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let packed = Rc::new(Cell::new(0));
    let mut zstd = zstd::Decoder::new(Counted { inner: from, count: packed.clone() }).map_err(of_io)?;
    zstd.window_log_max(WINDOW_LOG).map_err(of_io)?;
    let mut tar = tar::Archive::new(Capped { inner: zstd, unpacked: 0, packed, limits: *limits });
    let mut extensions = Extensions::default();
    let mut count = 0;
    // Raw: the one parser of names and sizes is this one, and it reads no more of an extension than it is good for.
    for entry in tar.entries().map_err(of_io)?.raw(true) {
        let mut entry = entry.map_err(of_io)?;
        count += 1;
        if count > limits.entries {
            return Err(UnpackError::TooMany { limit: limits.entries });
        }
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(of_io)?;
        if extensions.take(kind, size, &mut entry)? {
            continue;
        }
        let told = std::mem::take(&mut extensions);
        let name = told.name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let no = |why| Err(refused(&name, why));
        if told.size.is_some_and(|told| told != size) {
            return no("its size is said in two ways");
        }
        let path = components(&name).map_err(|why| refused(&name, why))?;
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => {
                return no("it is a file with a directory's name");
            }
            EntryType::Regular | EntryType::Continuous => {
                let mode = entry.header().mode().map_err(of_io)?;
                EntryKind::File { size, is_executable: mode & 0o100 != 0 }
            }
            EntryType::Directory | EntryType::Symlink if size > 0 => return no("it has content and is no file"),
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => {
                let target = told.target.or_else(|| entry.link_name_bytes().map(|target| target.into_owned()));
                let target = target.unwrap_or_default();
                if !stays_within(&target, path.len().saturating_sub(1)) {
                    return no("it is a link that leads out, or may do so");
                }
                EntryKind::Link { target }
            }
            EntryType::Link => return no("it is a hard link"),
            EntryType::Char | EntryType::Block => return no("it is a device"),
            EntryType::Fifo => return no("it is a named pipe"),
            EntryType::GNUSparse => return no("it is stored with holes"),
            _ => return no("it is of an unknown kind"),
        };
        // The directory itself, as some tools begin.
        if path.is_empty() && matches!(kind, EntryKind::Directory) {
            continue;
        }
        visit(&Entry { name: &name, path, kind }, &mut entry)?;
    }
    if extensions.is_empty() {
        Ok(())
    } else {
        Err(UnpackError::Garbled("it ends in the middle of an entry".to_owned()))
    }
}

/// What extension headers say of the entry after them.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.target.is_none() && self.size.is_none()
    }

    /// Whether it was one.
    fn take(&mut self, kind: EntryType, size: u64, content: &mut dyn Read) -> Result<bool, UnpackError> {
        let slot = match kind {
            EntryType::GNULongName => &mut self.name,
            EntryType::GNULongLink => &mut self.target,
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let text = extension(size, content)?;
                return self.take_pax(&text, kind == EntryType::XGlobalHeader).map(|()| true);
            }
            _ => return Ok(false),
        };
        let mut text = extension(size, content)?;
        while text.last() == Some(&0) {
            text.pop();
        }
        set(slot, text)?;
        Ok(true)
    }

    fn take_pax(&mut self, mut text: &[u8], is_global: bool) -> Result<(), UnpackError> {
        let garbled = || UnpackError::Garbled("an extension header can't be read".to_owned());
        while !text.is_empty() {
            let blank = text.iter().position(|byte| *byte == b' ').ok_or_else(garbled)?;
            let length: usize =
                std::str::from_utf8(&text[..blank]).ok().and_then(|digits| digits.parse().ok()).ok_or_else(garbled)?;
            if length <= blank + 1 || length > text.len() || text[length - 1] != b'\n' {
                return Err(garbled());
            }
            let record = &text[blank + 1..length - 1];
            text = &text[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(garbled)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" | b"linkpath" | b"size" if is_global => {
                    return Err(UnpackError::Refused {
                        name: "an extension header".to_owned(),
                        why: "it names every entry at once",
                    });
                }
                b"path" => set(&mut self.name, value.to_owned())?,
                b"linkpath" => set(&mut self.target, value.to_owned())?,
                b"size" => {
                    let size =
                        std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or_else(garbled)?;
                    set(&mut self.size, size)?;
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(UnpackError::Refused {
                        name: "an extension header".to_owned(),
                        why: "its entry is stored with holes",
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), UnpackError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => {
            Err(UnpackError::Refused { name: "an extension header".to_owned(), why: "it says twice what its entry is" })
        }
    }
}

fn extension(size: u64, content: &mut dyn Read) -> Result<Vec<u8>, UnpackError> {
    if size > MOST_EXTENSION {
        return Err(UnpackError::Refused { name: "an extension header".to_owned(), why: "it is too long" });
    }
    let mut text = Vec::new();
    content.read_to_end(&mut text).map_err(of_io)?;
    if text.len() as u64 == size {
        Ok(text)
    } else {
        Err(UnpackError::Garbled("it ends in the middle of an entry".to_owned()))
    }
}

/// Where an archive is unpacked: the directories down to the last entry stay open, since the next one is most often beside it.
struct Place<'a> {
    root: &'a OwnedFd,
    open: Vec<(Vec<u8>, OwnedFd)>,
}

impl Place<'_> {
    /// The directory of this path below the root, made where it is missing.
    fn enter(&mut self, path: &[&[u8]]) -> Result<BorrowedFd<'_>, Errno> {
        let same = self.open.iter().zip(path).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(same);
        for name in &path[same..] {
            let parent = self.open.last().map_or(self.root.as_fd(), |(_, dir)| dir.as_fd());
            match mkdirat(parent, *name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            let dir = open_beneath(parent, name)?;
            self.open.push((name.to_vec(), dir));
        }
        Ok(self.open.last().map_or(self.root.as_fd(), |(_, dir)| dir.as_fd()))
    }
}

/// A directory in a directory, and never what a link in it leads to.
fn open_beneath(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    match openat2(parent, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        // Kernels before 5.6, and the filters of old container runtimes. One component that is not followed can't lead anywhere else either.
        Err(Errno::NOSYS | Errno::PERM) => openat(parent, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Holes stay holes: a block of zeros is not written.
fn write_file(mut file: File, size: u64, content: &mut dyn Read, name: &[u8]) -> Result<(), UnpackError> {
    let unwritable = |source| UnpackError::Unwritable { name: show_bytes_of(name), source };
    let mut block = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK))];
    let (mut left, mut hole) = (size, 0);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        let piece = &mut block[..length];
        content.read_exact(piece).map_err(of_io)?;
        left -= length as u64;
        if piece.iter().all(|byte| *byte == 0) {
            hole += length as i64;
            continue;
        }
        if hole > 0 {
            file.seek(SeekFrom::Current(hole)).map_err(unwritable)?;
            hole = 0;
        }
        file.write_all(piece).map_err(unwritable)?;
    }
    if hole > 0 { file.set_len(size).map_err(unwritable) } else { Ok(()) }
}

/// Counts packed bytes.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}
impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self
            .inner
            .read(into)
            .map_err(|error| if crate::to_file::is_cut(&error) { io::Error::other(Stop::Cut) } else { error })?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Counts unpacked bytes, and ends when there are too many.
struct Capped<R> {
    inner: R,
    unpacked: u64,
    packed: Rc<Cell<u64>>,
    limits: Limits,
}
impl<R: Read> Read for Capped<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.unpacked += read as u64;
        if let Some(limit) = self.limits.bytes.filter(|limit| self.unpacked > *limit) {
            return Err(io::Error::other(Stop::TooLarge(limit)));
        }
        let is_bomb = |ratio: &u64| self.unpacked > RATIO_FROM && self.unpacked / ratio.max(&1) > self.packed.get();
        if let Some(limit) = self.limits.ratio.filter(is_bomb) {
            return Err(io::Error::other(Stop::Bomb(limit)));
        }
        Ok(read)
    }
}

/// Carried through readers that know only of I/O errors.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped")]
enum Stop {
    Cut,
    TooLarge(u64),
    Bomb(u64),
}

fn of_io(error: io::Error) -> UnpackError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Stop>()) {
        Some(Stop::Cut) => UnpackError::Cut,
        Some(Stop::TooLarge(limit)) => UnpackError::TooLarge { limit: *limit },
        Some(Stop::Bomb(limit)) => UnpackError::Bomb { limit: *limit },
        None => UnpackError::Garbled(error.to_string()),
    }
}

fn refused(name: &[u8], why: &'static str) -> UnpackError {
    UnpackError::Refused { name: show_bytes_of(name), why }
}
