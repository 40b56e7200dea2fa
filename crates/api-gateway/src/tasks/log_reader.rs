//! Reads a task's log in order, over all its attempts, a bounded piece at a time, from the archive and then from the database. It holds a
//! position and nothing else, so a reader may stop anywhere and go on from there.

use crate::{failed::failed, streaming::Cut};
use api_types::{Problem, log::LogEnd};
use domain::{
    attempt::AttemptState,
    ids::{AttemptId, TaskId},
    principal::Scope,
};
use service_kit::ApiError;
use std::sync::Arc;
use store::{ArchiveError, ArchivedPiece, LogArchive, LogChunk, LogRead, Store, StoreError};

const READ_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) scope: Scope,
    pub(super) task: TaskId,
    /// This attempt only; None: the last one, and those that follow it.
    pub(super) attempt: Option<u32>,
    /// Numbers, 1 to 4.
    pub(super) streams: Vec<u8>,
    /// First byte of the one stream.
    pub(super) offset: u64,
    pub(super) follow: bool,
}

/// Where a reader stands: the attempt's number, and the first ordinal that it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) attempt: u32,
    pub(super) next_ordinal: u64,
}

pub(super) enum Read {
    Chunks {
        attempt: AttemptId,
        number: u32,
        chunks: Vec<LogChunk>,
    },
    /// The log goes on with another attempt.
    NextAttempt {
        attempt: AttemptId,
        number: u32,
    },
    /// Nothing more now. The attempt is the one to listen to.
    Wait(Option<AttemptId>),
    End(LogEnd),
}

/// Why a log can't be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log of attempt {attempt} goes on in the object store, and this server was told of none")]
    NoArchive { attempt: AttemptId },
    #[error("reading the archived log of attempt {attempt}")]
    Archive { attempt: AttemptId, number: u32, next_ordinal: u64, source: ArchiveError },
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let away = |detail: &str, retry_after_ms| {
            Problem::new("object-store-away", detail).retry_after_ms(retry_after_ms).into()
        };
        let (number, next_ordinal, source) = match error {
            ReadError::Store(error) => return failed(error),
            ReadError::NoArchive { .. } => {
                return Self::new(
                    "no-object-store",
                    "This part of the log was moved to the object store, and this server was told of none. An administrator sets UNIDESK_S3_ENDPOINT, \
                     UNIDESK_S3_ACCESS_KEY_ID and UNIDESK_S3_SECRET_ACCESS_KEY for the api-gateway, as for the artifact-service, and starts it again.",
                );
            }
            ReadError::Archive { number, next_ordinal, source, .. } => (number, next_ordinal, source),
        };
        tracing::warn!(error = %source, "an archived log could not be read");
        match source {
            ArchiveError::Away(_) => away(
                "This part of the log is in the object store, which does not answer. It is not lost; try again in a moment. What is written now is \
                 stored as ever.",
                2_000,
            ),
            ArchiveError::Refused(_) => away(
                "This part of the log is in the object store, which refuses the platform's own requests. An administrator finds its reason in the \
                 server's log by the request id; then it can be read again.",
                30_000,
            ),
            ArchiveError::Lost(why) => Problem::new(
                "log-lost",
                format!(
                    "A part of the log of attempt {number} is not readable any more: {why}. What comes after it is there: ask for events \
                     (Accept: text/event-stream) with Last-Event-ID: {number}.{}.",
                    next_ordinal.saturating_sub(1)
                ),
            )
            .with("attempt", number)
            .with("next_ordinal", next_ordinal)
            .into(),
        }
    }
}

impl From<ReadError> for Cut {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            other => Self::Archive(service_kit::lifecycle::Chain(&other).to_string()),
        }
    }
}

pub(super) struct LogReader {
    store: Store,
    archive: Option<Arc<dyn LogArchive>>,
    wanted: Wanted,
    position: Option<Position>,
}

impl LogReader {
    pub(super) fn new(
        store: Store,
        archive: Option<Arc<dyn LogArchive>>,
        wanted: Wanted,
        position: Option<Position>,
    ) -> Self {
        Self { store, archive, wanted, position }
    }

    pub(super) async fn next(&mut self) -> Result<Read, ReadError> {
        // The task before its attempts, and an attempt before its bytes: what ended before it was read has no more to come.
        let Some(task) = self.store.get_task(self.wanted.scope, self.wanted.task).await? else {
            return Ok(Read::End(LogEnd { number: 0, state: "gone".into(), bytes: 0, complete: false }));
        };
        let state = task.view.state;
        let number = self.position.map(|position| position.attempt).or(self.wanted.attempt);
        let Some((attempt, number, attempt_state)) = self.attempt(number).await? else {
            return Ok(if state.is_terminal() || !self.wanted.follow {
                Read::End(LogEnd { number: 0, state: state.to_string(), bytes: 0, complete: state.is_terminal() })
            } else {
                Read::Wait(None)
            });
        };
        let position = match self.position {
            Some(position) => position,
            None => *self.position.insert(Position { attempt: number, next_ordinal: self.begin(attempt).await? }),
        };
        let next = self.store.read_log(attempt, position.next_ordinal, &self.wanted.streams, READ_BYTES).await?;
        let (next_ordinal, mut chunks) = match next {
            LogRead::Chunks(chunks) => (chunks.last().map(|last| last.ordinal + 1), chunks),
            LogRead::Archived(piece) => {
                let mut chunks = self.archived(&piece, number).await?;
                let is_wanted = |chunk: &LogChunk| self.wanted.streams.contains(&chunk.stream);
                chunks.retain(|chunk| chunk.ordinal >= position.next_ordinal && is_wanted(chunk));
                (Some(piece.next_ordinal), chunks)
            }
        };
        if let Some(next_ordinal) = next_ordinal {
            self.position = Some(Position { attempt: number, next_ordinal });
            chunks.retain_mut(|chunk| cut_before(chunk, self.wanted.offset));
            return Ok(Read::Chunks { attempt, number, chunks });
        }
        if self.wanted.follow && !attempt_state.is_terminal() {
            return Ok(Read::Wait(Some(attempt)));
        }
        if self.wanted.attempt.is_none()
            && self.wanted.follow
            && let Some((next, next_number, _)) = self.attempt(Some(number + 1)).await?
        {
            self.wanted.offset = 0;
            self.position = Some(Position { attempt: next_number, next_ordinal: 0 });
            return Ok(Read::NextAttempt { attempt: next, number: next_number });
        }
        if self.wanted.attempt.is_none() && self.wanted.follow && !state.is_terminal() {
            return Ok(Read::Wait(Some(attempt)));
        }
        let shown = if self.wanted.attempt.is_some() { attempt_state.to_string() } else { state.to_string() };
        Ok(Read::End(self.end(attempt, number, attempt_state, shown).await?))
    }

    async fn archived(&self, piece: &ArchivedPiece, number: u32) -> Result<Vec<LogChunk>, ReadError> {
        let (attempt, next_ordinal) = (piece.attempt, piece.next_ordinal);
        let archive = self.archive.as_ref().ok_or(ReadError::NoArchive { attempt })?;
        let read = archive.read(piece).await;
        read.map_err(|source| ReadError::Archive { attempt, number, next_ordinal, source })
    }

    async fn attempt(&self, number: Option<u32>) -> Result<Option<(AttemptId, u32, AttemptState)>, StoreError> {
        self.store.attempt_by_number(self.wanted.scope, self.wanted.task, number).await
    }

    async fn begin(&self, attempt: AttemptId) -> Result<u64, StoreError> {
        match self.wanted.streams[..] {
            [stream] if self.wanted.offset > 0 => self.store.log_ordinal_at(attempt, stream, self.wanted.offset).await,
            _ => Ok(0),
        }
    }

    async fn end(
        &self,
        attempt: AttemptId,
        number: u32,
        attempt_state: AttemptState,
        state: String,
    ) -> Result<LogEnd, StoreError> {
        let offsets = self.store.log_offsets(attempt).await?;
        let bytes = self.wanted.streams.iter().map(|stream| offsets[usize::from(stream - 1)]).sum();
        let detail = self.store.get_task(self.wanted.scope, self.wanted.task).await?;
        let ending = detail
            .and_then(|detail| detail.attempts.into_iter().find(|attempt| attempt.row.number == number))
            .and_then(|attempt| attempt.row.ending);
        // The agent says how much there was in the task's own three streams: what the platform says beside them makes up for none
        // of it. A lost attempt has nobody who knows.
        let complete = attempt_state != AttemptState::Lost
            && ending.is_some_and(|ending| ending.log.complete && offsets[..3].iter().sum::<u64>() >= ending.log.bytes);
        Ok(LogEnd { number, state, bytes, complete })
    }
}

/// Cuts off what lies before `offset`. False: all of it does.
fn cut_before(chunk: &mut LogChunk, offset: u64) -> bool {
    let length = chunk.gap.unwrap_or(chunk.data.len() as u64);
    let skip = offset.saturating_sub(chunk.start).min(length);
    chunk.start += skip;
    match &mut chunk.gap {
        Some(gap) => *gap -= skip,
        None => chunk.data = chunk.data.slice(skip as usize..),
    }
    skip < length
}
