//! Moves logs out: who waits for it, their chunks, and the one transaction in which chunks here become pieces there.
//!
//! A pack is announced on the list of garbage before its first byte goes anywhere: whoever dies between that and the move leaves nothing
//! but what the collector deletes when the announcement is due.

use super::archive::FramePlace;
use crate::{LogChunk, Store, StoreError};
use domain::{artifact::Sha256Digest, ids::AttemptId};
use std::time::Duration;
use uuid::Uuid;

/// An attempt with chunks in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingLog {
    pub attempt: AttemptId,
    /// Its chunks here.
    pub first_ordinal: u64,
    pub next_ordinal: u64,
    /// Where each stream stands before the first of them.
    pub ends: [u64; 4],
    /// Bytes of them at most: what is known to be missing counts too.
    pub bytes: u64,
    /// Since when the attempt has ended.
    pub ended: Option<Duration>,
}

/// One bite of a walk over all attempts that have chunks here, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingLogs {
    pub logs: Vec<WaitingLog>,
    /// Where the next one begins; None: the walk is over.
    pub next: Option<AttemptId>,
}

/// Chunks of one attempt, by their ordinals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStretch {
    pub attempt: AttemptId,
    pub first_ordinal: u64,
    pub next_ordinal: u64,
}

/// An object that is in the store, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPack {
    pub key: String,
    pub size: u64,
    pub sha256: Sha256Digest,
    /// Bytes of logs in it.
    pub log_bytes: u64,
}

/// A piece in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedPiece {
    pub attempt: AttemptId,
    pub first_ordinal: u64,
    pub next_ordinal: u64,
    /// Where each stream of the attempt stands behind it.
    pub ends: [u64; 4],
    /// Bit 0: it has something of stdout; and so on.
    pub streams: u8,
    pub place: FramePlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedLogs {
    Moved,
    /// Some chunks are not there any more, since others were faster or their task was deleted, or the announcement was about to become due:
    /// nothing was changed, and the object is deleted.
    Stale,
}

/// Chunks that one statement gives at most.
const CHUNKS_AT_ONCE: i64 = 4_000;
/// A pack is not moved to when its announcement is due within this time: whoever deletes what is due may have read the list by then.
const NEARLY_DUE_S: f64 = 600.0;

impl Store {
    /// Takes or renews the right to move logs for so long. False: another process has it.
    pub async fn claim_log_mover(&self, holder: Uuid, lasts: Duration) -> Result<bool, StoreError> {
        // One that ends a day from now was taken by a clock that has been set back since.
        let claimed = sqlx::query_scalar!(
            "UPDATE log_mover SET holder = $1, until = now() + make_interval(secs => $2)
             WHERE holder = $1 OR until < now() OR until > now() + interval '1 day' RETURNING singleton",
            holder,
            lasts.as_secs_f64()
        );
        Ok(claimed.fetch_optional(self.pool_for(1)).await?.is_some())
    }

    /// The next attempts after this one that have chunks here.
    pub async fn waiting_logs(&self, after: Option<AttemptId>, limit: i64) -> Result<WaitingLogs, StoreError> {
        // From attempt to attempt by the index, however many chunks each has.
        let rows = sqlx::query!(
            r#"WITH RECURSIVE walk AS (
                 (SELECT attempt_id, ordinal FROM log_chunks WHERE attempt_id > $1 ORDER BY attempt_id, ordinal LIMIT 1)
                 UNION ALL
                 SELECT n.attempt_id, n.ordinal FROM walk w CROSS JOIN LATERAL (
                   SELECT c.attempt_id, c.ordinal FROM log_chunks c WHERE c.attempt_id > w.attempt_id ORDER BY c.attempt_id, c.ordinal LIMIT 1) AS n
               ), bite AS (SELECT attempt_id, ordinal FROM walk LIMIT $2)
               SELECT w.attempt_id AS "attempt_id!", w.ordinal AS "ordinal!", h.next_ordinal AS "next_ordinal?", h.next_offsets AS "next_offsets?",
                      r.stdout_end AS "stdout_end?", r.stderr_end AS "stderr_end?", r.build_end AS "build_end?", r.system_end AS "system_end?",
                      a.id IS NOT NULL AS "is_known!", extract(epoch FROM now() - a.ended_at)::float8 AS ended_s
               FROM bite w LEFT JOIN log_heads h ON h.attempt_id = w.attempt_id LEFT JOIN attempts a ON a.id = w.attempt_id
               LEFT JOIN LATERAL (SELECT * FROM log_archive r WHERE r.attempt_id = w.attempt_id ORDER BY r.next_ordinal DESC LIMIT 1) AS r ON true
               ORDER BY w.attempt_id"#,
            after.map_or(Uuid::nil(), AttemptId::as_uuid),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let next = if (rows.len() as i64) < limit { None } else { rows.last().map(|row| row.attempt_id) };
        let mut logs = Vec::with_capacity(rows.len());
        for row in rows {
            let ends =
                [row.stdout_end, row.stderr_end, row.build_end, row.system_end].map(|end| end.unwrap_or(0) as u64);
            // What stands alone is a finding of the audit's, and stays for it. Without an end it runs.
            let (Some(next_ordinal), Some(offsets), true) = (row.next_ordinal, row.next_offsets, row.is_known) else {
                continue;
            };
            let stored: u64 = offsets.iter().map(|offset| *offset as u64).sum();
            logs.push(WaitingLog {
                attempt: AttemptId::from_uuid(row.attempt_id),
                first_ordinal: row.ordinal as u64,
                next_ordinal: next_ordinal as u64,
                ends,
                bytes: stored.saturating_sub(ends.iter().sum()),
                ended: row.ended_s.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
            });
        }
        Ok(WaitingLogs { logs, next: next.map(AttemptId::from_uuid) })
    }

    /// Chunks of these stretches, in their order, up to about `max_bytes` (at least one), and whether that was all of them.
    pub async fn chunks_to_move(
        &self,
        stretches: &[LogStretch],
        max_bytes: usize,
    ) -> Result<(Vec<(AttemptId, LogChunk)>, bool), StoreError> {
        let rows = sqlx::query!(
            r#"SELECT attempt_id AS "attempt_id!", ordinal AS "ordinal!", stream AS "stream!", start AS "start!", gap, data AS "data!", is_cut AS "is_cut!" FROM (
                 SELECT *, sum(length(data)) OVER (ORDER BY place, ordinal) - length(data) AS bytes_before,
                        sum(length(data)) OVER () >= $4 OR count(*) OVER () >= $5 AS is_cut FROM (
                   SELECT s.place, c.* FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS s(attempt, first, next, place)
                   CROSS JOIN LATERAL (
                     SELECT attempt_id, ordinal, stream, start, gap, data FROM log_chunks
                     WHERE attempt_id = s.attempt AND ordinal >= s.first AND ordinal < s.next ORDER BY ordinal LIMIT $5) AS c
                   ORDER BY s.place, c.ordinal LIMIT $5) AS next
               ) AS counted WHERE bytes_before < $4 ORDER BY place, ordinal"#,
            &stretches.iter().map(|stretch| stretch.attempt.as_uuid()).collect::<Vec<_>>(),
            &stretches.iter().map(|stretch| stretch.first_ordinal as i64).collect::<Vec<_>>(),
            &stretches.iter().map(|stretch| stretch.next_ordinal as i64).collect::<Vec<_>>(),
            max_bytes as i64,
            CHUNKS_AT_ONCE
        )
        .fetch_all(&self.pool)
        .await?;
        let is_all = rows.last().is_none_or(|row| !row.is_cut);
        let chunks = rows.into_iter().map(|row| {
            let chunk = LogChunk {
                ordinal: row.ordinal as u64,
                stream: row.stream as u8,
                start: row.start as u64,
                data: row.data.into(),
                gap: row.gap.map(|gap| gap as u64),
            };
            (AttemptId::from_uuid(row.attempt_id), chunk)
        });
        Ok((chunks.collect(), is_all))
    }

    /// Says that an object of this key may come to be: unless logs are moved to it, it is deleted after `lapse`.
    pub async fn announce_pack(&self, key: &str, lapse: Duration) -> Result<(), StoreError> {
        crate::artifacts::garbage::add(&mut *self.pool_for(1).acquire().await?, key, None, None, lapse).await
    }

    /// Gives an announced pack up: what there is of it is deleted now.
    pub async fn abandon_pack(&self, key: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE artifact_garbage SET due_at = now() WHERE key = $1", key)
            .execute(self.pool_for(1))
            .await?;
        Ok(())
    }

    /// Makes an announced pack, which is in the object store now, the place of these pieces, and deletes exactly the chunks that they were
    /// made of: all of it or nothing. What was appended meanwhile stays where it is.
    pub async fn move_logs(&self, pack: &NewPack, pieces: &[PackedPiece]) -> Result<MovedLogs, StoreError> {
        let mut transaction = self.begin_for(pieces.len()).await?;
        let announced = sqlx::query!(
            "DELETE FROM artifact_garbage WHERE key = $1 AND due_at > now() + make_interval(secs => $2)",
            pack.key,
            NEARLY_DUE_S
        );
        if announced.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(MovedLogs::Stale);
        }
        let attempts: Vec<Uuid> = pieces.iter().map(|piece| piece.attempt.as_uuid()).collect();
        let first: Vec<i64> = pieces.iter().map(|piece| piece.first_ordinal as i64).collect();
        let next: Vec<i64> = pieces.iter().map(|piece| piece.next_ordinal as i64).collect();
        let deleted = sqlx::query!(
            "DELETE FROM log_chunks c USING UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) AS p(attempt, first, next)
             WHERE c.attempt_id = p.attempt AND c.ordinal >= p.first AND c.ordinal < p.next",
            &attempts,
            &first,
            &next
        );
        let chunks: u64 = pieces.iter().map(|piece| piece.next_ordinal - piece.first_ordinal).sum();
        if deleted.execute(&mut *transaction).await?.rows_affected() != chunks {
            // The locks of these rows are where movers, and those who delete tasks, meet: who came first has them.
            transaction.rollback().await?;
            return Ok(MovedLogs::Stale);
        }
        let ends = |n: usize| -> Vec<Option<i64>> {
            pieces.iter().map(|piece| (piece.ends[n] > 0).then_some(piece.ends[n] as i64)).collect()
        };
        let place =
            |of: fn(&FramePlace) -> u32| -> Vec<i32> { pieces.iter().map(|piece| of(&piece.place) as i32).collect() };
        sqlx::query!(
            "WITH pack AS (INSERT INTO log_packs (key, size, sha256, log_bytes, pieces) VALUES ($1, $2, $3, $4, $5) RETURNING id)
             INSERT INTO log_archive (attempt_id, first_ordinal, next_ordinal, stdout_end, stderr_end, build_end, system_end, pack_id,
               frame_at, frame_length, frame_size, piece_at, streams)
             SELECT p.attempt, p.first, p.next, p.e1, p.e2, p.e3, p.e4, pack.id, p.at, p.length, p.size, p.piece_at, p.streams
             FROM pack, UNNEST($6::uuid[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
               $13::integer[], $14::integer[], $15::integer[], $16::integer[], $17::smallint[])
               AS p(attempt, first, next, e1, e2, e3, e4, at, length, size, piece_at, streams)",
            pack.key,
            pack.size as i64,
            &pack.sha256.0[..],
            pack.log_bytes as i64,
            pieces.len() as i32,
            &attempts,
            &first,
            &next,
            &ends(0) as &[Option<i64>],
            &ends(1) as &[Option<i64>],
            &ends(2) as &[Option<i64>],
            &ends(3) as &[Option<i64>],
            &place(|place| place.at),
            &place(|place| place.length),
            &place(|place| place.size),
            &place(|place| place.piece_at),
            &pieces.iter().map(|piece| i16::from(piece.streams)).collect::<Vec<_>>(),
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(MovedLogs::Moved)
    }
}
