//! Logs in the object store. Many attempts' pieces travel in one object, a pack: it is a sequence of zstd frames that can be read alone, and
//! a frame is a sequence of pieces.
//!
//! Small pieces share a frame, to [`SHARED_BYTES`]: a log of 200 bytes by itself is no smaller when it is compressed, and a fifteenth of
//! its size beside others. A large log has frames of its own.

pub(crate) mod choice;
mod frame;
pub(crate) mod pack;
mod read;

/// Bytes of logs in a piece at most: what is read to show one line of it. A chunk is never cut.
const PIECE_BYTES: usize = 1 << 20;
/// Chunks in a piece at most: each is known by itself when the piece is read.
const PIECE_CHUNKS: usize = 4_096;
/// No piece is added to a frame beyond this.
const SHARED_BYTES: usize = 256 << 10;
