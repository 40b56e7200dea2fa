//! Reads nodes for people and for placement.

use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
};
use chrono::{DateTime, Utc};
use domain::{
    Timestamp,
    black_hole::NodeFaults,
    ids::NodeId,
    node::{Admission, NodeView, Presence},
    resources::Reservation,
};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct NodeWithLoad {
    pub node: NodeView,
    pub reserved: Reservation,
    /// Attempts that hold a reservation.
    pub tasks: u32,
}

pub(crate) struct NodeRecord {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) admission: String,
    pub(crate) admission_note: String,
    pub(crate) facts: JsonText,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) metrics: JsonText,
    pub(crate) connected: bool,
    pub(crate) connected_since: Option<DateTime<Utc>>,
    pub(crate) beat_at: Option<DateTime<Utc>>,
    pub(crate) offline: bool,
    pub(crate) silent: Option<bool>,
    pub(crate) drain_deadline: Option<DateTime<Utc>>,
    pub(crate) faults: Option<JsonText>,
    pub(crate) probe_is_under_way: Option<bool>,
    pub(crate) at: Timestamp,
}

impl NodeRecord {
    /// And whether the node is due for one real task that tells whether it has healed.
    pub(crate) fn into_view(self) -> Result<(NodeView, bool), StoreError> {
        let presence = match (self.offline, self.connected && !self.silent.unwrap_or(false)) {
            (true, _) => Presence::Offline,
            (false, true) => Presence::Connected,
            (false, false) => Presence::Disconnected,
        };
        let set = Admission::parse(&self.admission)
            .ok_or_else(|| StoreError::Corrupt(format!("{:?} is no admission", self.admission)))?;
        let faults: Option<NodeFaults> = self.faults.map(read_json).transpose()?;
        let may_probe = set == Admission::Open
            && faults.as_ref().is_some_and(|it| it.may_probe(self.probe_is_under_way.unwrap_or(false), self.at));
        // What a person has set counts before the rule.
        let cordon = faults.and_then(|faults| faults.cordon).filter(|_| set == Admission::Open);
        let view = NodeView {
            id: NodeId::from_uuid(self.id),
            name: self.name,
            facts: read_json(self.facts)?,
            metrics: read_json(self.metrics)?,
            presence,
            admission: if cordon.is_some() { Admission::Cordoned } else { set },
            admission_note: match &cordon {
                Some(cordon) => format!("by the rule: {}", cordon.because),
                None => self.admission_note,
            },
            drain_deadline: self.drain_deadline.filter(|_| set == Admission::Draining),
            probe_at: cordon.map(|cordon| cordon.probe_at),
            last_seen_at: self.beat_at,
            connected_since: self.connected_since.filter(|_| presence == Presence::Connected),
            created_at: self.created_at,
        };
        Ok((view, may_probe))
    }
}

impl Store {
    /// All nodes that are not revoked, by name.
    pub async fn list_nodes(&self) -> Result<Vec<NodeWithLoad>, StoreError> {
        let mut nodes: Vec<NodeWithLoad> = self
            .candidates()
            .await?
            .into_iter()
            .map(|candidate| NodeWithLoad {
                reserved: candidate.ledger.held(),
                tasks: candidate.holding,
                node: candidate.node,
            })
            .collect();
        nodes.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        Ok(nodes)
    }

    /// A node by its name, its id, or the end of its id.
    pub async fn find_node(&self, name_or_id: &str) -> Result<Option<NodeWithLoad>, StoreError> {
        let nodes = self.list_nodes().await?;
        let is_ending = name_or_id.len() >= 6 && name_or_id.bytes().all(|b| b.is_ascii_hexdigit());
        let exact = nodes.iter().position(|n| n.node.name == name_or_id || n.node.id.to_string() == name_or_id);
        let found =
            exact.or_else(|| nodes.iter().position(|n| is_ending && n.node.id.to_string().ends_with(name_or_id)));
        Ok(found.map(|at| nodes[at].clone()))
    }
}
