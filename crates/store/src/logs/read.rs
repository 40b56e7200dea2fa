//! Reads logs: in the order of reading, from where the reader stands.

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

    /// Chunks from `ordinal` on, in the order of reading, up to about `max_bytes` (at least one). `streams`: numbers, 1 to 4.
    pub async fn read_log(
        &self,
        attempt: AttemptId,
        from_ordinal: u64,
        streams: &[u8],
        max_bytes: usize,
    ) -> Result<Vec<LogChunk>, StoreError> {
        let streams: Vec<i16> = streams.iter().map(|stream| i16::from(*stream)).collect();
        // Pieces may be tiny: as many as fit, but at least one.
        let rows = sqlx::query!(
            r#"SELECT ordinal AS "ordinal!", stream AS "stream!", start AS "start!", gap, data AS "data!" FROM (
                 SELECT ordinal, stream, start, gap, data, sum(length(data)) OVER (ORDER BY ordinal) - length(data) AS bytes_before FROM (
                   SELECT ordinal, stream, start, gap, data FROM log_chunks
                   WHERE attempt_id = $1 AND ordinal >= $2 AND stream = ANY($3) ORDER BY ordinal LIMIT 2000) AS next
               ) AS counted WHERE bytes_before < $4 ORDER BY ordinal"#,
            attempt.as_uuid(),
            from_ordinal as i64,
            &streams,
            max_bytes as i64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LogChunk {
                ordinal: row.ordinal as u64,
                stream: row.stream as u8,
                start: row.start as u64,
                data: row.data.into(),
                gap: row.gap.map(|gap| gap as u64),
            })
            .collect())
    }

    /// The chunk of one stream that holds this byte, or the next one: where to begin reading.
    pub async fn log_ordinal_at(&self, attempt: AttemptId, stream: u8, offset: u64) -> Result<Option<u64>, StoreError> {
        let ordinal = sqlx::query_scalar!(
            "SELECT ordinal FROM log_chunks WHERE attempt_id = $1 AND stream = $2 AND start + COALESCE(gap, length(data)) > $3 ORDER BY start LIMIT 1",
            attempt.as_uuid(),
            i16::from(stream),
            offset as i64
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(ordinal.map(|ordinal| ordinal as u64))
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
    pub async fn log_tail(&self, attempt: AttemptId, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        let rows = sqlx::query_scalar!(
            "SELECT data FROM log_chunks WHERE attempt_id = $1 AND gap IS NULL
               AND (stream IN (1, 2) OR stream = 3 AND NOT EXISTS (SELECT FROM attempts WHERE id = $1 AND started_at IS NOT NULL))
             ORDER BY ordinal DESC LIMIT 32",
            attempt.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut tail: Vec<u8> = rows.into_iter().rev().flatten().collect();
        Ok(tail.split_off(tail.len().saturating_sub(max_bytes)))
    }
}
