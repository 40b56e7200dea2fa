//! The file of this node that a checkpoint is packed into.

use crate::{
    artifacts::selection::Seen,
    disk::{Watermarks, used_percent},
};
use domain::artifact::Sha256Digest;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;

/// So often the disk is looked at.
const LOOK_EVERY: u64 = 16 << 20;

/// A file without a name: whatever becomes of the agent, its bytes go with it. It never fills the disk beyond the mark from which on the node
/// refuses work.
pub struct Packing {
    file: File,
    dir: PathBuf,
    marks: Watermarks,
    is_dropped: CancellationToken,
    hasher: Sha256,
    size: u64,
    ends: Vec<u64>,
    pub(crate) seen: Seen,
}

/// A whole archive.
pub struct Packed {
    file: File,
    /// Bytes.
    pub size: u64,
    pub sha256: Sha256Digest,
    /// Where parts of it may well end.
    pub(super) ends: Vec<u64>,
    pub(crate) seen: Seen,
}

impl Packing {
    /// In an attempt's own directory. Once `is_dropped` is cancelled, it takes nothing more. Errors: it can't be made.
    pub(crate) fn new(dir: &Path, marks: Watermarks, is_dropped: CancellationToken) -> io::Result<Self> {
        let path = dir.join("checkpoint");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        let (hasher, dir) = (Sha256::new(), dir.to_owned());
        Ok(Self { file, dir, marks, is_dropped, hasher, size: 0, ends: Vec::new(), seen: Seen::default() })
    }

    /// Cancelled once nobody waits for it any more.
    pub(crate) fn is_dropped(&self) -> &CancellationToken {
        &self.is_dropped
    }

    /// All of it is written.
    pub(crate) fn finish(self) -> Packed {
        let Self { file, hasher, size, ends, seen, .. } = self;
        Packed { file, size, sha256: Sha256Digest(hasher.finalize().into()), ends, seen }
    }
}

impl Write for Packing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_dropped.is_cancelled() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let written = self.file.write(bytes).map_err(|error| match error.kind() {
            ErrorKind::StorageFull => full(),
            _ => error,
        })?;
        self.hasher.update(&bytes[..written]);
        let before = self.size / LOOK_EVERY;
        self.size += written as u64;
        if self.size / LOOK_EVERY > before && used_percent(&self.dir).is_some_and(|used| self.marks.is_full(used)) {
            return Err(full());
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.ends.push(self.size);
        Ok(())
    }
}

fn full() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "there is no room for it on the agent's disk")
}

impl Packed {
    /// For reading from its beginning.
    pub(super) fn again(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_no_name_spares_the_disk_and_ends_when_nobody_waits() {
        let dir = tempfile::tempdir().expect("a directory");
        // What an agent that was killed in its first moment has left.
        fs::write(dir.path().join("checkpoint"), "").expect("written");
        let is_dropped = CancellationToken::new();
        let mut packing = Packing::new(dir.path(), Watermarks::default(), is_dropped.clone()).expect("made");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
        packing.write_all(b"content").expect("written");
        is_dropped.cancel();
        assert!(packing.write_all(b"more").is_err());
        let packed = packing.finish();
        assert_eq!((packed.size, packed.sha256.0), (7, Sha256::digest(b"content").into()));
        assert_eq!(io::read_to_string(packed.again().expect("opened")).expect("read"), "content");

        let full = Watermarks { full_percent: 0, ..Watermarks::default() };
        let mut packing = Packing::new(dir.path(), full, CancellationToken::new()).expect("made");
        let error = packing.write_all(&vec![0; 17 << 20]).expect_err("the disk is full enough");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
