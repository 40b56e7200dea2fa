//! Stores log bytes exactly once: each stream grows only at its end, under the lock of the attempt's head.

use crate::{SessionKey, Store, StoreError, Topic};
use bytes::Bytes;
use domain::ids::{AttemptId, ClusterEpoch, Held};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A piece of one stream, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub held: Held,
    /// 1 stdout, 2 stderr, 3 build, 4 system.
    pub stream: u8,
    pub start: u64,
    pub data: Bytes,
    /// So many bytes are missing here for good; then `data` is empty.
    pub gap: Option<u64>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.gap.unwrap_or(self.data.len() as u64)
    }
}

/// Every byte of the stream before `next_offset` is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogAck {
    pub attempt: AttemptId,
    pub stream: u8,
    pub next_offset: u64,
}

/// What one session's node sent, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPieces {
    pub session: SessionKey,
    pub pieces: Vec<Piece>,
}

struct Chunk {
    attempt: Uuid,
    ordinal: i64,
    stream: i16,
    start: i64,
    gap: Option<i64>,
    data: Bytes,
}

struct Head {
    node: Uuid,
    next_offsets: Vec<i64>,
    next_ordinal: i64,
}

impl Store {
    /// [`Store::append_logs_of_many`] for one session.
    pub async fn append_logs(&self, session: SessionKey, pieces: &[Piece]) -> Result<Vec<LogAck>, StoreError> {
        let one = SessionPieces { session, pieces: pieces.to_vec() };
        Ok(self.append_logs_of_many(&[one]).await?.pop().unwrap_or_default())
    }

    /// Stores what several nodes sent in one transaction and tells each where the streams stand that it touched. Safe to repeat:
    /// bytes that are stored already are cut off, whichever way they were split before; a piece beyond the end is not stored, since
    /// bytes before it are missing. Pieces of attempts that are not the session's node's are skipped; those of attempts that a
    /// restore has forgotten are let go of. Logs of fenced attempts are kept: they change no state.
    pub async fn append_logs_of_many(&self, batch: &[SessionPieces]) -> Result<Vec<Vec<LogAck>>, StoreError> {
        let mut transaction = self.begin().await?;
        let pieces = || batch.iter().flat_map(|of| &of.pieces);
        let ids: BTreeSet<Uuid> = pieces().map(|piece| piece.held.attempt.as_uuid()).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let mut heads = lock_heads(&mut transaction, &ids).await?;
        let without: Vec<Uuid> = ids.iter().filter(|id| !heads.contains_key(id)).copied().collect();
        if !without.is_empty() {
            // The first piece of an attempt makes its head: many tasks write nothing.
            sqlx::query!(
                "INSERT INTO log_heads (attempt_id) SELECT id FROM attempts WHERE id = ANY($1) ORDER BY id ON CONFLICT DO NOTHING",
                &without
            )
            .execute(&mut *transaction)
            .await?;
            heads.extend(lock_heads(&mut transaction, &without).await?);
        }
        let strangers = pieces().map(|piece| piece.held).filter(|held| !heads.contains_key(&held.attempt.as_uuid()));
        let orphans = orphans(&mut transaction, strangers.collect()).await?;
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut acks = Vec::with_capacity(batch.len());
        for SessionPieces { session, pieces } in batch {
            let mut touched: BTreeMap<(AttemptId, u8), u64> = BTreeMap::new();
            for piece in pieces {
                let Some(head) = heads.get_mut(&piece.held.attempt.as_uuid()) else {
                    // Nobody will read it, and the node may let go of it.
                    if orphans.contains(&piece.held) {
                        let stored = touched.entry((piece.held.attempt, piece.stream)).or_default();
                        *stored = (*stored).max(piece.end());
                    }
                    continue;
                };
                if head.node == session.node.as_uuid() {
                    chunks.extend(append(head, piece));
                    let stored = head.next_offsets[usize::from(piece.stream - 1)];
                    touched.insert((piece.held.attempt, piece.stream), stored as u64);
                }
            }
            let ack = |((attempt, stream), next_offset)| LogAck { attempt, stream, next_offset };
            acks.push(touched.into_iter().map(ack).collect());
        }
        if !chunks.is_empty() {
            heads.retain(|attempt, _| chunks.iter().any(|chunk| chunk.attempt == *attempt));
            write(&mut transaction, &chunks, &heads).await?;
        }
        transaction.commit().await?;
        self.wakeups.publish(ids.into_iter().map(|id| Topic::Log(AttemptId::from_uuid(id))));
        Ok(acks)
    }
}

/// Where attempts stand, in the order of their ids, so that two batches never wait for each other in a circle.
async fn lock_heads(
    connection: &mut sqlx::PgConnection,
    attempts: &[Uuid],
) -> Result<BTreeMap<Uuid, Head>, StoreError> {
    let rows = sqlx::query!(
        "SELECT h.attempt_id, a.node_id, h.next_offsets, h.next_ordinal FROM log_heads h JOIN attempts a ON a.id = h.attempt_id
         WHERE h.attempt_id = ANY($1) ORDER BY h.attempt_id FOR UPDATE OF h",
        attempts
    )
    .fetch_all(connection)
    .await?;
    let head = |node, next_offsets, next_ordinal| Head { node, next_offsets, next_ordinal };
    Ok(rows.into_iter().map(|row| (row.attempt_id, head(row.node_id, row.next_offsets, row.next_ordinal))).collect())
}

/// What of the piece is new and has its place at the stream's end.
fn append(head: &mut Head, piece: &Piece) -> Option<Chunk> {
    let next = &mut head.next_offsets[usize::from(piece.stream - 1)];
    let stored = *next as u64;
    if piece.start > stored || stored >= piece.end() {
        return None;
    }
    let skip = stored - piece.start;
    let chunk = Chunk {
        attempt: piece.held.attempt.as_uuid(),
        ordinal: head.next_ordinal,
        stream: i16::from(piece.stream),
        start: *next,
        gap: piece.gap.map(|gap| (gap - skip) as i64),
        data: if piece.gap.is_some() { Bytes::new() } else { piece.data.slice(skip as usize..) },
    };
    *next = piece.end() as i64;
    head.next_ordinal += 1;
    Some(chunk)
}

/// Those of these that the database has forgotten since a restore.
async fn orphans(connection: &mut sqlx::PgConnection, strangers: BTreeSet<Held>) -> Result<BTreeSet<Held>, StoreError> {
    if strangers.is_empty() {
        return Ok(strangers);
    }
    let ids: Vec<Uuid> = strangers.iter().map(|held| held.attempt.as_uuid()).collect();
    let known = sqlx::query!(
        r#"SELECT epoch, ARRAY(SELECT id FROM attempts WHERE id = ANY($1)) AS "attempts!" FROM cluster"#,
        &ids
    )
    .fetch_one(connection)
    .await?;
    let is_orphan = |held: &Held| {
        held.fence.epoch() != ClusterEpoch(known.epoch) && !known.attempts.contains(&held.attempt.as_uuid())
    };
    Ok(strangers.into_iter().filter(is_orphan).collect())
}

async fn write(
    connection: &mut sqlx::PgConnection,
    chunks: &[Chunk],
    heads: &BTreeMap<Uuid, Head>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO log_chunks (attempt_id, ordinal, stream, start, gap, data)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bytea[])",
        &chunks.iter().map(|chunk| chunk.attempt).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.ordinal).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.stream).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.start).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.gap).collect::<Vec<_>>() as &[Option<i64>],
        &chunks.iter().map(|chunk| chunk.data.as_ref()).collect::<Vec<&[u8]>>() as &[&[u8]],
    )
    .execute(&mut *connection)
    .await?;
    let nth = |n: usize| heads.values().map(|head| head.next_offsets[n]).collect::<Vec<i64>>();
    sqlx::query!(
        "UPDATE log_heads h SET next_offsets = ARRAY[c.o1, c.o2, c.o3, c.o4], next_ordinal = c.ordinal
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS c(id, o1, o2, o3, o4, ordinal) WHERE h.attempt_id = c.id",
        &heads.keys().copied().collect::<Vec<_>>(),
        &nth(0),
        &nth(1),
        &nth(2),
        &nth(3),
        &heads.values().map(|head| head.next_ordinal).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}
