//! Fetched bytes as a reader, for whoever writes or unpacks them on a thread where it may block.

use crate::source::digest;
use domain::artifact::Sha256Digest;
use sha2::{Digest, Sha256};
use std::{
    io::{self, BufRead, Read},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;

/// Buffers that were used before. Large ones that are freed by other threads than those that made them would pile up in the allocator.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty one.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = used.unwrap_or_default();
        buffer.reserve_exact(capacity);
        buffer
    }
    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// All bytes pass through here in order, and are hashed. Ends with an error where bytes are missing, so that nobody takes a part for the whole.
pub struct Incoming {
    pieces: mpsc::Receiver<Vec<u8>>,
    pool: Pool,
    current: Vec<u8>,
    /// Of the current piece, so many bytes are read.
    at: usize,
    hasher: Sha256,
    left: u64,
}

impl Incoming {
    /// `hasher` knows what came before; `left` bytes are to come.
    pub(crate) fn new(pieces: mpsc::Receiver<Vec<u8>>, pool: Pool, hasher: Sha256, left: u64) -> Self {
        Self { pieces, pool, current: Vec::new(), at: 0, hasher, left }
    }

    /// The digest of the whole, what was not read included.
    pub(crate) fn finish(mut self) -> io::Result<Sha256Digest> {
        loop {
            match self.fill_buf()?.len() {
                0 => return Ok(digest(self.hasher)),
                length => self.consume(length),
            }
        }
    }
}

impl BufRead for Incoming {
    /// Empty at the end. Errors: `UnexpectedEof` when the transfer was stopped.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && self.left > 0 {
            self.pool.give_back(std::mem::take(&mut self.current));
            self.at = 0;
            self.current = self.pieces.blocking_recv().ok_or(io::ErrorKind::UnexpectedEof)?;
            self.hasher.update(&self.current);
            self.left = self.left.saturating_sub(self.current.len() as u64);
        }
        Ok(&self.current[self.at..])
    }
    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}
