//! Reads logs: in the order of reading, from where the reader stands.

use super::archive::{ArchivedPiece, FramePlace};
use crate::{Store, StoreError};
use bytes::Bytes;
use domain::{
    attempt::AttemptState,
    ids::{AttemptId, TaskId},
    principal::Scope,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    pub ordinal: u64,
    pub stream: u8,
    pub start: u64,
    pub data: Bytes,
    pub gap: Option<u64>,
}

/// What is next in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRead {
    /// None: there is no more now.
    Chunks(Vec<LogChunk>),
    /// It has been moved out. The piece may begin before the place that was asked for, and has chunks of other streams too.
    Archived(ArchivedPiece),
}

/// The end of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    pub bytes: Vec<u8>,
    /// Streams that it is of: numbers, 1 to 4.
    pub streams: Vec<u8>,
    /// What comes before it, when that is not here and the tail is shorter than was asked for.
    pub before: Option<ArchivedPiece>,
}

impl Store {
    /// An attempt of a task by its number, or the last one: (id, number, state).
    pub async fn attempt_by_number(
        &self,
        scope: Scope,
        task: TaskId,
        number: Option<u32>,
    ) -> Result<Option<(AttemptId, u32, AttemptState)>, StoreError> {
        let row = sqlx::query!(
            "SELECT a.id, a.number, a.state FROM attempts a JOIN tasks t ON t.id = a.task_id
             WHERE a.task_id = $1 AND ($2::int IS NULL OR a.number = $2) AND ($3::uuid IS NULL OR t.project_id = $3) ORDER BY a.number DESC LIMIT 1",
            task.as_uuid(),
            number.map(|number| number as i32),
            scope.project().map(|project| project.as_uuid())
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((AttemptId::from_uuid(row.id), row.number as u32, crate::rows::word(&row.state)?))).transpose()
    }

    /// What comes from `ordinal` on, in the order of reading: chunks up to about `max_bytes` (at least one), or where the next of them are.
    /// `streams`: numbers, 1 to 4.
    pub async fn read_log(
        &self,
        attempt: AttemptId,
        from_ordinal: u64,
        streams: &[u8],
        max_bytes: usize,
    ) -> Result<LogRead, StoreError> {
        let numbers: Vec<i16> = streams.iter().map(|stream| i16::from(*stream)).collect();
        // One statement, so that what is moved at this moment is seen in one place. Pieces of chunks may be tiny: as many as fit, but at
        // least one. A row of stream 0 is an archived piece.
        let rows = sqlx::query!(
            r#"WITH piece AS (
                 SELECT r.first_ordinal, r.next_ordinal, r.frame_at, r.frame_length, r.frame_size, r.piece_at, p.key
                 FROM log_archive r LEFT JOIN log_packs p ON p.id = r.pack_id
                 WHERE r.attempt_id = $1 AND r.next_ordinal > $2 AND r.streams & $5 <> 0 ORDER BY r.next_ordinal LIMIT 1)
               SELECT ordinal AS "ordinal!", stream AS "stream!", start AS "start!", gap, data AS "data!", NULL::bigint AS next_ordinal,
                      NULL::integer AS frame_at, NULL::integer AS frame_length, NULL::integer AS frame_size, NULL::integer AS piece_at, NULL::text AS key FROM (
                 SELECT ordinal, stream, start, gap, data, sum(length(data)) OVER (ORDER BY ordinal) - length(data) AS bytes_before FROM (
                   SELECT ordinal, stream, start, gap, data FROM log_chunks
                   WHERE attempt_id = $1 AND ordinal >= $2 AND stream = ANY($3) AND NOT EXISTS (SELECT FROM piece) ORDER BY ordinal LIMIT 2000) AS next
               ) AS counted WHERE bytes_before < $4
               UNION ALL
               SELECT first_ordinal, 0::smallint, 0, NULL, ''::bytea, next_ordinal, frame_at, frame_length, frame_size, piece_at, key FROM piece
               ORDER BY 1"#,
            attempt.as_uuid(),
            from_ordinal as i64,
            &numbers,
            max_bytes as i64,
            mask(streams)
        )
        .fetch_all(&self.pool)
        .await?;
        let mut chunks = Vec::with_capacity(rows.len());
        for row in rows {
            if row.stream == 0 {
                let numbers = [row.frame_at, row.frame_length, row.frame_size, row.piece_at];
                return archived(attempt, row.ordinal, row.next_ordinal, row.key, numbers).map(LogRead::Archived);
            }
            chunks.push(LogChunk {
                ordinal: row.ordinal as u64,
                stream: row.stream as u8,
                start: row.start as u64,
                data: row.data.into(),
                gap: row.gap.map(|gap| gap as u64),
            });
        }
        Ok(LogRead::Chunks(chunks))
    }

    /// Where to begin reading, so that nothing of a stream from this byte on is missed: little comes before it, and there is nothing of the
    /// stream behind the byte when this is the end of the log.
    pub async fn log_ordinal_at(&self, attempt: AttemptId, stream: u8, offset: u64) -> Result<u64, StoreError> {
        let ordinal = sqlx::query_scalar!(
            r#"SELECT COALESCE(
                 (SELECT first_ordinal FROM log_archive WHERE attempt_id = $1 AND streams & $4 <> 0
                    AND CASE $2::smallint WHEN 1 THEN stdout_end WHEN 2 THEN stderr_end WHEN 3 THEN build_end ELSE system_end END > $3
                  ORDER BY next_ordinal LIMIT 1),
                 (SELECT ordinal FROM log_chunks WHERE attempt_id = $1 AND stream = $2 AND start + COALESCE(gap, length(data)) > $3 ORDER BY start LIMIT 1),
                 (SELECT next_ordinal FROM log_heads WHERE attempt_id = $1), 0) AS "ordinal!""#,
            attempt.as_uuid(),
            i16::from(stream),
            offset as i64,
            mask(&[stream])
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(ordinal as u64)
    }

    /// Where each stream of an attempt stands: stdout, stderr, build, system.
    pub async fn log_offsets(&self, attempt: AttemptId) -> Result<[u64; 4], StoreError> {
        let offsets =
            sqlx::query_scalar!("SELECT next_offsets FROM log_heads WHERE attempt_id = $1", attempt.as_uuid())
                .fetch_optional(&self.pool)
                .await?;
        let mut all = [0; 4];
        for (slot, offset) in all.iter_mut().zip(offsets.unwrap_or_default()) {
            *slot = offset as u64;
        }
        Ok(all)
    }

    /// The last bytes of what the task itself wrote, for evidence; of its build, when it never started.
    pub async fn log_tail(&self, attempt: AttemptId, max_bytes: usize) -> Result<LogTail, StoreError> {
        let has_started = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM attempts WHERE id = $1 AND started_at IS NOT NULL) AS "has_started!""#,
            attempt.as_uuid()
        )
        .fetch_one(self.pool_for(1))
        .await?;
        let streams = if has_started { vec![1, 2] } else { vec![1, 2, 3] };
        let numbers: Vec<i16> = streams.iter().map(|stream| i16::from(*stream)).collect();
        let rows = sqlx::query_scalar!(
            "SELECT data FROM log_chunks WHERE attempt_id = $1 AND gap IS NULL AND stream = ANY($2) ORDER BY ordinal DESC LIMIT 32",
            attempt.as_uuid(),
            &numbers
        )
        .fetch_all(&self.pool)
        .await?;
        let is_all = rows.len() < 32;
        let mut tail: Vec<u8> = rows.into_iter().rev().flatten().collect();
        let bytes = tail.split_off(tail.len().saturating_sub(max_bytes));
        let before = match is_all && bytes.len() < max_bytes {
            true => self.archived_before(attempt, u64::MAX >> 1, &streams).await?,
            false => None,
        };
        Ok(LogTail { bytes, streams, before })
    }

    /// The last archived piece before this ordinal that has something of these streams.
    pub async fn archived_before(
        &self,
        attempt: AttemptId,
        ordinal: u64,
        streams: &[u8],
    ) -> Result<Option<ArchivedPiece>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT r.first_ordinal, r.next_ordinal, r.frame_at, r.frame_length, r.frame_size, r.piece_at, p.key AS "key?"
               FROM log_archive r LEFT JOIN log_packs p ON p.id = r.pack_id
               WHERE r.attempt_id = $1 AND r.next_ordinal <= $2 AND r.streams & $3 <> 0 ORDER BY r.next_ordinal DESC LIMIT 1"#,
            attempt.as_uuid(),
            ordinal as i64,
            mask(streams)
        );
        let Some(row) = row.fetch_optional(self.pool_for(1)).await? else { return Ok(None) };
        let numbers = [row.frame_at, row.frame_length, row.frame_size, row.piece_at].map(Some);
        archived(attempt, row.first_ordinal, Some(row.next_ordinal), row.key, numbers).map(Some)
    }
}

/// Streams by their numbers, as rows of the archive have them.
fn mask(streams: &[u8]) -> i16 {
    streams.iter().fold(0, |mask, stream| mask | 1 << (stream - 1))
}

fn archived(
    attempt: AttemptId,
    first: i64,
    next: Option<i64>,
    key: Option<String>,
    place: [Option<i32>; 4],
) -> Result<ArchivedPiece, StoreError> {
    let [Some(at), Some(length), Some(size), Some(piece_at)] = place.map(|number| number.map(|number| number as u32))
    else {
        return Err(StoreError::Corrupt(format!("a piece of the log of attempt {attempt} has no place")));
    };
    let (Some(next), Some(key)) = (next, key) else {
        return Err(StoreError::Corrupt(format!(
            "a piece of the log of attempt {attempt} is in a pack that is not known"
        )));
    };
    let place = FramePlace { at, length, size, piece_at };
    Ok(ArchivedPiece { attempt, first_ordinal: first as u64, next_ordinal: next as u64, key, place })
}
