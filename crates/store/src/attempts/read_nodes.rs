//! Nodes with what is held on them: all, a part of them after another, or those that a hint names.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
    nodes::view::NodeRecord,
    tasks::list::reversed_ending,
};
use domain::{
    ids::{AttemptId, NodeId},
    placement::{Asked, Candidate, Reading},
    resources::Reservation,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// So many nodes are read by one statement: each costs a page or two, and three more where its faults are looked up.
const NODES_AT_ONCE: usize = 75;
/// So many reservations are read by one statement. Each may lie on a page of its own.
const HELD_AT_ONCE: usize = 250;

/// The text is needed for each way, since one statement that serves all is planned for none. What belongs to a node is looked up node by
/// node (that is what OFFSET 0 and the inner SELECT are for): the planner would read all of it to join it with a few nodes.
macro_rules! node_records {
    ($which:literal, $store:expr $(, $argument:expr)*) => {
        sqlx::query_as!(
            NodeRecord,
            r#"SELECT n.id AS "id!", n.name AS "name!", n.admission AS "admission!", n.admission_note AS "admission_note!", n.facts AS "facts!: JsonText",
                      n.created_at AS "created_at!", l.metrics AS "metrics!: JsonText", l.connected AS "connected!", l.connected_since, l.beat_at,
                      n.drain_deadline, f.record AS "faults?: JsonText", now() AS "at!",
                      (SELECT p.ended_at IS NULL FROM attempts p WHERE p.id = (f.record #>> '{cordon,probe}')::uuid) AS probe_is_under_way,
                      (l.beat_at IS NULL OR l.offline_since IS NOT NULL) AS "offline!",
                      (l.beat_at NOT BETWEEN now() - make_interval(secs => $1) AND now() + interval '5 seconds') AS silent
               FROM nodes n CROSS JOIN LATERAL (SELECT * FROM node_live WHERE node_id = n.id OFFSET 0) l
               LEFT JOIN LATERAL (SELECT record FROM node_faults WHERE node_id = n.id OFFSET 0) f ON true
               WHERE n.admission <> 'revoked' "# + $which,
            $store.silence_s()
            $(, $argument)*
        )
        .fetch_all(&$store.pool)
        .await?
    };
}

impl Store {
    /// All nodes that are not revoked, with what is held on them, in the order of their ids: each as it was at one moment, but not all
    /// at the same one, since no statement reads more than a part of them.
    pub async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let mut nodes: Vec<Reading> = Vec::new();
        loop {
            let from = nodes.last().map_or(Uuid::nil(), |it| it.node.id.as_uuid());
            let records = node_records!("AND n.id > $2 ORDER BY n.id LIMIT $3", self, from, NODES_AT_ONCE as i64);
            let is_last = records.len() < NODES_AT_ONCE;
            nodes.extend(self.with_all_that_is_held(records).await?);
            if is_last {
                return Ok(nodes.iter().map(Reading::candidate).collect());
            }
        }
    }

    /// The next nodes in the order of their names, up to `limit`.
    pub(crate) async fn nodes_by_name(&self, after: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        let mut nodes: Vec<Reading> = Vec::new();
        loop {
            let from = nodes.last().map_or(after, |it| &it.node.name).to_owned();
            let at_once = NODES_AT_ONCE.min(limit - nodes.len());
            let records = node_records!(
                "AND n.name COLLATE \"C\" > $2 ORDER BY n.name COLLATE \"C\", n.id LIMIT $3",
                self,
                from,
                at_once as i64
            );
            let is_last = records.len() < at_once;
            nodes.extend(self.with_all_that_is_held(records).await?);
            if is_last || nodes.len() >= limit {
                return Ok(nodes);
            }
        }
    }

    /// As [`Store::with_what_is_held`], in statements that read little each, however much is held.
    async fn with_all_that_is_held(&self, records: Vec<NodeRecord>) -> Result<Vec<Reading>, StoreError> {
        let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect();
        let mut held: Vec<HeldRow> = Vec::new();
        let (mut left, mut at_once) = (&ids[..], HELD_AT_ONCE);
        while !left.is_empty() {
            let page = sqlx::query_as!(
                HeldRow,
                r#"SELECT a.id AS "id!", w.node AS "node!", a.reservation AS "reservation!: JsonText", a.has_not_begun AS "has_not_begun!"
                   FROM UNNEST($1::uuid[]) AS w(node)
                   CROSS JOIN LATERAL (SELECT id, reservation, state = 'assigned' AND accepted_at IS NOT NULL AS has_not_begun FROM attempts WHERE node_id = w.node AND reserved OFFSET 0) AS a LIMIT $2"#,
                left,
                at_once as i64
            )
            .fetch_all(&self.pool)
            .await?;
            // Of the last node there may be more: it is read again, from its first.
            let last = page.last().map(|row| row.node).filter(|_| page.len() == at_once);
            let rows = page.into_iter().filter(|row| Some(row.node) != last);
            held.extend(rows);
            match last.and_then(|last| left.iter().position(|node| *node == last)) {
                None => break,
                // More is held on one node than is read at once.
                Some(0) => at_once *= 2,
                Some(at) => (left, at_once) = (&left[at..], HELD_AT_ONCE),
            }
        }
        readings(records, held.into_iter())
    }

    /// The node of this name, of this id, or whose id ends so.
    pub(crate) async fn find_reading(&self, name_or_id: &str) -> Result<Option<Reading>, StoreError> {
        let is_ending = name_or_id.len() >= 6 && name_or_id.bytes().all(|b| b.is_ascii_hexdigit());
        let found = match self.node_ids(name_or_id).await?.pop() {
            None if is_ending => sqlx::query_scalar!(
                r#"SELECT id FROM nodes WHERE reverse(right(id::text, 8)) ~>=~ left($1, 8) AND reverse(right(id::text, 8)) ~<~ (left($1, 8) || 'g')
                     AND starts_with(reverse(replace(id::text, '-', '')), $1) AND admission <> 'revoked' ORDER BY id LIMIT 1"#,
                reversed_ending(name_or_id)
            )
            .fetch_optional(&self.pool)
            .await?,
            found => found,
        };
        let Some(found) = found else { return Ok(None) };
        Ok(self.read_nodes(&BTreeSet::from([NodeId::from_uuid(found)])).await?.pop())
    }

    /// Nodes of this name or id: those that were revoked first, the one that is not last.
    pub(crate) async fn node_ids(&self, name_or_id: &str) -> Result<Vec<Uuid>, StoreError> {
        // No text of the database has one, so it can't be asked for.
        if name_or_id.contains('\0') {
            return Ok(Vec::new());
        }
        let id = name_or_id.parse::<NodeId>().ok().map(NodeId::as_uuid);
        Ok(sqlx::query_scalar!(
            r#"SELECT id FROM nodes WHERE name COLLATE "C" = $1 OR id = $2 ORDER BY admission <> 'revoked', id LIMIT 100"#,
            name_or_id,
            id
        )
        .fetch_all(&self.pool)
        .await?)
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

    async fn with_what_is_held(&self, records: Vec<NodeRecord>) -> Result<Vec<Reading>, StoreError> {
        let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect();
        let held =
            sqlx::query_as!(
                HeldRow,
                r#"SELECT id, node_id AS node, reservation AS "reservation: JsonText", (state = 'assigned' AND accepted_at IS NOT NULL) AS "has_not_begun!"
                   FROM attempts WHERE node_id = ANY($1) AND reserved"#,
                &ids
            )
            .fetch_all(&self.pool)
            .await?;
        readings(records, held.into_iter())
    }
}

/// What one attempt holds on a node.
struct HeldRow {
    id: Uuid,
    node: Uuid,
    reservation: JsonText,
    /// Its node has it. Sent ahead, it waits for its place there.
    has_not_begun: bool,
}

fn readings(records: Vec<NodeRecord>, held: impl Iterator<Item = HeldRow>) -> Result<Vec<Reading>, StoreError> {
    let mut held_on: BTreeMap<Uuid, BTreeMap<AttemptId, Reservation>> = BTreeMap::new();
    let mut waiting_on: BTreeMap<Uuid, BTreeSet<AttemptId>> = BTreeMap::new();
    for HeldRow { id, node, reservation, has_not_begun } in held {
        let reservation: Reservation = read_json(reservation)?;
        if reservation.ahead && has_not_begun {
            waiting_on.entry(node).or_default().insert(AttemptId::from_uuid(id));
        }
        held_on.entry(node).or_default().insert(AttemptId::from_uuid(id), reservation);
    }
    records
        .into_iter()
        .map(|record| {
            let held = held_on.remove(&record.id).unwrap_or_default();
            let waiting = waiting_on.remove(&record.id).unwrap_or_default();
            let (node, may_probe) = record.into_view()?;
            Ok(Reading { node, may_probe, held, waiting })
        })
        .collect()
}
