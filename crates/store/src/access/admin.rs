//! Whether somebody can get in at all.

use crate::{Store, StoreError};

impl Store {
    /// Whether an admin's key is valid now. A new installation has none.
    pub async fn has_admin_key(&self) -> Result<bool, StoreError> {
        let is_there = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM api_keys WHERE role = 'admin' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())) AS "is_there!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(is_there)
    }
}
