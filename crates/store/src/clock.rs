//! The database's clock, for those who show or compare times outside of an operation.

use crate::{Store, StoreError, rows};
use domain::Timestamp;

impl Store {
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        rows::now(&mut *self.pool.acquire().await?).await
    }
}
