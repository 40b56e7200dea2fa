//! Nodes with what is held on them: all, a part of them after another, or those that a hint names.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
    nodes::view::NodeRecord,
};
use domain::{
    ids::{AttemptId, NodeId},
    placement::{Asked, Candidate, Reading},
    resources::Reservation,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The text is needed three times, since one statement that serves all ways is planned for none.
macro_rules! node_records {
    ($which:literal, $store:expr $(, $argument:expr)*) => {
        sqlx::query_as!(
            NodeRecord,
            r#"SELECT n.id AS "id!", n.name AS "name!", n.admission AS "admission!", n.admission_note AS "admission_note!", n.facts AS "facts!: JsonText",
                      n.created_at AS "created_at!", l.metrics AS "metrics!: JsonText", l.connected AS "connected!", l.connected_since, l.beat_at,
                      n.drain_deadline, f.record AS "faults?: JsonText", now() AS "at!",
                      EXISTS (SELECT 1 FROM attempts p WHERE p.id = (f.record #>> '{cordon,probe}')::uuid AND p.ended_at IS NULL) AS probe_is_under_way,
                      (l.beat_at IS NULL OR l.offline_since IS NOT NULL) AS "offline!",
                      (l.beat_at NOT BETWEEN now() - make_interval(secs => $1) AND now() + interval '5 seconds') AS silent
               FROM nodes n JOIN node_live l ON l.node_id = n.id LEFT JOIN node_faults f ON f.node_id = n.id
               WHERE n.admission <> 'revoked' "# + $which,
            $store.silence_s()
            $(, $argument)*
        )
        .fetch_all(&$store.pool)
        .await?
    };
}

impl Store {
    /// All nodes that are not revoked, with what is held on them, in the order of their ids.
    pub async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let records = node_records!("ORDER BY n.id", self);
        let held =
            sqlx::query!(r#"SELECT id, node_id, reservation AS "reservation: JsonText" FROM attempts WHERE reserved"#)
                .fetch_all(&self.pool)
                .await?;
        let held = held.into_iter().map(|row| (row.id, row.node_id, row.reservation));
        Ok(readings(records, held)?.iter().map(Reading::candidate).collect())
    }

    /// These nodes; who is revoked or unknown is not among the answers.
    pub async fn read_nodes(&self, nodes: &BTreeSet<NodeId>) -> Result<Vec<Reading>, StoreError> {
        let ids: Vec<Uuid> = nodes.iter().map(|node| node.as_uuid()).collect();
        let records = node_records!("AND n.id = ANY($2)", self, &ids);
        self.with_what_is_held(records).await
    }

    /// The next `limit` nodes in the order of their ids, and what was asked for by that.
    pub async fn read_nodes_after(
        &self,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<(Asked, Vec<Reading>), StoreError> {
        let from = after.map_or(Uuid::nil(), NodeId::as_uuid);
        let records = node_records!("AND n.id > $2 ORDER BY n.id LIMIT $3", self, from, limit as i64);
        let last = records.last().map(|record| NodeId::from_uuid(record.id)).filter(|_| records.len() == limit);
        Ok((Asked::Range(after, last), self.with_what_is_held(records).await?))
    }

    /// Those of these attempts that hold something still.
    pub async fn still_reserved(&self, attempts: &BTreeSet<AttemptId>) -> Result<BTreeSet<AttemptId>, StoreError> {
        let ids: Vec<Uuid> = attempts.iter().map(|attempt| attempt.as_uuid()).collect();
        let held = sqlx::query_scalar!("SELECT id FROM attempts WHERE id = ANY($1) AND reserved", &ids)
            .fetch_all(&self.pool)
            .await?;
        Ok(held.into_iter().map(AttemptId::from_uuid).collect())
    }

    async fn with_what_is_held(&self, records: Vec<NodeRecord>) -> Result<Vec<Reading>, StoreError> {
        let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect();
        let held =
            sqlx::query!(r#"SELECT id, node_id, reservation AS "reservation: JsonText" FROM attempts WHERE node_id = ANY($1) AND reserved"#, &ids)
                .fetch_all(&self.pool)
                .await?;
        readings(records, held.into_iter().map(|row| (row.id, row.node_id, row.reservation)))
    }
}

fn readings(
    records: Vec<NodeRecord>,
    held: impl Iterator<Item = (Uuid, Uuid, JsonText)>,
) -> Result<Vec<Reading>, StoreError> {
    let mut held_on: BTreeMap<Uuid, BTreeMap<AttemptId, Reservation>> = BTreeMap::new();
    for (attempt, node, reservation) in held {
        held_on.entry(node).or_default().insert(AttemptId::from_uuid(attempt), read_json(reservation)?);
    }
    records
        .into_iter()
        .map(|record| {
            let held = held_on.remove(&record.id).unwrap_or_default();
            let (node, may_probe) = record.into_view()?;
            Ok(Reading { node, may_probe, held })
        })
        .collect()
}
