//! Marks silent nodes offline, by the database's clock.

use crate::{Leadership, Store, StoreError, leader};
use domain::ids::NodeId;

impl Store {
    /// Nodes that were silent for 90 s become offline. Time during which the platform itself was away does not count: the 90 s
    /// begin at the earliest when this sweeper took over. Returns who became offline.
    pub async fn mark_offline(
        &self,
        leadership: &Leadership,
        silence_s: i32,
    ) -> Result<Vec<(NodeId, String)>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        leader::require(&mut transaction, leadership).await?;
        let rows = sqlx::query!(
            r#"UPDATE node_live l SET offline_since = now(), connected = false FROM nodes n
               WHERE n.id = l.node_id AND l.offline_since IS NULL AND l.beat_at IS NOT NULL
                 AND GREATEST(LEAST(l.beat_at, now()), $1) <= now() - make_interval(secs => $2)
               RETURNING l.node_id, n.name"#,
            leadership.since,
            f64::from(silence_s)
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(|row| (NodeId::from_uuid(row.node_id), row.name)).collect())
    }
}
