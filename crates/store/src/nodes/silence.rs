//! The silence after which a node is offline: one value for the whole platform, which stands in its database.

use crate::{Store, StoreError};
use std::time::Duration;

impl Store {
    /// What counts at present. Nodes with exclusive work are given at least what its lease was made from, see
    /// [`crate::Liveness::longer`].
    pub async fn offline_after(&self) -> Result<Duration, StoreError> {
        let ms = sqlx::query_scalar!("SELECT offline_after_ms FROM cluster").fetch_one(&self.pool).await?;
        Ok(Duration::from_millis(ms as u64))
    }

    /// Sets it for every service, from the next sweep and the next lease on. Returns what counted until now. Safe to repeat.
    pub async fn set_offline_after(&self, after: Duration) -> Result<Duration, StoreError> {
        let mut transaction = self.begin().await?;
        // Waits for leases that are being given by the old value, so that every sweep by the new one sees them.
        let was =
            sqlx::query_scalar!("SELECT offline_after_ms FROM cluster FOR UPDATE").fetch_one(&mut *transaction).await?;
        let ms = after.as_millis() as i64;
        if was != ms {
            sqlx::query!("UPDATE cluster SET offline_after_ms = $1", ms).execute(&mut *transaction).await?;
            // What a sweep has decided by the old value and not written yet does not count. Its sweeper goes on from there.
            sqlx::query!("UPDATE leader SET epoch = epoch + 1 WHERE role = 'sweeper'")
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Duration::from_millis(was as u64))
    }
}
