//! The log file: records of stream number (1 byte), length (4 bytes, little endian) and so many bytes, in the order of reading.

use std::{fs::File, io, os::unix::fs::FileExt};

const HEADER: usize = 5;
/// The most bytes in one record.
pub(crate) const MAX_RECORD: usize = 64 * 1024;

pub(crate) struct Log<'a> {
    file: &'a File,
    /// Where it begins in the file.
    start: u64,
    room: u64,
    /// What a full disk has kept out so far, from `done` on.
    record: Vec<u8>,
    done: usize,
    /// Bytes in the file, headers included: after a power loss, whoever reads it must be able to tell whether all of it is there.
    pub(crate) written: u64,
    /// Bytes over the limit, or lost to a full disk, per stream.
    pub(crate) dropped: [u64; 2],
}

impl<'a> Log<'a> {
    pub(crate) fn new((file, start): (&'a File, u64), limit_bytes: u64) -> Self {
        Self {
            file,
            start,
            room: limit_bytes,
            record: Vec::with_capacity(HEADER + MAX_RECORD),
            done: 0,
            written: 0,
            dropped: [0; 2],
        }
    }

    /// Takes the next piece of a stream (0 stdout, 1 stderr), at most [`MAX_RECORD`] bytes. Only while [`Log::is_stuck`] is false.
    pub(crate) fn append(&mut self, stream: usize, bytes: &[u8]) {
        let kept = bytes.len().min(usize::try_from(self.room).unwrap_or(usize::MAX));
        self.room -= kept as u64;
        self.dropped[stream] += (bytes.len() - kept) as u64;
        if kept == 0 {
            return;
        }
        self.record.clear();
        self.done = 0;
        self.record.push(stream as u8 + 1);
        self.record.extend_from_slice(&(kept as u32).to_le_bytes());
        self.record.extend_from_slice(&bytes[..kept]);
        self.flush();
    }

    /// True while the last record is not wholly in the file. The process then waits at its full pipe instead of losing output.
    pub(crate) fn is_stuck(&self) -> bool {
        self.done < self.record.len()
    }

    pub(crate) fn flush(&mut self) {
        while self.is_stuck() {
            match self.file.write_at(&self.record[self.done..], self.start + self.written) {
                Ok(0) => break,
                Ok(count) => {
                    self.done += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Gives up on what a full disk still keeps out, and counts it.
    pub(crate) fn abandon(&mut self) {
        if let Some(stream) = self.record.first().filter(|_| self.is_stuck()) {
            self.dropped[usize::from(*stream) - 1] += (self.record.len() - self.done.max(HEADER)) as u64;
        }
        self.record.clear();
        self.done = 0;
        self.room = 0;
    }
}
