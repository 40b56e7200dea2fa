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

/// Attempt, ordinal, stream, start, gap, data.
type ChunkRow = (Uuid, i64, i16, i64, Option<i64>, Vec<u8>);

struct Head {
    next_offsets: Vec<i64>,
    next_ordinal: i64,
}

impl Store {
    /// Stores a batch in one transaction and says where each touched stream stands. Safe to repeat: bytes that are stored already
    /// are cut off, whichever way they were split before; a piece beyond the end is not stored, since bytes before it are missing.
    /// Pieces of attempts that are not this node's are skipped; those of attempts that a restore has forgotten are let go of. Logs of fenced attempts are kept: they change no state.
    pub async fn append_logs(&self, session: SessionKey, pieces: &[Piece]) -> Result<Vec<LogAck>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mut ids: Vec<Uuid> = pieces.iter().map(|piece| piece.held.attempt.as_uuid()).collect();
        ids.sort();
        ids.dedup();
        let heads = sqlx::query!(
            "SELECT h.attempt_id, h.next_offsets, h.next_ordinal FROM log_heads h JOIN attempts a ON a.id = h.attempt_id
             WHERE h.attempt_id = ANY($1) AND a.node_id = $2 ORDER BY h.attempt_id FOR UPDATE OF h",
            &ids,
            session.node.as_uuid()
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut heads: BTreeMap<Uuid, Head> = heads
            .into_iter()
            .map(|row| (row.attempt_id, Head { next_offsets: row.next_offsets, next_ordinal: row.next_ordinal }))
            .collect();
        let strangers =
            pieces.iter().map(|piece| piece.held).filter(|held| !heads.contains_key(&held.attempt.as_uuid()));
        let orphans = orphans(&mut transaction, strangers.collect()).await?;
        let mut chunks: Vec<ChunkRow> = Vec::new();
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
            let next = &mut head.next_offsets[usize::from(piece.stream - 1)];
            let stored = *next as u64;
            if piece.start <= stored && stored < piece.end() {
                let skip = stored - piece.start;
                let data = if piece.gap.is_some() { Vec::new() } else { piece.data[skip as usize..].to_vec() };
                chunks.push((
                    piece.held.attempt.as_uuid(),
                    head.next_ordinal,
                    i16::from(piece.stream),
                    *next,
                    piece.gap.map(|gap| (gap - skip) as i64),
                    data,
                ));
                *next = piece.end() as i64;
                head.next_ordinal += 1;
            }
            touched.insert((piece.held.attempt, piece.stream), *next as u64);
        }
        if !chunks.is_empty() {
            write(&mut transaction, &chunks, &heads).await?;
        }
        transaction.commit().await?;
        self.wakeups.publish(ids.into_iter().map(|id| Topic::Log(AttemptId::from_uuid(id))));
        Ok(touched
            .into_iter()
            .map(|((attempt, stream), next_offset)| LogAck { attempt, stream, next_offset })
            .collect())
    }
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
    chunks: &[ChunkRow],
    heads: &BTreeMap<Uuid, Head>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO log_chunks (attempt_id, ordinal, stream, start, gap, data)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bytea[])",
        &chunks.iter().map(|chunk| chunk.0).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.1).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.2).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.3).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.4).collect::<Vec<_>>() as &[Option<i64>],
        &chunks.iter().map(|chunk| chunk.5.clone()).collect::<Vec<_>>(),
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
