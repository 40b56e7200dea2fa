//! Keys that sign short-lived tokens, shared by all api-gateways through the database.

use crate::{Store, StoreError};

#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey {
    pub kid: String,
    pub secret: Vec<u8>,
}

impl Store {
    /// All keys that verify, the one that signs first. `candidate` becomes the first key of a new installation.
    pub async fn jwt_keys(&self, candidate: &JwtKey) -> Result<Vec<JwtKey>, StoreError> {
        let mut transaction = self.begin().await?;
        // Two gateways that start at once agree on one key.
        sqlx::query!("SELECT epoch FROM cluster FOR UPDATE").fetch_one(&mut *transaction).await?;
        sqlx::query!(
            "INSERT INTO jwt_keys (kid, secret) SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM jwt_keys WHERE retired_at IS NULL)",
            candidate.kid,
            candidate.secret
        )
        .execute(&mut *transaction)
        .await?;
        let keys = sqlx::query_as!(
            JwtKey,
            "SELECT kid, secret FROM jwt_keys WHERE retired_at IS NULL ORDER BY created_at DESC"
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(keys)
    }
}
