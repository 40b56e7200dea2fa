//! Fetched bytes as a reader, for whoever writes or unpacks them on a thread where it may block.

use crate::source::digest;
use bytes::Bytes;
use domain::artifact::Sha256Digest;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// All bytes pass through here in order, and are hashed. Ends with an error where bytes are missing, so that nobody takes a part for the whole.
pub struct Incoming {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    hasher: Sha256,
    left: u64,
}

impl Incoming {
    /// `hasher` knows what came before; `left` bytes are to come.
    pub(crate) fn new(pieces: mpsc::Receiver<Bytes>, hasher: Sha256, left: u64) -> Self {
        Self { pieces, current: Bytes::new(), hasher, left }
    }

    /// The next piece; None at the end. Errors: `UnexpectedEof` when the transfer was stopped.
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.pieces.blocking_recv().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.hasher.update(&piece);
        self.left = self.left.saturating_sub(piece.len() as u64);
        Ok(Some(piece))
    }

    /// The digest of the whole, what was not read included.
    pub(crate) fn finish(mut self) -> io::Result<Sha256Digest> {
        while self.next_piece()?.is_some() {}
        Ok(digest(self.hasher))
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            let Some(piece) = self.next_piece()? else { return Ok(0) };
            self.current = piece;
        }
        let taken = self.current.len().min(into.len());
        into[..taken].copy_from_slice(&self.current.split_to(taken));
        Ok(taken)
    }
}
