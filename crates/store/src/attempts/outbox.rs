//! What a node must be told. It is read from the state itself, so nothing can be sent that is not committed, and nothing that is
//! committed can be forgotten: whatever is still true is sent again after a reconnect.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
};
use domain::{
    ids::{AttemptId, Fence, Held, NodeId, ProjectId, TaskId},
    lease::Lease,
    resources::Reservation,
    spec::TaskSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub enum OutboxItem {
    Assign {
        held: Held,
        task: TaskId,
        project: ProjectId,
        number: u32,
        gpu_ids: Vec<String>,
        /// There may be no room for it yet.
        ahead: bool,
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
    /// The attempts that were looked at. After [`Look::All`] what is not among them need not be remembered as sent.
    pub open: BTreeSet<AttemptId>,
}

/// How much of an outbox is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Assignments that are newer than any that was sent: what a hint of a lease is about, and all that most nodes ever need. Costs
    /// what is new. What another leader leased, whose clock is behind, may be found by the next look at all only.
    New,
    /// Also what must be cancelled, stopped or moved there. Costs what runs there.
    All,
}

/// One node, and with it one attempt of which it must be told something, if there is one.
struct Row {
    node: Uuid,
    admission: String,
    overdue: bool,
    session_epoch: i64,
    attempt: Option<Uuid>,
    task: Option<Uuid>,
    project: Option<Uuid>,
    number: Option<i32>,
    fence: Option<i64>,
    reservation: Option<JsonText>,
    live: Option<bool>,
    ended: Option<bool>,
    cancel_requested: Option<bool>,
    state: Option<String>,
    offline_after_ms: Option<i64>,
    spec: Option<JsonText>,
}

impl Store {
    /// [`Store::outboxes`] of one node.
    pub async fn outbox(&self, node: NodeId, sent: &[AttemptId]) -> Result<Outbox, StoreError> {
        Ok(self
            .outboxes(&[(node, None)].into(), sent, Look::All)
            .await?
            .remove(&node)
            .unwrap_or_else(Outbox::of_nobody))
    }

    /// What these nodes should know now, each with the newest assignment that went out to it in its session of now; none for a node
    /// that is not there. `sent`: attempts whose assignment went out, so that a look at all need not read their specs again.
    pub async fn outboxes(
        &self,
        nodes: &BTreeMap<NodeId, Option<AttemptId>>,
        sent: &[AttemptId],
        look: Look,
    ) -> Result<BTreeMap<NodeId, Outbox>, StoreError> {
        let (nodes, newest): (Vec<Uuid>, Vec<Uuid>) =
            nodes.iter().map(|(node, newest)| (node.as_uuid(), newest.map_or(Uuid::nil(), AttemptId::as_uuid))).unzip();
        let sent: Vec<Uuid> = sent.iter().map(|attempt| attempt.as_uuid()).collect();
        let pool = self.pool_for(nodes.len().max(sent.len()));
        macro_rules! of_which {
            ($condition:literal) => {
                sqlx::query_as!(
                    Row,
                    r#"SELECT n.id AS "node!", n.admission AS "admission!", n.overdue AS "overdue!", l.session_epoch AS "session_epoch!",
                              a.id AS "attempt?", a.task_id AS "task?", a.project_id AS "project?", a.number AS "number?", a.fence AS "fence?",
                              a.reservation AS "reservation?: JsonText", (a.live_attempt_id IS NOT DISTINCT FROM a.id) AS "live?",
                              (a.ended_at IS NOT NULL) AS "ended?", a.cancel_requested AS "cancel_requested?", a.state AS "state?",
                              COALESCE(a.offline_after_ms, (SELECT offline_after_ms FROM cluster)) AS "offline_after_ms?",
                              CASE WHEN a.accepted_at IS NULL AND a.live_attempt_id = a.id AND NOT a.cancel_requested AND a.id <> ALL($2)
                                THEN (SELECT spec FROM tasks t WHERE t.id = a.task_id) END AS "spec?: JsonText"
                       FROM (SELECT id, admission, (admission = 'draining' AND drain_deadline <= now()) IS TRUE AS overdue, newest
                             FROM nodes JOIN UNNEST($1::uuid[], $3::uuid[]) AS asked(node, newest) ON id = asked.node) n
                       JOIN node_live l ON l.node_id = n.id
                       -- Node by node, in the order of the index: what is older than the newest is not even passed over.
                       LEFT JOIN LATERAL (
                         SELECT a.id, a.task_id, a.number, a.fence, a.reservation, a.ended_at, a.state, a.offline_after_ms, a.accepted_at, s.project_id,
                                s.live_attempt_id, s.cancel_requested
                         FROM attempts a JOIN task_state s ON s.task_id = a.task_id
                         WHERE a.node_id = n.id AND a.reserved AND "# + $condition +
                    " ORDER BY a.id OFFSET 0) a ON true ORDER BY n.id, a.id",
                    &nodes,
                    &sent,
                    &newest
                )
                .fetch_all(pool)
                .await?
            };
        }
        let rows = match look {
            Look::New => of_which!("a.accepted_at IS NULL AND a.id > n.newest"),
            Look::All => of_which!(
                "(a.accepted_at IS NULL OR s.cancel_requested OR s.live_attempt_id IS DISTINCT FROM a.id OR n.admission = 'revoked' OR n.overdue)"
            ),
        };
        let mut outboxes: BTreeMap<NodeId, Outbox> = BTreeMap::new();
        for row in rows {
            let outbox = outboxes.entry(NodeId::from_uuid(row.node)).or_insert_with(|| Outbox {
                draining: matches!(row.admission.as_str(), "draining" | "drained"),
                revoked: row.admission == "revoked",
                session_epoch: row.session_epoch,
                ..Outbox::default()
            });
            outbox.open.extend(row.attempt.map(AttemptId::from_uuid));
            let (node, attempt) = (row.node, row.attempt);
            match row.into_item() {
                Ok(item) => outbox.items.extend(item),
                // Written by a newer version, or by hand: it keeps nothing else from these nodes.
                Err(error) => {
                    tracing::error!(node.id = %node, attempt.id = ?attempt, error = error.chain(), "an assignment can't be read");
                }
            }
        }
        Ok(outboxes)
    }
}

impl Outbox {
    /// Of a node that is not there: whoever says to be it has nothing to say here.
    pub fn of_nobody() -> Self {
        Self { revoked: true, ..Self::default() }
    }
}

impl Row {
    fn into_item(self) -> Result<Option<OutboxItem>, StoreError> {
        let (Some(attempt), Some(task), Some(project), Some(number), Some(fence)) =
            (self.attempt, self.task, self.project, self.number, self.fence)
        else {
            return Ok(None);
        };
        let held = Held { attempt: AttemptId::from_uuid(attempt), fence: Fence::from_i64(fence) };
        let is = |it: Option<bool>| it.unwrap_or(false);
        let (live, ended, cancel_requested) = (is(self.live), is(self.ended), is(self.cancel_requested));
        let state = self.state.unwrap_or_default();
        let may_run = matches!(state.as_str(), "assigned" | "preparing" | "running");
        let must_stop = !ended || state == "lost";
        if self.admission == "revoked" {
            return Ok(must_stop.then_some(OutboxItem::Stop { held }));
        }
        if self.overdue && live && may_run && !cancel_requested {
            return Ok(Some(OutboxItem::Evict { held }));
        }
        if let Some(spec) = self.spec {
            let reservation: Reservation = self.reservation.map(read_json).transpose()?.unwrap_or_default();
            let spec: TaskSpec = read_json(spec)?;
            return Ok(Some(OutboxItem::Assign {
                held,
                task: TaskId::from_uuid(task),
                project: ProjectId::from_uuid(project),
                number: number as u32,
                gpu_ids: reservation.gpu_ids,
                ahead: reservation.ahead,
                lease: Lease::of(&spec, self.offline_after_ms.unwrap_or_default() as u64),
                spec: Box::new(spec),
            }));
        }
        Ok(match live {
            true => cancel_requested.then_some(OutboxItem::Cancel { held }),
            false => must_stop.then_some(OutboxItem::Stop { held }),
        })
    }
}
