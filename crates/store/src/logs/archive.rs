//! Logs that have left the database: what is known of them here, and who gives them back.
//!
//! Of an attempt a beginning is archived, in whole chunks, and the rest is here: a reader that has come to the end of the one goes on in
//! the other, and no chunk is ever in both.

use crate::LogChunk;
use domain::ids::AttemptId;
use futures::future::BoxFuture;

/// A piece of one attempt's log in the object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedPiece {
    pub attempt: AttemptId,
    /// Its chunks, without a hole.
    pub first_ordinal: u64,
    pub next_ordinal: u64,
    /// Of the pack that has it.
    pub key: String,
    pub place: FramePlace,
}

/// Where a piece is in its pack: in a frame that is unpacked as a whole and may hold other pieces before and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramePlace {
    /// Bytes before the frame.
    pub at: u32,
    /// Its bytes in the pack.
    pub length: u32,
    /// Its bytes when it is unpacked.
    pub size: u32,
    /// Unpacked bytes before the piece.
    pub piece_at: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It does not answer now: the same call may succeed later.
    #[error("the object store is away: {0}")]
    Away(String),
    /// It answers, and does not give it: its settings are wrong, most likely.
    #[error("the object store refuses: {0}")]
    Refused(String),
    /// What is there is not what was put there, or nothing is. It stays so.
    #[error("a part of a log is lost: {0}")]
    Lost(String),
}

/// Gives archived pieces back.
pub trait LogArchive: Send + Sync {
    /// All chunks of a piece, as they were: what is not exactly that is an error, and never a part of it. Takes at most some seconds.
    fn read<'a>(&'a self, piece: &'a ArchivedPiece) -> BoxFuture<'a, Result<Vec<LogChunk>, ArchiveError>>;
}
