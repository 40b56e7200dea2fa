//! What an upload has in common with the version before: an object remembers its parts, and the next upload of its name asks for them.

use super::parts::Part;
use crate::{Store, StoreError};
use domain::{artifact::Sha256Digest, ids::ProjectId};

/// Where a part begins, its size, its SHA-256.
const RECORD: usize = 8 + 8 + 32;

/// Bytes of an object that are those of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonPart {
    /// Of the object.
    pub key: String,
    pub offset: u64,
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// As the database has the parts of an object. None: it is one part, which nothing is copied of.
pub(super) fn recorded(parts: &[Part]) -> Option<Vec<u8>> {
    let mut offset = 0;
    let mut record = Vec::with_capacity(parts.len() * RECORD);
    for part in parts {
        record.extend_from_slice(&u64::to_be_bytes(offset));
        record.extend_from_slice(&needle(part.size, &part.sha256));
        offset += part.size;
    }
    (parts.len() > 1).then_some(record)
}

/// A record without its first field, which is where it stands.
fn needle(size: u64, sha256: &Sha256Digest) -> Vec<u8> {
    [&size.to_be_bytes()[..], &sha256.0].concat()
}

impl Store {
    /// Where these parts, by size and checksum, are in the newest version of a name: one answer each. Only what is ready and not known to be damaged, and
    /// never of another project: there a checksum alone must not get anybody the bytes.
    pub async fn common_parts(
        &self,
        project: ProjectId,
        name: &str,
        wanted: &[(u64, Sha256Digest)],
    ) -> Result<Vec<Option<CommonPart>>, StoreError> {
        let needles: Vec<Vec<u8>> = wanted.iter().map(|(size, sha256)| needle(*size, sha256)).collect();
        let rows = sqlx::query!(
            r#"SELECT w.place AS "place!", f.key AS "key!", substring(f.parts FROM w.found - $4::int FOR 8) AS "offset!"
               FROM (SELECT o.key, o.parts
                     FROM (SELECT object_id FROM artifacts WHERE project_id = $1 AND name = $2 AND state = 'ready' ORDER BY version DESC LIMIT 1) a
                     JOIN artifact_objects o ON o.id = a.object_id AND o.corrupt_at IS NULL OFFSET 0) f
               CROSS JOIN LATERAL (SELECT n.place, position(n.needle IN f.parts) AS found
                                   FROM unnest($3::bytea[]) WITH ORDINALITY AS n(needle, place) OFFSET 0) w
               WHERE (w.found - 1) % $5 = $4"#,
            project.as_uuid(),
            name,
            &needles,
            8,
            RECORD as i32
        )
        .fetch_all(self.pool_for(1))
        .await?;
        let mut found = vec![None; wanted.len()];
        for row in rows {
            let at = usize::try_from(row.place - 1).unwrap_or(usize::MAX);
            let offset = row.offset.try_into().map(u64::from_be_bytes);
            if let (Some(slot), Some((size, sha256)), Ok(offset)) = (found.get_mut(at), wanted.get(at), offset) {
                *slot = Some(CommonPart { key: row.key, offset, size: *size, sha256: *sha256 });
            }
        }
        Ok(found)
    }
}
