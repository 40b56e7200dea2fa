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
    /// So many bytes are missing here; then `data` is empty.
    pub(crate) gap: Option<u64>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.gap.unwrap_or(self.data.len() as u64)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LogAck {
    pub(crate) attempt: AttemptId,
    pub(crate) stream: u8,
    pub(crate) next_offset: u64,
}

#[derive(Clone, Default)]
pub(super) struct Head {
    next: [u64; 4],
    /// The bytes of each stream; those of a gap are anything.
    bytes: [Vec<u8>; 4],
    gaps: [Vec<std::ops::Range<u64>>; 4],
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

    /// Whether this byte is missing, and known to be.
    pub(crate) fn is_in_gap(&self, attempt: AttemptId, stream: u8, offset: u64) -> bool {
        let gaps = self.logs.get(&attempt).map(|head| &head.gaps[usize::from(stream - 1)]);
        gaps.is_some_and(|gaps| gaps.iter().any(|gap| gap.contains(&offset)))
    }
    pub(crate) fn has_gaps(&self, attempt: AttemptId) -> bool {
        self.logs.get(&attempt).is_some_and(|head| head.gaps.iter().any(|gaps| !gaps.is_empty()))
    }

    /// Returns what to acknowledge, and how many pieces overlapped what was stored already.
    pub(crate) fn append_logs(&mut self, session: SessionKey, pieces: &[Piece]) -> (Vec<LogAck>, usize) {
        let mut touched: BTreeMap<(AttemptId, u8), u64> = BTreeMap::new();
        let mut overlapping = 0;
        for piece in pieces {
            if self.is_orphan(piece.held) {
                let stored = touched.entry((piece.held.attempt, piece.stream)).or_default();
                *stored = (*stored).max(piece.end());
                continue;
            }
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
            } else if piece.start <= stored && stored < piece.end() && piece.gap.is_some() {
                head.bytes[slot].resize(piece.end() as usize, 0);
                head.gaps[slot].push(stored..piece.end());
                head.next[slot] = piece.end();
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
