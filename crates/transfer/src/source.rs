//! What is sent, read once and in order on a thread of its own, and cut into parts that know their checksum.

use crate::{PackError, PartSizes, TransferError, error::show, pack};
use bytes::Bytes;
use domain::artifact::Sha256Digest;
use sha2::{Digest, Sha256};
use std::{
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;

/// What is read at one time; it stays in the processor's cache between reading and hashing.
const STEP: u64 = 256 << 10;

/// Where content comes from.
pub enum Source {
    /// A regular file, opened for reading.
    File { file: File, path: PathBuf },
    /// A file with an [`Archive`](crate::Archive). `ends`: where it was flushed.
    Packed { file: File, path: PathBuf, ends: Vec<u64> },
    /// A directory, as one archive.
    Directory(PathBuf),
    /// Something that is read to its end. `name`: for people.
    Reader { reader: Box<dyn Read + Send>, name: String },
    /// Something that writes itself, on a thread where it may block.
    Written(Box<Writing>),
}

/// Writes content, and flushes where a part may well end. An error of what it writes to only says that the transfer was stopped.
pub type Writing = dyn FnOnce(&mut dyn Write) -> Result<(), TransferError> + Send;

impl Source {
    /// Parts of it may be read a second time when they are sent.
    pub(crate) fn can_be_read_again(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Packed { .. })
    }

    /// Reads all of it through `cutter`; `tell` hears of each piece of a directory's files. Blocks.
    pub(crate) fn read(self, mut cutter: Cutter, tell: &dyn Fn(u64)) -> Result<Whole, TransferError> {
        match self {
            Self::File { file, path } => cutter.copy_file(file, &path, &[])?,
            Self::Packed { file, path, ends } => cutter.copy_file(file, &path, &ends)?,
            Self::Directory(path) => match pack(&path, &mut cutter, tell) {
                Err(PackError::Write(error)) => return Err(stopped(error)),
                packed => packed?,
            },
            Self::Reader { mut reader, name } => {
                cutter.copy(&mut *reader, |source| TransferError::Unreadable { what: name.clone(), source })?;
            }
            Self::Written(write) => write(&mut cutter)?,
        }
        cutter.finish().map_err(stopped)
    }
}

fn stopped(_: io::Error) -> TransferError {
    TransferError::Broken("the transfer was stopped".to_owned())
}

pub(crate) fn is_changed(before: &Metadata, after: &Metadata) -> bool {
    let of = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino());
    of(before) != of(after)
}

/// What all parts are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) size: u64,
    pub(crate) sha256: Sha256Digest,
    pub(crate) parts: u32,
}

/// A part that is read and not stored yet.
pub(crate) struct Part {
    /// From 1 on.
    pub(crate) number: u32,
    pub(crate) size: u64,
    pub(crate) content: PartContent,
    /// Of content that was not kept, and so was hashed while it passed by.
    sha256: Option<Sha256Digest>,
    _held: Held,
}

impl Part {
    /// What is in memory is hashed by whoever sends it: the reading thread, of which there is one, has the whole to hash.
    pub(crate) async fn checksum(&self) -> Result<Sha256Digest, TransferError> {
        match (&self.sha256, &self.content) {
            (Some(sha256), _) => Ok(*sha256),
            (None, PartContent::Bytes(bytes)) => {
                let bytes = bytes.clone();
                let hashing = tokio::task::spawn_blocking(move || digest(Sha256::new_with_prefix(&bytes)));
                hashing.await.map_err(|error| TransferError::Broken(format!("a part can't be hashed: {error}")))
            }
            (None, PartContent::InFile { .. }) => Err(TransferError::Broken("a part was not hashed".to_owned())),
        }
    }
}

#[derive(Clone)]
pub(crate) enum PartContent {
    Bytes(Bytes),
    /// Read again when it is sent.
    InFile {
        file: Arc<File>,
        offset: u64,
    },
}

/// How many bytes of content are in memory, and how many were at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<(AtomicU64, AtomicU64)>);

impl Gauge {
    fn hold(&self, bytes: u64) -> Held {
        let now = self.0.0.fetch_add(bytes, Relaxed) + bytes;
        self.0.1.fetch_max(now, Relaxed);
        Held { gauge: self.clone(), bytes }
    }
    pub(crate) fn most(&self) -> u64 {
        self.0.1.load(Relaxed)
    }
}

struct Held {
    gauge: Gauge,
    bytes: u64,
}
impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.0.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// Cuts what is written to it into parts, and hashes the whole; parts too, where they are not held.
pub(crate) struct Cutter {
    part_size: u64,
    /// A part may end where it has so many bytes. None: all are of one size.
    least_part: Option<u64>,
    held: bool,
    /// For parts that are not held.
    file: Option<Arc<File>>,
    parts: mpsc::Sender<Part>,
    gauge: Gauge,
    buffer: Vec<u8>,
    buffer_held: Option<Held>,
    number: u32,
    /// Bytes of the current part.
    filled: u64,
    size: u64,
    part: Sha256,
    whole: Sha256,
}

impl Cutter {
    pub(crate) fn new(sizes: PartSizes, held: bool, parts: mpsc::Sender<Part>, gauge: Gauge) -> Self {
        Self {
            part_size: sizes.most.max(1),
            least_part: sizes.least,
            held,
            file: None,
            parts,
            gauge,
            buffer: Vec::new(),
            buffer_held: None,
            number: 0,
            filled: 0,
            size: 0,
            part: Sha256::new(),
            whole: Sha256::new(),
        }
    }

    /// `ends`: where parts may well end, in their order.
    fn copy_file(&mut self, mut file: File, path: &Path, ends: &[u64]) -> Result<(), TransferError> {
        let what = show(path);
        let unreadable = |source| TransferError::Unreadable { what: what.clone(), source };
        let before = file.metadata().map_err(unreadable)?;
        if !self.held {
            self.file = Some(Arc::new(file.try_clone().map_err(unreadable)?));
        }
        // Not what is appended meanwhile: that is told below.
        for end in ends.iter().copied().chain([before.len()]) {
            self.copy(&mut (&mut file).take(end.saturating_sub(self.size)), unreadable)?;
            self.end_part().map_err(stopped)?;
        }
        let after = file.metadata().map_err(unreadable)?;
        if self.size != before.len() || is_changed(&before, &after) {
            return Err(TransferError::Changed { what });
        }
        Ok(())
    }

    fn copy(
        &mut self,
        from: &mut dyn Read,
        unreadable: impl Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        loop {
            self.prepare();
            let before = self.buffer.len();
            let step = STEP.min(self.part_size - self.filled);
            let read = from.take(step).read_to_end(&mut self.buffer).map_err(&unreadable)?;
            if read == 0 {
                return Ok(());
            }
            self.taken(before).map_err(stopped)?;
        }
    }

    /// Room for the rest of the part, or for one step of one that is not held.
    fn prepare(&mut self) {
        if self.buffer.capacity() == 0 {
            let room = if self.held { self.part_size } else { STEP };
            self.buffer_held = Some(self.gauge.hold(room));
            self.buffer.reserve_exact(usize::try_from(room).unwrap_or(usize::MAX));
        }
    }

    /// What stands in the buffer from `before` on was just read.
    fn taken(&mut self, before: usize) -> io::Result<()> {
        let fresh = &self.buffer[before..];
        if !self.held {
            self.part.update(fresh);
        }
        self.whole.update(fresh);
        self.filled += fresh.len() as u64;
        self.size += fresh.len() as u64;
        if !self.held {
            self.buffer.clear();
        }
        if self.filled == self.part_size { self.emit() } else { Ok(()) }
    }

    /// A part may well end here: it does where parts may differ and it has enough bytes.
    fn end_part(&mut self) -> io::Result<()> {
        if self.least_part.is_some_and(|least| self.filled >= least.max(1)) { self.emit() } else { Ok(()) }
    }

    fn emit(&mut self) -> io::Result<()> {
        self.prepare();
        self.number += 1;
        let content = match &self.file {
            Some(file) => PartContent::InFile { file: file.clone(), offset: self.size - self.filled },
            None => PartContent::Bytes(std::mem::take(&mut self.buffer).into()),
        };
        let held = if self.file.is_some() {
            self.gauge.hold(0)
        } else {
            self.buffer_held.take().unwrap_or_else(|| self.gauge.hold(0))
        };
        let part = std::mem::take(&mut self.part);
        let sha256 = self.file.is_some().then(|| digest(part));
        let part = Part { number: self.number, size: self.filled, content, sha256, _held: held };
        self.filled = 0;
        self.parts.blocking_send(part).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The last part: also of nothing, where it is the only one.
    fn finish(mut self) -> io::Result<Whole> {
        if self.filled > 0 || self.number == 0 {
            self.emit()?;
        }
        Ok(Whole { size: self.size, sha256: digest(self.whole), parts: self.number })
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.prepare();
        let before = self.buffer.len();
        let room = STEP.min(self.part_size - self.filled);
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.taken(before)?;
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.end_part()
    }
}

pub(crate) fn digest(hasher: Sha256) -> Sha256Digest {
    Sha256Digest(hasher.finalize().into())
}
