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
    placement::Reading,
    resources::Reservation,
};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct NodeWithLoad {
    pub node: NodeView,
    pub reserved: Reservation,
    /// Attempts that hold a reservation.
    pub tasks: u32,
    /// Attempts that wait there for their place, and hold nothing yet.
    pub waiting: u32,
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

impl From<Reading> for NodeWithLoad {
    fn from(reading: Reading) -> Self {
        let candidate = reading.candidate();
        let waiting = candidate.waiting.attempts;
        Self { reserved: candidate.in_place(), tasks: candidate.holding - waiting, waiting, node: candidate.node }
    }
}

impl Store {
    /// Nodes that are not revoked, by name, after this one: up to `limit` of them.
    pub async fn list_nodes(&self, after: Option<&str>, limit: usize) -> Result<Vec<NodeWithLoad>, StoreError> {
        Ok(self.nodes_by_name(after.unwrap_or(""), limit).await?.into_iter().map(NodeWithLoad::from).collect())
    }

    /// A node by its name, its id, or the end of its id.
    pub async fn find_node(&self, name_or_id: &str) -> Result<Option<NodeWithLoad>, StoreError> {
        Ok(self.find_reading(name_or_id).await?.map(NodeWithLoad::from))
    }
}
