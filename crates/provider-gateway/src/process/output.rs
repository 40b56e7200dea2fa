//! What the shim has kept of the output, on its way into the attempt's log.

use super::{state, supervisor::is_missing};
use crate::log::AttemptLog;
use bytes::{Buf, Bytes, BytesMut};
use protocol::Stream;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Read at once.
const CHUNK_BYTES: usize = 128 * 1024;
const HEADER_BYTES: usize = 5;

/// Takes records apart: stream number (1 byte), length (4 bytes, little endian), bytes.
#[derive(Default)]
struct Records {
    waiting: BytesMut,
}

impl Records {
    /// The next whole record. With `is_last`, also the beginning of one that a full disk cut off.
    fn next(&mut self, is_last: bool) -> Option<(Option<Stream>, Bytes)> {
        let header = self.waiting.first_chunk::<HEADER_BYTES>()?;
        let stream = Stream::from_number(header[0]);
        let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let there = self.waiting.len() - HEADER_BYTES;
        if there < len && !is_last {
            return None;
        }
        self.waiting.advance(HEADER_BYTES);
        Some((stream, self.waiting.split_to(len.min(there)).freeze()))
    }
}

/// Reads a growing log file from its beginning.
pub(super) struct Follower {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// Bytes of whole records.
    read_bytes: u64,
    records: Records,
    /// What the attempt's log has already, per stream.
    skip: [u64; 2],
}

impl Follower {
    pub(super) fn new(job_dir: &Path, log: &AttemptLog) -> Self {
        let skip = [log.offset(Stream::Stdout), log.offset(Stream::Stderr)];
        let (path, position) = state::output(job_dir);
        Self { path, file: None, position, read_bytes: 0, records: Records::default(), skip }
    }

    /// Appends all that the file holds now. `is_last`: nothing will be added to it any more.
    pub(super) async fn catch_up(mut self, log: &AttemptLog, is_last: bool) -> io::Result<Self> {
        loop {
            // A thread of its own is for those who have something to say.
            if self.has_read_all()? && self.records.waiting.is_empty() {
                return Ok(self);
            }
            // The follower travels to a thread that may block and comes back; a future that is dropped meanwhile loses nothing
            // but this reader, since the next one begins again from what the log has.
            let (follower, count) = tokio::task::spawn_blocking(move || self.read().map(|count| (self, count)))
                .await
                .map_err(io::Error::other)??;
            self = follower;
            while let Some((stream, bytes)) = self.records.next(is_last && count == 0) {
                self.append(log, stream, bytes).await;
            }
            if count == 0 {
                return Ok(self);
            }
        }
    }

    /// Of so many bytes that the shim has written, those that are not there.
    pub(super) fn missing(&self, written: u64) -> u64 {
        written.saturating_sub(self.read_bytes)
    }

    fn open(&mut self) -> io::Result<Option<&File>> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Err(error) if is_missing(&error) => return Ok(None),
                file => self.file = Some(file?),
            }
        }
        Ok(self.file.as_ref())
    }

    fn has_read_all(&mut self) -> io::Result<bool> {
        let position = self.position;
        Ok(self.open()?.map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))? <= position)
    }

    fn read(&mut self) -> io::Result<usize> {
        self.open()?;
        let Some(file) = &self.file else { return Ok(0) };
        let start = self.records.waiting.len();
        self.records.waiting.resize(start + CHUNK_BYTES, 0);
        let result = file.read_at(&mut self.records.waiting[start..], self.position);
        let count = *result.as_ref().unwrap_or(&0);
        self.records.waiting.truncate(start + count);
        self.position += count as u64;
        if self.records.waiting.is_empty() {
            // A quiet process keeps no buffer.
            self.records.waiting = BytesMut::new();
        }
        result
    }

    async fn append(&mut self, log: &AttemptLog, stream: Option<Stream>, mut bytes: Bytes) {
        let (stream, skip) = match stream {
            Some(stream @ Stream::Stdout) => (stream, &mut self.skip[0]),
            Some(stream @ Stream::Stderr) => (stream, &mut self.skip[1]),
            // Not written by any shim.
            _ => return,
        };
        self.read_bytes += (HEADER_BYTES + bytes.len()) as u64;
        let known = usize::try_from(*skip).unwrap_or(usize::MAX).min(bytes.len());
        *skip -= known as u64;
        bytes.advance(known);
        if !bytes.is_empty() {
            log.append(stream, bytes).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_they_arrive() {
        let file = b"\x01\x03\0\0\0ab\0\x02\0\0\0\0\x02\x02\0\0\0\xff\n\x01\x09\0\0\0cut";
        for size in 1..file.len() {
            let mut records = Records::default();
            let mut seen = Vec::new();
            for piece in file.chunks(size) {
                records.waiting.extend_from_slice(piece);
                while let Some((stream, bytes)) = records.next(false) {
                    seen.push((stream, bytes.to_vec()));
                }
            }
            let whole = [
                (Some(Stream::Stdout), b"ab\0".to_vec()),
                (Some(Stream::Stderr), Vec::new()),
                (Some(Stream::Stderr), b"\xff\n".to_vec()),
            ];
            assert_eq!(seen, whole);
            assert_eq!(records.next(true), Some((Some(Stream::Stdout), Bytes::from_static(b"cut"))));
            assert_eq!(records.next(true), None);
        }
    }
}
