//! The parts of an upload: which addresses were handed out, and what the object store has taken.

use super::read::digest;
use crate::{Store, StoreError};
use domain::{artifact::Sha256Digest, ids::ArtifactId};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Rows that one statement reads or writes: an upload has up to 10,000.
pub(super) const AT_ONCE: i64 = 200;
const DELETED_AT_ONCE: i32 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub size: u64,
    pub sha256: Sha256Digest,
    /// None: not known to be stored.
    pub etag: Option<String>,
}

/// Where the parts of an upload go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPlace {
    pub key: String,
    /// None: no multipart upload was begun.
    pub upload_id: Option<String>,
    pub part_size: u64,
    /// Parts but the last have from so many bytes to `part_size`. None: they have `part_size`.
    pub least_part: Option<u64>,
    /// Of the one part that is smaller than any other may be, if it was announced.
    pub last_part: Option<u32>,
    /// The highest number for which an address was handed out; 0: none was.
    pub newest_part: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotedParts {
    /// The wanted parts as they are known now, in their order.
    Noted { place: UploadPlace, parts: Vec<Part> },
    /// It is not uploaded any more, or never was.
    Ended,
    /// An address for this part was handed out before, and it was for other bytes: nothing was noted.
    Differs { announced: Part },
    /// A part that is smaller than the others is the last, and this one is not, or comes after it: nothing was noted.
    NotLast { number: u32 },
}

impl Store {
    /// Notes what is stored and what will be. Size and checksum of a part never change, so that no address of before can bring other bytes. Safe to
    /// repeat. At most some hundred of each.
    pub async fn note_parts(
        &self,
        artifact: ArtifactId,
        stored: &[(u32, String)],
        wanted: &[Part],
    ) -> Result<NotedParts, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let id = artifact.as_uuid();
        let Some((mut place, _)) = lock_upload(&mut transaction, id).await? else { return Ok(NotedParts::Ended) };
        note_stored(&mut transaction, id, stored).await?;
        for part in wanted {
            let is_small = part.size < place.least_part.unwrap_or(place.part_size);
            let is_after = place.last_part.is_some_and(|last| part.number > last);
            let may_be_last = place.last_part.map_or(place.newest_part <= part.number, |last| last == part.number);
            place.newest_part = place.newest_part.max(part.number);
            if is_after || is_small && !may_be_last {
                return Ok(NotedParts::NotLast { number: part.number });
            }
            if is_small {
                place.last_part = Some(part.number);
            }
            sqlx::query!(
                "INSERT INTO artifact_parts (artifact_id, number, size, sha256) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                id,
                part.number as i32,
                part.size as i64,
                &part.sha256.0[..]
            )
            .execute(&mut *transaction)
            .await?;
        }
        let numbers: Vec<i32> = wanted.iter().map(|part| part.number as i32).collect();
        let mut parts = Vec::new();
        let rows = sqlx::query!(
            r#"SELECT w.place AS "place!", p.number, p.size, p.sha256, p.etag
               FROM unnest($2::int[]) WITH ORDINALITY AS w(number, place) JOIN artifact_parts p ON p.artifact_id = $1 AND p.number = w.number
               ORDER BY w.place"#,
            id,
            &numbers
        )
        .fetch_all(&mut *transaction)
        .await?;
        for (row, part) in rows.into_iter().zip(wanted) {
            let known = Part {
                number: row.number.unsigned_abs(),
                size: row.size.unsigned_abs(),
                sha256: digest(&row.sha256)?,
                etag: row.etag,
            };
            if (known.size, known.sha256) != (part.size, part.sha256) {
                return Ok(NotedParts::Differs { announced: known });
            }
            parts.push(known);
        }
        sqlx::query!(
            "UPDATE artifact_uploads SET touched_at = now(), last_part = $2, newest_part = $3 WHERE artifact_id = $1",
            id,
            place.last_part.map(|last| last as i32),
            place.newest_part as i32
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(NotedParts::Noted { place, parts })
    }

    /// Remembers the multipart upload that was begun for an artifact. The answer is the one that counts: of two, the first. None: the upload has
    /// ended, and this one is to be given up.
    pub async fn upload_begun(
        &self,
        artifact: ArtifactId,
        key: &str,
        upload: &str,
    ) -> Result<Option<String>, StoreError> {
        let counts = sqlx::query_scalar!(
            r#"UPDATE artifact_uploads SET upload_id = COALESCE(upload_id, $3) WHERE artifact_id = $1 AND key = $2 RETURNING upload_id AS "upload_id!""#,
            artifact.as_uuid(),
            key,
            upload
        );
        Ok(counts.fetch_optional(self.pool_for(1)).await?)
    }

    /// Everything that is known of an upload, to complete it. None: it is not uploaded any more.
    pub async fn upload(&self, artifact: ArtifactId) -> Result<Option<(UploadPlace, Vec<Part>)>, StoreError> {
        let id = artifact.as_uuid();
        let place = sqlx::query!(
            "SELECT key, upload_id, part_size, least_part, last_part, newest_part FROM artifact_uploads WHERE artifact_id = $1",
            id
        );
        let Some(row) = place.fetch_optional(self.pool_for(1)).await? else { return Ok(None) };
        let place = UploadPlace {
            key: row.key,
            upload_id: row.upload_id,
            part_size: row.part_size.unsigned_abs(),
            least_part: row.least_part.map(i64::unsigned_abs),
            last_part: row.last_part.map(i32::unsigned_abs),
            newest_part: row.newest_part.unsigned_abs(),
        };
        let mut parts: Vec<Part> = Vec::new();
        // No further than there are any: behind them may be those of before it was begun anew, deleted one by one.
        while parts.last().map_or(0, |part| part.number) < place.newest_part {
            let after = parts.last().map_or(0, |part| part.number as i32);
            let rows = sqlx::query!(
                "SELECT number, size, sha256, etag FROM artifact_parts WHERE artifact_id = $1 AND number > $2 AND number <= $3 ORDER BY number LIMIT $4",
                id,
                after,
                place.newest_part as i32,
                AT_ONCE
            )
            .fetch_all(self.pool_for(1))
            .await?;
            let is_end = (rows.len() as i64) < AT_ONCE;
            for row in rows {
                parts.push(Part {
                    number: row.number.unsigned_abs(),
                    size: row.size.unsigned_abs(),
                    sha256: digest(&row.sha256)?,
                    etag: row.etag,
                });
            }
            if is_end {
                break;
            }
        }
        Ok(Some((place, parts)))
    }

    /// Begins an upload anew under another key: what was stored of it is not there, or not what it was said to be. False: it was not at this key any
    /// more. What is at the old key is deleted after `grace`.
    pub async fn restart_upload(
        &self,
        artifact: ArtifactId,
        from: &str,
        to: &str,
        grace: Duration,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let id = artifact.as_uuid();
        let Some((place, _)) = lock_upload(&mut transaction, id).await? else { return Ok(false) };
        if place.key != from {
            return Ok(false);
        }
        super::garbage::add(&mut transaction, from, place.upload_id.as_deref(), None, grace).await?;
        delete_parts(&mut transaction, id, place.newest_part).await?;
        sqlx::query!(
            "UPDATE artifact_uploads SET key = $2, upload_id = NULL, last_part = NULL, newest_part = 0, stored_bytes = 0, touched_at = now() WHERE artifact_id = $1",
            id,
            to
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

/// The upload, its row locked (after the artifact's, by whoever locks both: `FOR NO KEY UPDATE`, since what refers to it looks at it), and for how long nobody went on with it.
pub(super) async fn lock_upload(
    connection: &mut PgConnection,
    artifact: Uuid,
) -> Result<Option<(UploadPlace, Duration)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT key, upload_id, part_size, least_part, last_part, newest_part, GREATEST(0, extract(epoch FROM now() - touched_at))::float8 AS "untouched_s!"
           FROM artifact_uploads WHERE artifact_id = $1 FOR UPDATE"#,
        artifact
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let place = UploadPlace {
            key: row.key,
            upload_id: row.upload_id,
            part_size: row.part_size.unsigned_abs(),
            least_part: row.least_part.map(i64::unsigned_abs),
            last_part: row.last_part.map(i32::unsigned_abs),
            newest_part: row.newest_part.unsigned_abs(),
        };
        (place, Duration::from_secs_f64(row.untouched_s))
    }))
}

/// A part that was never announced has no row, and is not noted.
async fn note_stored(
    connection: &mut PgConnection,
    artifact: Uuid,
    stored: &[(u32, String)],
) -> Result<(), StoreError> {
    if stored.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = stored.iter().map(|(number, _)| *number as i32).collect();
    let etags: Vec<String> = stored.iter().map(|(_, etag)| etag.clone()).collect();
    let fresh = sqlx::query_scalar!(
        r#"WITH known AS (
             SELECT p.number, s.etag, p.size, p.etag IS NULL AS is_fresh FROM unnest($2::int[], $3::text[]) AS s(number, etag)
             JOIN artifact_parts p ON p.artifact_id = $1 AND p.number = s.number),
           noted AS (
             UPDATE artifact_parts p SET etag = k.etag FROM known k WHERE p.artifact_id = $1 AND p.number = k.number AND p.etag IS DISTINCT FROM k.etag)
           SELECT COALESCE(sum(size) FILTER (WHERE is_fresh), 0)::bigint AS "fresh!" FROM (SELECT DISTINCT number, size, is_fresh FROM known) AS k"#,
        artifact,
        &numbers,
        &etags
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE artifact_uploads SET stored_bytes = stored_bytes + $2 WHERE artifact_id = $1",
        artifact,
        fresh
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// In bites: an upload may have ten thousand. `newest`: the highest of their numbers, which to look for would be to walk over all that were
/// deleted before.
pub(super) async fn delete_parts(connection: &mut PgConnection, artifact: Uuid, newest: u32) -> Result<(), StoreError> {
    let mut number = 0;
    while number < newest as i32 {
        let to = number + DELETED_AT_ONCE;
        sqlx::query!(
            "DELETE FROM artifact_parts WHERE artifact_id = $1 AND number > $2 AND number <= $3",
            artifact,
            number,
            to
        )
        .execute(&mut *connection)
        .await?;
        number = to;
    }
    Ok(())
}
