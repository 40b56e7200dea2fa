//! Log bytes, each stream growing only at its end.

use super::{FakeStore, SessionKey};
use bytes::Bytes;
use domain::ids::{AttemptId, Held};
use std::collections::BTreeMap;

#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) held: Held,
    pub(crate) stream: u8,
    pub(crate) start: u64,
    pub(crate) data: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LogAck {
    pub(crate) attempt: AttemptId,
    pub(crate) stream: u8,
    pub(crate) next_offset: u64,
}

#[derive(Default)]
pub(super) struct Head {
    next: [u64; 4],
    /// The bytes of each stream.
    bytes: [Vec<u8>; 4],
}

impl FakeStore {
    pub(super) fn make_log(&mut self, attempt: AttemptId) {
        self.logs.insert(attempt, Head::default());
    }

    pub(crate) fn log_offsets(&self, attempt: AttemptId) -> Option<[u64; 4]> {
        self.logs.get(&attempt).map(|head| head.next)
    }

    pub(crate) fn log_bytes(&self, attempt: AttemptId, stream: u8) -> &[u8] {
        self.logs.get(&attempt).map_or(&[], |head| &head.bytes[usize::from(stream - 1)])
    }

    /// Returns what to acknowledge, and how many pieces overlapped what was stored already.
    pub(crate) fn append_logs(&mut self, session: SessionKey, pieces: &[Piece]) -> (Vec<LogAck>, usize) {
        let mut touched: BTreeMap<(AttemptId, u8), u64> = BTreeMap::new();
        let mut overlapping = 0;
        for piece in pieces {
            if self.attempts.get(&piece.held.attempt).is_none_or(|attempt| attempt.node != session.node) {
                continue;
            }
            let Some(head) = self.logs.get_mut(&piece.held.attempt) else { continue };
            let slot = usize::from(piece.stream - 1);
            let stored = head.next[slot];
            overlapping += usize::from(piece.start < stored);
            if self.planted.log_by_count {
                // As much as came is counted, wherever it belongs.
                head.bytes[slot].extend_from_slice(&piece.data);
                head.next[slot] += piece.data.len() as u64;
            } else if piece.start <= stored && stored < piece.end() {
                head.bytes[slot].extend_from_slice(&piece.data[(stored - piece.start) as usize..]);
                head.next[slot] = piece.end();
            }
            touched.insert((piece.held.attempt, piece.stream), head.next[slot]);
        }
        let acks = touched.into_iter().map(|((attempt, stream), next_offset)| LogAck { attempt, stream, next_offset });
        (acks.collect(), overlapping)
    }
}
