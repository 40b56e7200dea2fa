//! Whether a node gets new work: what people decide.

use crate::{Store, StoreError, Topic};
use domain::{ids::NodeId, node::Admission, principal::Origin};

impl Store {
    /// Drains (takes nothing new, finishes what runs) or opens a node. False: there is no such node, or it is revoked.
    pub async fn set_admission(
        &self,
        node: NodeId,
        admission: Admission,
        note: &str,
        origin: &Origin,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let note = if note.is_empty() {
            format!("by {}", origin.principal.name)
        } else {
            format!("by {} (\"{note}\")", origin.principal.name)
        };
        let note = if admission == Admission::Open { String::new() } else { note };
        let changed = sqlx::query!(
            "UPDATE nodes SET admission = $2, admission_note = $3 WHERE id = $1 AND admission <> 'revoked'",
            node.as_uuid(),
            admission.as_str(),
            note
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        let action = format!("node.{}", if admission == Admission::Open { "resume" } else { "drain" });
        self.write_audit(
            &mut transaction,
            None,
            origin,
            &action,
            &node.to_string(),
            &serde_json::json!({ "note": note }),
        )
        .await?;
        transaction.commit().await?;
        self.wakeups.publish([Topic::Node(node), Topic::Queue]);
        Ok(true)
    }

    /// A draining node that holds nothing any more is drained. Returns how many became so.
    pub async fn finish_drains(&self) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE nodes n SET admission = 'drained' WHERE admission = 'draining' AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.node_id = n.id AND a.reserved)"
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
