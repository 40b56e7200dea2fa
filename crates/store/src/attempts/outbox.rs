//! What a node must be told. It is read from the state itself, so nothing can be sent that is not committed, and nothing that is
//! committed can be forgotten: whatever is still true is sent again after a reconnect.

use crate::{Store, StoreError, rows::read_json};
use domain::{
    ids::{AttemptId, Fence, Held, NodeId, ProjectId, TaskId},
    lease::Lease,
    resources::Reservation,
    spec::TaskSpec,
};

#[derive(Clone, Debug, PartialEq)]
pub enum OutboxItem {
    Assign {
        held: Held,
        task: TaskId,
        project: ProjectId,
        number: u32,
        gpu_ids: Vec<String>,
        /// Of exclusive work, made from what counted when it was placed.
        lease: Option<Lease>,
        spec: Box<TaskSpec>,
    },
    Cancel {
        held: Held,
    },
    Stop {
        held: Held,
    },
    /// The deadline of its node's drain has passed: it is stopped there and runs again elsewhere.
    Evict {
        held: Held,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outbox {
    pub items: Vec<OutboxItem>,
    pub draining: bool,
    /// The node's tokens are revoked: stop what `items` names, then close the session.
    pub revoked: bool,
    /// Another session of the node is newer: close this one.
    pub session_epoch: i64,
}

impl Store {
    /// Everything that the node should know now. `sent`: attempts whose assignment went out in this session, so that their specs
    /// need not be read again.
    pub async fn outbox(&self, node: NodeId, sent: &[AttemptId]) -> Result<Outbox, StoreError> {
        let Some(head) = sqlx::query!(
            r#"SELECT n.admission, l.session_epoch, (n.admission = 'draining' AND n.drain_deadline <= now()) IS TRUE AS "overdue!" FROM nodes n JOIN node_live l ON l.node_id = n.id WHERE n.id = $1"#,
            node.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        else {
            return Ok(Outbox { revoked: true, ..Outbox::default() });
        };
        let sent: Vec<_> = sent.iter().map(|attempt| attempt.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT a.id, a.task_id, t.project_id, a.number, a.fence, a.reservation,
                      (a.accepted_at IS NULL) AS "unaccepted!", (s.live_attempt_id IS NOT DISTINCT FROM a.id) AS "live!", s.cancel_requested,
                      CASE WHEN a.accepted_at IS NULL AND s.live_attempt_id = a.id AND NOT s.cancel_requested AND a.id <> ALL($2) THEN t.spec END AS spec,
                      (a.ended_at IS NOT NULL) AS "ended!", a.state, COALESCE(a.offline_after_ms, c.offline_after_ms) AS "offline_after_ms!"
               FROM attempts a JOIN task_state s ON s.task_id = a.task_id JOIN tasks t ON t.id = a.task_id CROSS JOIN cluster c
               WHERE a.node_id = $1 AND a.reserved ORDER BY a.id"#,
            node.as_uuid(),
            &sent
        )
        .fetch_all(&self.pool)
        .await?;
        let revoked = head.admission == "revoked";
        let mut items = Vec::new();
        for row in rows {
            let held = Held { attempt: AttemptId::from_uuid(row.id), fence: Fence::from_i64(row.fence) };
            let may_run = matches!(row.state.as_str(), "assigned" | "preparing" | "running");
            if revoked {
                if !row.ended || row.state == "lost" {
                    items.push(OutboxItem::Stop { held });
                }
            } else if head.overdue && row.live && may_run && !row.cancel_requested {
                items.push(OutboxItem::Evict { held });
            } else if let Some(spec) = row.spec {
                let reservation: Reservation = read_json(row.reservation)?;
                let spec: TaskSpec = read_json(spec)?;
                items.push(OutboxItem::Assign {
                    held,
                    task: TaskId::from_uuid(row.task_id),
                    project: ProjectId::from_uuid(row.project_id),
                    number: row.number as u32,
                    gpu_ids: reservation.gpu_ids,
                    lease: Lease::of(&spec, row.offline_after_ms as u64),
                    spec: Box::new(spec),
                });
            } else if row.live && row.cancel_requested {
                items.push(OutboxItem::Cancel { held });
            } else if !row.live && (!row.ended || row.state == "lost") {
                items.push(OutboxItem::Stop { held });
            }
        }
        Ok(Outbox {
            items,
            draining: matches!(head.admission.as_str(), "draining" | "drained"),
            revoked,
            session_epoch: head.session_epoch,
        })
    }
}
