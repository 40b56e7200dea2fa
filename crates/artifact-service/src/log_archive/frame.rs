//! A piece as bytes. It tells whose it is and where it begins, so that what was read at a wrong place is never taken for it.
//!
//! ```text
//! piece:   version (1), attempt (16 bytes), first ordinal, chunks, start of each of the 4 streams; then of each chunk its stream
//!          (0x80 added: a gap) and its length; then the bytes of all chunks
//! numbers: 7 bits a byte, the lowest first, 0x80 added in all but the last
//! ```

use bytes::Bytes;
use domain::ids::AttemptId;
use store::{ArchivedPiece, FramePlace, LogChunk};
use uuid::Uuid;

const VERSION: u8 = 1;
const GAP: u8 = 0x80;
/// Fast, and small enough: logs are written once and hardly ever read.
const LEVEL: i32 = 3;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("its frame can't be unpacked: {0}")]
    NoFrame(String),
    #[error("its frame has {found} bytes and should have {expected}")]
    WrongSize { expected: u32, found: usize },
    #[error("it is the piece of another log")]
    OfAnother,
    #[error("it ends too early")]
    Short,
    #[error("it has a stream {0}, and there is none")]
    NoStream(u8),
    #[error("its version is {0}, and only {VERSION} is known here")]
    Version(u8),
}

/// Writes a piece: chunks of one attempt without a hole, and where its streams stand before them.
pub(super) fn write_piece(out: &mut Vec<u8>, attempt: AttemptId, starts: &[u64; 4], chunks: &[LogChunk]) {
    out.push(VERSION);
    out.extend_from_slice(attempt.as_uuid().as_bytes());
    write_number(out, chunks.first().map_or(0, |chunk| chunk.ordinal));
    write_number(out, chunks.len() as u64);
    starts.iter().for_each(|start| write_number(out, *start));
    for chunk in chunks {
        match chunk.gap {
            Some(gap) => {
                out.push(chunk.stream | GAP);
                write_number(out, gap);
            }
            None => {
                out.push(chunk.stream);
                write_number(out, chunk.data.len() as u64);
            }
        }
    }
    chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.data));
}

/// A frame of these bytes, with their checksum and their size in it.
pub(super) fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(bytes)
}

/// The chunks of a piece, out of its frame as it is in the pack. The frame's checksum is compared, and all that is known of the piece.
pub(super) fn read_piece(frame: &[u8], wanted: &ArchivedPiece) -> Result<Vec<LogChunk>, Damage> {
    let FramePlace { size, piece_at, .. } = wanted.place;
    let unpacked = zstd::bulk::decompress(frame, size as usize).map_err(|error| Damage::NoFrame(error.to_string()))?;
    if unpacked.len() != size as usize {
        return Err(Damage::WrongSize { expected: size, found: unpacked.len() });
    }
    let mut rest = Bytes::from(unpacked);
    take(&mut rest, u64::from(piece_at))?;
    match take(&mut rest, 1)?[0] {
        VERSION => {}
        version => return Err(Damage::Version(version)),
    }
    let attempt = Uuid::from_slice(&take(&mut rest, 16)?).map_err(|_| Damage::Short)?;
    let (first, count) = (read_number(&mut rest)?, read_number(&mut rest)?);
    let is_it = attempt == wanted.attempt.as_uuid()
        && first == wanted.first_ordinal
        && Some(wanted.next_ordinal) == first.checked_add(count);
    // A chunk takes two bytes at least.
    if !is_it || count > rest.len() as u64 / 2 {
        return Err(Damage::OfAnother);
    }
    let mut ends = [0; 4];
    for end in &mut ends {
        *end = read_number(&mut rest)?;
    }
    let mut table = Vec::with_capacity(count as usize);
    for _ in 0..count {
        table.push((take(&mut rest, 1)?[0], read_number(&mut rest)?));
    }
    let mut chunks = Vec::with_capacity(table.len());
    for (ordinal, (kind, length)) in (first..).zip(table) {
        let stream = kind & !GAP;
        let end = ends.get_mut(usize::from(stream).wrapping_sub(1)).ok_or(Damage::NoStream(stream))?;
        let gap = (kind & GAP != 0).then_some(length);
        let data = if gap.is_some() { Bytes::new() } else { take(&mut rest, length)? };
        chunks.push(LogChunk { ordinal, stream, start: *end, data, gap });
        *end = end.checked_add(length).ok_or(Damage::Short)?;
    }
    Ok(chunks)
}

fn take(rest: &mut Bytes, count: u64) -> Result<Bytes, Damage> {
    if count > rest.len() as u64 { Err(Damage::Short) } else { Ok(rest.split_to(count as usize)) }
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(rest: &mut Bytes) -> Result<u64, Damage> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damage::Short)
}
