//! What is to be deleted from the object store: put on a list in the transaction that makes it superfluous, and deleted when the list says so.

use super::read::state;
use crate::{Store, StoreError};
use domain::artifact::ArtifactEvent;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    pub key: String,
    /// A multipart upload that is to be given up.
    pub upload_id: Option<String>,
}

impl Store {
    /// Takes the objects of expired artifacts out of use that no other artifact has; what is left of them is deleted after `grace`. Of artifacts
    /// whose bytes others share nothing is left at once. How many artifacts were looked at: at most `limit`.
    pub async fn drop_unused_objects(&self, grace: Duration, limit: i64) -> Result<u64, StoreError> {
        let candidates = sqlx::query!(
            "SELECT id, object_id FROM artifacts WHERE state = 'expired' AND NOT is_dropped ORDER BY expired_at LIMIT $1",
            limit
        )
        .fetch_all(self.pool_for(1))
        .await?;
        let looked_at = candidates.len() as u64;
        for candidate in candidates {
            let mut transaction = self.begin_for(1).await?;
            drop_object(&mut transaction, candidate.id, candidate.object_id, grace).await?;
            transaction.commit().await?;
        }
        Ok(looked_at)
    }

    /// What is or will be at this key belongs to nothing, and is deleted after `grace`.
    pub async fn delete_later(&self, key: &str, grace: Duration) -> Result<(), StoreError> {
        let mut transaction = self.begin_for(1).await?;
        add(&mut transaction, key, None, None, grace).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What may be deleted now.
    pub async fn due_garbage(&self, limit: i64) -> Result<Vec<Garbage>, StoreError> {
        let due = sqlx::query_as!(
            Garbage,
            "SELECT key, upload_id FROM artifact_garbage WHERE due_at <= now() ORDER BY due_at LIMIT $1",
            limit
        );
        Ok(due.fetch_all(self.pool_for(1)).await?)
    }

    /// The object store has nothing at this key any more: nor is there anything of the artifacts whose it was. Safe to repeat.
    pub async fn garbage_gone(&self, key: &str) -> Result<(), StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let owner = sqlx::query_scalar!("DELETE FROM artifact_garbage WHERE key = $1 RETURNING owner", key);
        if let Some(Some(owner)) = owner.fetch_optional(&mut *transaction).await? {
            let mut gone = sqlx::query_scalar!("SELECT id FROM artifacts WHERE object_id = $1 ORDER BY id", owner)
                .fetch_all(&mut *transaction)
                .await?;
            gone.push(owner);
            for id in gone {
                bytes_gone(&mut transaction, id).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// Puts a key on the list. Once is enough.
pub(crate) async fn add(
    connection: &mut PgConnection,
    key: &str,
    upload_id: Option<&str>,
    owner: Option<Uuid>,
    grace: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO artifact_garbage (key, upload_id, owner, due_at) VALUES ($1, $2, $3, now() + make_interval(secs => $4)) ON CONFLICT DO NOTHING",
        key,
        upload_id,
        owner,
        grace.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn drop_object(
    connection: &mut PgConnection,
    artifact: Uuid,
    object: Option<Uuid>,
    grace: Duration,
) -> Result<(), StoreError> {
    // Whoever is about to share the object holds its lock, and has shared it when this has it.
    let key = sqlx::query_scalar!("SELECT key FROM artifact_objects WHERE id = $1 FOR UPDATE", object as _);
    let key = key.fetch_optional(&mut *connection).await?;
    if let Some(key) = key {
        let is_shared = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM artifacts WHERE object_id = $1 AND state IN ('ready', 'corrupt')) AS "is_shared!""#,
            object as _
        );
        if is_shared.fetch_one(&mut *connection).await? {
            return bytes_gone(connection, artifact).await;
        }
        sqlx::query!("DELETE FROM artifact_objects WHERE id = $1", object as _).execute(&mut *connection).await?;
        add(connection, &key, None, object, grace).await?;
    } else if !is_owner_of_garbage(connection, object).await? {
        return bytes_gone(connection, artifact).await;
    }
    sqlx::query!("UPDATE artifacts SET is_dropped = true WHERE id = $1 AND state = 'expired'", artifact)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether the object was dropped and its bytes wait for their deletion.
async fn is_owner_of_garbage(connection: &mut PgConnection, object: Option<Uuid>) -> Result<bool, StoreError> {
    let waits = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM artifact_garbage WHERE owner = $1) AS "waits!""#,
        object as _
    );
    Ok(waits.fetch_one(connection).await?)
}

async fn bytes_gone(connection: &mut PgConnection, artifact: Uuid) -> Result<(), StoreError> {
    let row = sqlx::query_scalar!("SELECT state FROM artifacts WHERE id = $1 FOR NO KEY UPDATE", artifact);
    let Some(row) = row.fetch_optional(&mut *connection).await? else { return Ok(()) };
    if let Some(next) = state(&row)?.next(ArtifactEvent::BytesGone) {
        sqlx::query!("UPDATE artifacts SET state = $2, is_dropped = true WHERE id = $1", artifact, next.as_str())
            .execute(connection)
            .await?;
    }
    Ok(())
}
