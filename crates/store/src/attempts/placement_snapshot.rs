//! What the leader looks at: the head of every class of the queue, and the nodes with what is held on them.

use crate::{Store, StoreError, attempts::exclusive, nodes::view::NodeRecord, rows::read_json};
use domain::{
    ids::{NodeId, TaskId},
    placement::{Candidate, Head, Snapshot},
    resources::{Ledger, Reservation},
    spec::Needs,
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// Waiting tasks of one class that one pass looks at.
pub const HEADS_PER_CLASS: i64 = 64;
/// Classes that one pass looks at, the most urgent heads first.
const CLASSES: i64 = 2_000;

/// A reservation that its node has not released yet.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveReservation {
    pub node: NodeId,
    pub reservation: Reservation,
}

impl Store {
    /// Work here grows with the number of classes and nodes, not with the queue.
    pub async fn placement_snapshot(&self, heads_per_class: i64) -> Result<Snapshot, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let moment = sqlx::query!(
            r#"SELECT now() AS "now!", EXISTS (
                 SELECT 1 FROM cluster c, node_live l JOIN nodes n ON n.id = l.node_id
                 WHERE c.restored_at IS NOT NULL AND l.instance IS NOT NULL AND l.offline_since IS NULL AND n.admission <> 'revoked'
                   AND l.connected_since IS NULL) AS "awaits_nodes!""#
        )
        .fetch_one(&mut *connection)
        .await?;
        let now = moment.now;
        if moment.awaits_nodes {
            // What waits here may be running there.
            drop(connection);
            return Ok(Snapshot { now, heads: Vec::new(), nodes: self.candidates().await? });
        }
        // Walks the queue's index from class to class.
        let rows = sqlx::query!(
            r#"WITH RECURSIVE classes AS (
                 (SELECT class FROM task_state WHERE queued ORDER BY class LIMIT 1)
                 UNION ALL
                 SELECT (SELECT s.class FROM task_state s WHERE s.queued AND s.class > c.class ORDER BY s.class LIMIT 1) FROM classes c WHERE c.class IS NOT NULL
               )
               SELECT h.task_id AS "task_id!", c.class AS "class!", r.needs, h.priority AS "priority!", h.queued_at AS "queued_at!", h.avoid_node, t.warm_keys
               FROM (SELECT class FROM classes WHERE class IS NOT NULL LIMIT $2) c
               JOIN requirement_classes r ON r.id = c.class
               CROSS JOIN LATERAL (
                 SELECT s.task_id, s.priority, s.queued_at, s.avoid_node FROM task_state s
                 WHERE s.queued AND s.class = c.class AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                 ORDER BY s.priority DESC, s.queued_at, s.task_id LIMIT $1
               ) h JOIN tasks t ON t.id = h.task_id"#,
            heads_per_class,
            CLASSES
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut needs_of: BTreeMap<i64, Arc<Needs>> = BTreeMap::new();
        let mut heads = Vec::with_capacity(rows.len());
        for row in rows {
            let needs = match needs_of.get(&row.class) {
                Some(needs) => needs.clone(),
                None => needs_of.entry(row.class).or_insert(Arc::new(read_json(row.needs)?)).clone(),
            };
            heads.push(Head {
                task: TaskId::from_uuid(row.task_id),
                class: row.class,
                needs,
                priority: row.priority,
                queued_at: row.queued_at,
                avoid_node: row.avoid_node.map(NodeId::from_uuid),
                warm_keys: row.warm_keys.into_iter().collect(),
            });
        }
        let exclusive: Vec<Uuid> =
            heads.iter().filter(|head| head.needs.exclusive).map(|head| head.task.as_uuid()).collect();
        if !exclusive.is_empty() {
            let held_back = exclusive::held_back(&mut connection, &exclusive).await?;
            heads.retain(|head| !held_back.contains(&head.task.as_uuid()));
        }
        drop(connection);
        Ok(Snapshot { now, heads, nodes: self.candidates().await? })
    }

    /// All nodes that are not revoked, with what is held on them, in the order of their ids.
    pub async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let nodes = sqlx::query_as!(
            NodeRecord,
            r#"SELECT n.id, n.name, n.admission, n.admission_note, n.facts, n.created_at, l.metrics, l.connected, l.connected_since, l.beat_at,
                      n.drain_deadline, f.record AS "faults?", now() AS "at!",
                      EXISTS (SELECT 1 FROM attempts p WHERE p.id = (f.record #>> '{cordon,probe}')::uuid AND p.ended_at IS NULL) AS probe_is_under_way,
                      (l.beat_at IS NULL OR l.offline_since IS NOT NULL) AS "offline!",
                      (l.beat_at NOT BETWEEN now() - make_interval(secs => $1) AND now() + interval '5 seconds') AS silent
               FROM nodes n JOIN node_live l ON l.node_id = n.id LEFT JOIN node_faults f ON f.node_id = n.id
               WHERE n.admission <> 'revoked' ORDER BY n.id"#,
            self.silence_s()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut held: BTreeMap<NodeId, Vec<Reservation>> = BTreeMap::new();
        for live in self.live_reservations().await? {
            held.entry(live.node).or_default().push(live.reservation);
        }
        nodes
            .into_iter()
            .map(|record| {
                let (node, may_probe) = record.into_view()?;
                let mut ledger = Ledger::new(node.facts.capacity.clone());
                let holding = held.remove(&node.id).unwrap_or_default();
                holding.iter().for_each(|reservation| ledger.hold(reservation));
                Ok(Candidate { node, ledger, holding: holding.len() as u32, may_probe })
            })
            .collect()
    }

    pub async fn live_reservations(&self) -> Result<Vec<LiveReservation>, StoreError> {
        sqlx::query!("SELECT node_id, reservation FROM attempts WHERE reserved")
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|row| {
                Ok(LiveReservation { node: NodeId::from_uuid(row.node_id), reservation: read_json(row.reservation)? })
            })
            .collect()
    }
}
