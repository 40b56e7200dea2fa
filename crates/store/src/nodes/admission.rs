//! Whether a node gets new work: what people decide.

use crate::{Store, StoreError, Topic, leader, nodes::faults::save_faults};
use chrono::TimeDelta;
use domain::{ids::NodeId, node::Admission, principal::Origin};

impl Store {
    /// Nothing new from now on, and what runs is finished. What still runs after `deadline` is stopped there as its task says, and
    /// runs again elsewhere without touching a retry budget. Asked again, note and deadline are the newer ones.
    /// False: there is no such node, or it is revoked.
    pub async fn drain_node(
        &self,
        node: NodeId,
        note: &str,
        deadline: Option<TimeDelta>,
        origin: &Origin,
    ) -> Result<bool, StoreError> {
        let note = if note.is_empty() {
            format!("by {}", origin.principal.name)
        } else {
            format!("by {} (\"{note}\")", origin.principal.name)
        };
        self.set_admission(node, Admission::Draining, &note, deadline, origin).await
    }

    /// Takes work again, whoever kept it away: a person, or the rule about nodes that fail everything, which begins anew.
    /// False: there is no such node, or it is revoked.
    pub async fn resume_node(&self, node: NodeId, origin: &Origin) -> Result<bool, StoreError> {
        self.set_admission(node, Admission::Open, "", None, origin).await
    }

    async fn set_admission(
        &self,
        node: NodeId,
        admission: Admission,
        note: &str,
        deadline: Option<TimeDelta>,
        origin: &Origin,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        leader::hold_placements(&mut transaction).await?;
        if admission == Admission::Open {
            save_faults(&mut transaction, node, None).await?;
        }
        let deadline_s = deadline.map(|deadline| deadline.num_milliseconds() as f64 / 1_000.0);
        let changed = sqlx::query!(
            "UPDATE nodes SET admission = $2, admission_note = $3, drain_deadline = now() + make_interval(secs => $4)
             WHERE id = $1 AND admission <> 'revoked'",
            node.as_uuid(),
            admission.as_str(),
            note,
            deadline_s
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        let action = format!("node.{}", if admission == Admission::Open { "resume" } else { "drain" });
        let detail = serde_json::json!({ "note": note, "deadline_s": deadline_s });
        self.write_audit(&mut transaction, None, origin, &action, &node.to_string(), &detail).await?;
        transaction.commit().await?;
        self.wakeups.publish([Topic::Room(node), Topic::Node(node), Topic::Queue]);
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
