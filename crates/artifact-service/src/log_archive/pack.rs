//! Makes a pack of what is pushed, in memory: its bytes, and where which piece is in them.

use super::{
    PIECE_BYTES, PIECE_CHUNKS, SHARED_BYTES,
    frame::{compress, write_piece},
};
use domain::{artifact::Sha256Digest, ids::AttemptId};
use sha2::{Digest as _, Sha256};
use std::io;
use store::{FramePlace, LogChunk, PackedPiece};

/// Whole and in one piece.
pub(crate) struct Pack {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sha256: Sha256Digest,
    pub(crate) pieces: Vec<PackedPiece>,
    /// Bytes of logs in it.
    pub(crate) log_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// What the database has of this log does not fit together: the audit tells more. It was not pushed, and may not go on.
    #[error("piece {ordinal} of the log of attempt {attempt} is not where the one before it ended")]
    Broken { attempt: AttemptId, ordinal: u64 },
    #[error("compressing a log")]
    Compress(#[from] io::Error),
}

/// A log that is being pushed: its chunks that are in no frame yet, and where its streams stand before and behind them.
struct Open {
    attempt: AttemptId,
    next_ordinal: u64,
    starts: [u64; 4],
    ends: [u64; 4],
    chunks: Vec<LogChunk>,
    bytes: usize,
}

#[derive(Default)]
pub(crate) struct Packer {
    open: Option<Open>,
    /// Unpacked, and how many of the pieces are in it.
    frame: Vec<u8>,
    in_frame: usize,
    packed: Vec<u8>,
    pieces: Vec<PackedPiece>,
    log_bytes: u64,
}

impl Packer {
    /// The log of this attempt comes next, from this chunk on, where its streams stand so.
    pub(crate) fn begin(&mut self, attempt: AttemptId, first_ordinal: u64, ends: [u64; 4]) -> Result<(), PackError> {
        self.cut()?;
        let (starts, next_ordinal) = (ends, first_ordinal);
        self.open = Some(Open { attempt, next_ordinal, starts, ends, chunks: Vec::new(), bytes: 0 });
        Ok(())
    }

    /// The next chunk of the log that was begun. Errors: it does not go on there.
    pub(crate) fn push(&mut self, attempt: AttemptId, chunk: LogChunk) -> Result<(), PackError> {
        let broken = PackError::Broken { attempt, ordinal: chunk.ordinal };
        let fits = |open: &Open| {
            let end = open.ends.get(usize::from(chunk.stream).wrapping_sub(1));
            open.attempt == attempt && open.next_ordinal == chunk.ordinal && end == Some(&chunk.start)
        };
        let is_full = |open: &Open| open.bytes + chunk.data.len() > PIECE_BYTES || open.chunks.len() >= PIECE_CHUNKS;
        match &self.open {
            Some(open) if fits(open) => {
                if !open.chunks.is_empty() && is_full(open) {
                    self.cut()?;
                }
            }
            _ => return Err(broken),
        }
        let Some(open) = &mut self.open else { return Err(broken) };
        open.next_ordinal += 1;
        open.ends[usize::from(chunk.stream - 1)] += chunk.gap.unwrap_or(chunk.data.len() as u64);
        open.bytes += chunk.data.len();
        self.log_bytes += chunk.data.len() as u64;
        open.chunks.push(chunk);
        Ok(())
    }

    /// Bytes of logs so far.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// None: nothing was pushed.
    pub(crate) fn finish(mut self) -> Result<Option<Pack>, PackError> {
        self.cut()?;
        self.close_frame()?;
        let sha256 = Sha256Digest(Sha256::digest(&self.packed).into());
        let Self { packed: bytes, pieces, log_bytes, .. } = self;
        Ok((!pieces.is_empty()).then_some(Pack { bytes, sha256, pieces, log_bytes }))
    }

    /// Makes a piece of the chunks that are in none.
    fn cut(&mut self) -> Result<(), PackError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let chunks = std::mem::take(&mut open.chunks);
        let Some(first) = chunks.first() else { return Ok(()) };
        let piece = PackedPiece {
            attempt: open.attempt,
            first_ordinal: first.ordinal,
            next_ordinal: open.next_ordinal,
            ends: open.ends,
            streams: chunks.iter().fold(0, |mask, chunk| mask | 1 << (chunk.stream - 1)),
            place: FramePlace::default(),
        };
        let starts = std::mem::replace(&mut open.starts, open.ends);
        let bytes = std::mem::take(&mut open.bytes);
        if !self.frame.is_empty() && self.frame.len() + bytes > SHARED_BYTES {
            self.close_frame()?;
        }
        let piece_at = self.frame.len() as u32;
        write_piece(&mut self.frame, piece.attempt, &starts, &chunks);
        self.pieces.push(PackedPiece { place: FramePlace { piece_at, ..FramePlace::default() }, ..piece });
        self.in_frame += 1;
        Ok(())
    }

    fn close_frame(&mut self) -> Result<(), PackError> {
        if self.in_frame == 0 {
            return Ok(());
        }
        let compressed = compress(&self.frame)?;
        let first = self.pieces.len() - self.in_frame;
        for piece in &mut self.pieces[first..] {
            piece.place.at = self.packed.len() as u32;
            piece.place.length = compressed.len() as u32;
            piece.place.size = self.frame.len() as u32;
        }
        self.packed.extend_from_slice(&compressed);
        self.frame.clear();
        self.in_frame = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::frame::read_piece, *};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use store::ArchivedPiece;
    use uuid::Uuid;

    fn attempt(n: u128) -> AttemptId {
        AttemptId::from_uuid(Uuid::from_u128(n))
    }

    /// Chunks of (stream, length, gap) from this place on.
    fn chunks(first: u64, mut ends: [u64; 4], parts: &[(u8, usize, bool)]) -> Vec<LogChunk> {
        let parts = (first..).zip(parts).map(|(ordinal, (stream, length, is_gap))| {
            let end = &mut ends[usize::from(stream - 1)];
            let start = *end;
            *end += *length as u64;
            let data: Vec<u8> = (0..*length).map(|n| (n as u64 * 7 + start) as u8).collect();
            let data = if *is_gap { Bytes::new() } else { data.into() };
            LogChunk { ordinal, stream: *stream, start, data, gap: is_gap.then_some(*length as u64) }
        });
        parts.collect()
    }

    fn place(piece: &PackedPiece) -> ArchivedPiece {
        ArchivedPiece {
            attempt: piece.attempt,
            first_ordinal: piece.first_ordinal,
            next_ordinal: piece.next_ordinal,
            key: String::new(),
            place: piece.place,
        }
    }

    fn read(pack: &Pack, piece: &PackedPiece) -> Vec<LogChunk> {
        let (at, length) = (piece.place.at as usize, piece.place.length as usize);
        read_piece(&pack.bytes[at..at + length], &place(piece)).expect("sound")
    }

    fn pack_of(logs: &BTreeMap<AttemptId, (u64, [u64; 4], Vec<LogChunk>)>) -> Pack {
        let mut packer = Packer::default();
        for (attempt, (first, ends, chunks)) in logs {
            packer.begin(*attempt, *first, *ends).expect("begun");
            chunks.iter().for_each(|chunk| packer.push(*attempt, chunk.clone()).expect("it goes on"));
        }
        packer.finish().expect("made").expect("something is in it")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_goes_into_a_pack_comes_out_of_it(
            logs in prop::collection::vec((0u64..1 << 40, prop::array::uniform4(0u64..1 << 50),
                prop::collection::vec((1u8..5, prop_oneof![0usize..300, 60_000usize..66_000], prop::bool::weighted(0.2)), 1..40)), 1..8)
        ) {
            let logs: BTreeMap<_, _> = (0..).map(attempt).zip(logs).map(|(attempt, (first, ends, parts))| {
                (attempt, (first, ends, chunks(first, ends, &parts)))
            }).collect();
            let pack = pack_of(&logs);
            prop_assert_eq!(pack.log_bytes, logs.values().flat_map(|(.., chunks)| chunks).map(|chunk| chunk.data.len() as u64).sum::<u64>());
            for (attempt, (first, starts, chunks)) in logs {
                let pieces: Vec<_> = pack.pieces.iter().filter(|piece| piece.attempt == attempt).collect();
                let (mut next, mut ends, mut found) = (first, starts, Vec::new());
                for piece in pieces {
                    prop_assert_eq!(piece.first_ordinal, next);
                    next = piece.next_ordinal;
                    let some = read(&pack, piece);
                    let mask = some.iter().fold(0, |mask, chunk| mask | 1 << (chunk.stream - 1));
                    prop_assert_eq!(piece.streams, mask);
                    some.iter().for_each(|chunk| ends[usize::from(chunk.stream - 1)] = chunk.start + chunk.gap.unwrap_or(chunk.data.len() as u64));
                    prop_assert_eq!(piece.ends, ends);
                    found.extend(some);
                }
                prop_assert_eq!(found, chunks);
            }
        }
    }

    #[test]
    fn small_logs_share_a_frame_and_large_ones_have_their_own() {
        let small = (0..3_000).map(|n| (attempt(n), (0, [0; 4], chunks(0, [0; 4], &[(1, 200, false)]))));
        let large = (attempt(9_000), (0, [0; 4], chunks(0, [0; 4], &[(1, 60_000, false); 50])));
        let pack = pack_of(&small.chain([large]).collect());
        let frames: BTreeMap<u32, FramePlace> = pack.pieces.iter().map(|piece| (piece.place.at, piece.place)).collect();
        let sizes: Vec<u32> = frames.values().map(|place| place.size).collect();
        assert_eq!(sizes.len(), 6, "three of many and three of one: {sizes:?}");
        assert!(sizes.iter().all(|size| *size < (1 << 20) + 2_000), "{sizes:?}");
        let mut at = 0;
        for place in frames.values() {
            assert_eq!(place.at, at, "one behind the other");
            at += place.length;
        }
        assert_eq!(at as usize, pack.bytes.len());
    }

    #[test]
    fn tiny_chunks_make_no_endless_piece() {
        let log = chunks(0, [0; 4], &vec![(1, 1, false); 10_000]);
        let pack = pack_of(&[(attempt(1), (0, [0; 4], log))].into());
        assert_eq!(pack.pieces.iter().map(|piece| piece.next_ordinal).collect::<Vec<_>>(), [4_096, 8_192, 10_000]);
    }

    #[test]
    fn a_log_that_does_not_go_on_is_refused_and_others_are_packed() {
        let mut packer = Packer::default();
        packer.begin(attempt(1), 0, [0; 4]).expect("begun");
        let log = chunks(0, [0; 4], &[(1, 10, false), (1, 10, false)]);
        packer.push(attempt(1), log[0].clone()).expect("the first");
        let hole = LogChunk { start: 12, ..log[1].clone() };
        assert!(matches!(packer.push(attempt(1), hole), Err(PackError::Broken { ordinal: 1, .. })));
        packer.begin(attempt(2), 0, [0; 4]).expect("begun");
        packer.push(attempt(2), log[0].clone()).expect("another");
        let pack = packer.finish().expect("made").expect("something");
        assert_eq!(pack.pieces.iter().map(|piece| piece.next_ordinal).collect::<Vec<_>>(), [1, 1]);
        assert!(Packer::default().finish().expect("made").is_none());
    }

    #[test]
    fn no_changed_byte_of_a_frame_is_served_and_no_piece_of_another_log() {
        let mut logs = BTreeMap::new();
        for n in 0..4 {
            logs.insert(attempt(n), (5, [3; 4], chunks(5, [3; 4], &[(1, 100, false), (2, 0, false), (4, 9, true)])));
        }
        let pack = pack_of(&logs);
        let piece = &pack.pieces[2];
        let frame = &pack.bytes[..piece.place.length as usize];
        let sound = read_piece(frame, &place(piece)).expect("sound");
        for at in 0..frame.len() {
            for bit in [0x01, 0x80] {
                let mut changed = frame.to_vec();
                changed[at] ^= bit;
                // What changes nothing of what comes out (a bit that the format does not use) is no damage.
                let read = read_piece(&changed, &place(piece));
                assert!(read.is_err() || read.as_ref() == Ok(&sound), "byte {at}");
            }
        }
        assert!(read_piece(&frame[..frame.len() - 1], &place(piece)).is_err());
        let others = [
            ArchivedPiece { attempt: attempt(9), ..place(piece) },
            ArchivedPiece { first_ordinal: 4, ..place(piece) },
            ArchivedPiece { next_ordinal: 9, ..place(piece) },
            ArchivedPiece { place: pack.pieces[1].place, ..place(piece) },
            ArchivedPiece { place: FramePlace { size: piece.place.size + 1, ..piece.place }, ..place(piece) },
            ArchivedPiece { place: FramePlace { size: piece.place.size - 1, ..piece.place }, ..place(piece) },
            ArchivedPiece { place: FramePlace { piece_at: piece.place.size, ..piece.place }, ..place(piece) },
        ];
        for other in others {
            assert!(read_piece(frame, &other).is_err(), "{other:?}");
        }
    }
}
