//! API keys of people and programs: stored as a hash, revocable at once.

use crate::{Store, StoreError, Topic};
use domain::{
    Timestamp,
    ids::{ApiKeyId, PrincipalId, ProjectId},
    principal::{Origin, Role},
};
use uuid::Uuid;

/// Keys that one statement reads, with the names of their projects and makers: each costs up to three paths through an index.
const KEYS_AT_ONCE: usize = 50;

#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub id: ApiKeyId,
    pub project: ProjectId,
    pub created_by: PrincipalId,
    pub name: String,
    pub role: Role,
    /// SHA-256 of the secret.
    pub secret_hash: Vec<u8>,
    pub expires_in_days: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyRecord {
    pub id: ApiKeyId,
    pub project: ProjectId,
    pub project_slug: String,
    pub created_by: String,
    pub name: String,
    pub role: Role,
    pub secret_hash: Vec<u8>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// By the database's clock, at the time of reading.
    pub is_valid: bool,
}

impl Store {
    pub async fn create_api_key(&self, new: &NewApiKey, origin: &Origin) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query!(
            "INSERT INTO api_keys (id, project_id, created_by, name, role, secret_hash, expires_at) VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7))",
            new.id.as_uuid(),
            new.project.as_uuid(),
            new.created_by.as_uuid(),
            new.name,
            new.role.as_str(),
            new.secret_hash,
            new.expires_in_days.map(|days| days as i32),
        )
        .execute(&mut *transaction)
        .await?;
        let detail = serde_json::json!({ "name": new.name, "role": new.role });
        self.write_audit(&mut transaction, Some(new.project), origin, "api_key.create", &new.id.to_string(), &detail)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    pub async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        Ok(self.api_keys_between(id.as_uuid(), id.as_uuid(), 1).await?.pop())
    }

    /// The next keys before this one, the newest first: up to `limit`.
    pub async fn list_api_keys(&self, before: Option<ApiKeyId>, limit: usize) -> Result<Vec<ApiKeyRecord>, StoreError> {
        let mut keys: Vec<ApiKeyRecord> = Vec::new();
        loop {
            let before = keys.last().map(|key| key.id).or(before).map_or(Uuid::max(), ApiKeyId::as_uuid);
            let at_once = KEYS_AT_ONCE.min(limit - keys.len());
            let last = Uuid::from_u128(before.as_u128().saturating_sub(1));
            let found = self.api_keys_between(Uuid::nil(), last, at_once).await?;
            let is_end = found.len() < at_once;
            keys.extend(found);
            if is_end || keys.len() >= limit {
                return Ok(keys);
            }
        }
    }

    /// Of these ids, both included, the newest first.
    async fn api_keys_between(&self, first: Uuid, last: Uuid, limit: usize) -> Result<Vec<ApiKeyRecord>, StoreError> {
        sqlx::query!(
            r#"SELECT k.id, k.project_id, p.slug, k.name, k.role, k.secret_hash, k.created_at, k.expires_at, k.revoked_at,
                      COALESCE(m.name, 'platform') AS "created_by!",
                      (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) AS "is_valid!"
               FROM api_keys k JOIN projects p ON p.id = k.project_id LEFT JOIN api_keys m ON m.id = k.created_by AND m.id <> k.id
               WHERE k.id >= $1 AND k.id <= $2 ORDER BY k.id DESC LIMIT $3"#,
            first,
            last,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(ApiKeyRecord {
                id: ApiKeyId::from_uuid(row.id),
                project: ProjectId::from_uuid(row.project_id),
                project_slug: row.slug,
                created_by: row.created_by,
                name: row.name,
                role: Role::parse(&row.role).ok_or_else(|| StoreError::Corrupt(format!("{:?} is no role", row.role)))?,
                secret_hash: row.secret_hash,
                created_at: row.created_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
                is_valid: row.is_valid,
            })
        })
        .collect()
    }

    /// False: there is no such key. Safe to repeat.
    pub async fn revoke_api_key(&self, id: ApiKeyId, origin: &Origin) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let project = sqlx::query_scalar!(
            "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1 RETURNING project_id",
            id.as_uuid()
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(project) = project else { return Ok(false) };
        self.write_audit(
            &mut transaction,
            Some(ProjectId::from_uuid(project)),
            origin,
            "api_key.revoke",
            &id.to_string(),
            &serde_json::json!({}),
        )
        .await?;
        transaction.commit().await?;
        self.wakeups.publish([Topic::Access]);
        Ok(true)
    }
}
