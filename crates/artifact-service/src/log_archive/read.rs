//! Gives archived pieces back: a frame each time, by its range in the pack.

use super::frame::read_piece;
use crate::{ObjectStore, ObjectStoreError};
use futures::{FutureExt as _, future::BoxFuture};
use std::time::Duration;
use store::{ArchiveError, ArchivedPiece, LogArchive, LogChunk};

/// Less than an answer of the API may take to begin, with what it asks the database.
const WITHIN: Duration = Duration::from_secs(8);

impl LogArchive for ObjectStore {
    fn read<'a>(&'a self, piece: &'a ArchivedPiece) -> BoxFuture<'a, Result<Vec<LogChunk>, ArchiveError>> {
        read(self, piece).boxed()
    }
}

async fn read(objects: &ObjectStore, piece: &ArchivedPiece) -> Result<Vec<LogChunk>, ArchiveError> {
    let (at, length) = (u64::from(piece.place.at), u64::from(piece.place.length));
    let got = tokio::time::timeout(WITHIN, objects.read_range(&piece.key, at, length)).await;
    let got = got.unwrap_or_else(|_| Err(ObjectStoreError::Away(format!("no answer in {} s", WITHIN.as_secs()))));
    let lost = |why: &dyn std::fmt::Display| {
        tracing::error!(attempt.id = %piece.attempt, key = piece.key, at, length, %why, "a part of a log is lost");
        metrics::counter!("unidesk_log_archive_damaged_reads_total").increment(1);
        ArchiveError::Lost(why.to_string())
    };
    let frame = match got {
        Ok(Some(frame)) if frame.len() as u64 == length => frame,
        Ok(Some(frame)) => return Err(lost(&format!("{} of its {length} bytes are there", frame.len()))),
        Ok(None) => return Err(lost(&"its object is not there, or ends before it")),
        Err(ObjectStoreError::Away(why)) => return Err(ArchiveError::Away(why)),
        Err(ObjectStoreError::Refused(why)) => return Err(ArchiveError::Refused(why)),
    };
    let wanted = piece.clone();
    let unpacked = tokio::task::spawn_blocking(move || read_piece(&frame, &wanted)).await;
    match unpacked {
        Ok(chunks) => chunks.map_err(|damage| lost(&damage)),
        Err(error) => Err(ArchiveError::Away(format!("unpacking it: {error}"))),
    }
}
