//! The database as maps. Its operations have the rules of the real store's; each is one transaction, so each is one step.
//! Durable: no crash of anything else touches it.

mod attempts;
mod leader;
mod logs;
mod nodes;
mod outputs;
mod restore;
mod tasks;

pub(crate) use attempts::{NodeReport, Outbox, OutboxItem, ReportVerdict};
pub(crate) use leader::{Leadership, Role};
pub(crate) use logs::{LogAck, Piece};
pub(crate) use nodes::{Liveness, OpenSession, Opened, SessionKey};
pub(crate) use outputs::OutputAnswer;
pub(crate) use tasks::{Cancelled, NewTask, Retried, Submitted};

use crate::faults::Planted;
use domain::{
    Timestamp,
    attempt::AttemptRow,
    black_hole::{NodeFaults, Rule},
    ids::{AttemptId, ClusterEpoch, InstanceId, NodeId, ProjectId, TaskId},
    lifecycle::Event,
    node::{Admission, NodeFacts, NodeMetrics},
    outcome::FailureKind,
    spec::{Needs, TaskSpec},
    sweep::{Platform, Step},
    task::TaskRow,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// The call may be tried again; whether it took effect is not known.
    Unavailable,
    NotLeader,
}

#[derive(Clone)]
pub(crate) struct TaskRecord {
    pub(crate) row: TaskRow,
    pub(crate) spec: Rc<TaskSpec>,
    pub(crate) needs: Arc<Needs>,
    pub(crate) class: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) queued_at: Timestamp,
    pub(crate) queue_expires_at: Option<Timestamp>,
}

#[derive(Clone)]
pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) admission: Admission,
    pub(crate) facts: NodeFacts,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) session_epoch: i64,
    pub(crate) connected: bool,
    pub(crate) connected_since: Option<Timestamp>,
    pub(crate) beat_at: Option<Timestamp>,
    pub(crate) offline_since: Option<Timestamp>,
    /// In the time that sweeps have measured. None: the next sweep says.
    pub(crate) offline_at_ms: Option<i64>,
    /// The last heartbeat before the present session.
    pub(crate) away_from: Option<Timestamp>,
    pub(crate) drain_deadline: Option<Timestamp>,
    pub(crate) faults: Option<NodeFaults>,
    pub(crate) metrics: NodeMetrics,
}

/// One write, with what was there before: what the assertions look at after every step.
#[derive(Clone)]
pub(crate) enum Change {
    Task {
        before: Option<Box<TaskRow>>,
        after: Box<TaskRow>,
        events: Vec<Event>,
    },
    Attempt {
        before: Option<Box<AttemptRow>>,
        after: Box<AttemptRow>,
    },
    Offline {
        node: NodeId,
    },
    SessionOpened {
        key: SessionKey,
        inventory: BTreeSet<AttemptId>,
    },
    /// A node was heard; with what it has, if it was called offline until now.
    Heard {
        node: NodeId,
        returned: Option<Returned>,
    },
    /// With its work given up at once, or once it has been silent for long enough.
    Revoked {
        node: NodeId,
        evicted: bool,
    },
    /// An api-gateway said that the platform is there.
    Present,
    /// The rule about nodes that fail everything has cordoned one, or lifted that.
    Cordon {
        node: NodeId,
        is_on: bool,
    },
}

/// A node that was called offline until a heartbeat of the same session.
#[derive(Clone)]
pub(crate) struct Returned {
    pub(crate) has: BTreeSet<AttemptId>,
    /// Tasks of it that were to be replaced.
    pub(crate) kept: usize,
}

/// Of an exclusive task: for how long, and until when once a sweep has begun to count.
#[derive(Clone, Copy)]
struct Wait {
    replace_after_ms: u64,
    offline_after_ms: u64,
    until_ms: Option<i64>,
}

/// A hint that the real store sends by NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Room(NodeId),
    Freed(AttemptId),
    Queue,
    Node(NodeId),
}

#[derive(Clone)]
pub(crate) struct FakeStore {
    pub(crate) planted: Planted,
    pub(crate) epoch: ClusterEpoch,
    restored_at: Option<Timestamp>,
    pub(crate) black_hole: Rule,
    pub(crate) tasks: BTreeMap<TaskId, TaskRecord>,
    pub(crate) attempts: BTreeMap<AttemptId, AttemptRow>,
    pub(crate) nodes: BTreeMap<NodeId, NodeRow>,
    logs: BTreeMap<AttemptId, logs::Head>,
    leaders: BTreeMap<Role, leader::LeaderRow>,
    platform: Option<Platform>,
    /// The time that sweeps have measured.
    seen_ms: i64,
    read_at: Option<Timestamp>,
    /// Exclusive tasks that may have a process somewhere where nobody can ask.
    waits: BTreeMap<TaskId, Wait>,
    pub(crate) waits_over: usize,
    /// The silence after which a node is offline.
    pub(crate) offline_after_ms: u64,
    /// Of each exclusive attempt, what that was when it was leased.
    leased_ms: BTreeMap<AttemptId, u64>,
    /// The last step of the clock that was added to the deadlines.
    step: Option<Step>,
    keys: BTreeMap<String, (u64, TaskId)>,
    classes: BTreeMap<(ProjectId, Needs), i64>,
    /// Indexes: what waits, and what holds resources on each node.
    pub(crate) queue: BTreeSet<TaskId>,
    pub(crate) holding: BTreeMap<NodeId, BTreeSet<AttemptId>>,
    /// Those that are ready.
    outputs: BTreeSet<(AttemptId, u32)>,
    ids: u128,
    pub(crate) rejected: usize,
    pub(crate) journal: Vec<Change>,
    pub(crate) topics: BTreeSet<Topic>,
}

impl FakeStore {
    pub(crate) fn new(planted: Planted, black_hole: Rule, offline_after_ms: u64) -> Self {
        Self {
            planted,
            black_hole,
            epoch: ClusterEpoch(1),
            restored_at: None,
            tasks: BTreeMap::new(),
            attempts: BTreeMap::new(),
            nodes: BTreeMap::new(),
            logs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            platform: None,
            seen_ms: 0,
            read_at: None,
            waits: BTreeMap::new(),
            waits_over: 0,
            offline_after_ms,
            leased_ms: BTreeMap::new(),
            step: None,
            keys: BTreeMap::new(),
            classes: BTreeMap::new(),
            queue: BTreeSet::new(),
            holding: BTreeMap::new(),
            outputs: BTreeSet::new(),
            ids: 0,
            rejected: 0,
            journal: Vec::new(),
            topics: BTreeSet::new(),
        }
    }

    pub(crate) fn add_node(&mut self, id: NodeId, name: String) {
        let row = NodeRow {
            name,
            admission: Admission::Open,
            facts: NodeFacts::default(),
            instance: None,
            session_epoch: 0,
            connected: false,
            connected_since: None,
            beat_at: None,
            offline_since: None,
            offline_at_ms: None,
            away_from: None,
            drain_deadline: None,
            faults: None,
            metrics: NodeMetrics::default(),
        };
        self.nodes.insert(id, row);
    }

    /// Ids grow with time, as UUIDv7 do.
    fn next_id(&mut self, family: u128) -> Uuid {
        self.ids += 1;
        Uuid::from_u128((family << 64) + self.ids)
    }

    fn load_task(&self, id: TaskId) -> Option<TaskRow> {
        self.tasks.get(&id).map(|record| record.row.clone())
    }

    fn save_task(&mut self, mut row: TaskRow, events: Vec<Event>, now: Timestamp) {
        let is_lost = |event: &Event| matches!(event, Event::Ended { failure: Some(FailureKind::NodeLost), .. });
        if self.planted.node_loss_charged_to_user && events.iter().any(is_lost) {
            row.user_failures += 1;
        }
        let Some(record) = self.tasks.get_mut(&row.id) else { return };
        if row.queued && !record.row.queued {
            record.queue_expires_at =
                record.spec.queue_timeout_ms.map(|ms| now + chrono::TimeDelta::milliseconds(ms as i64));
        }
        if row.queued {
            self.queue.insert(row.id);
        } else {
            self.queue.remove(&row.id);
        }
        let before = std::mem::replace(&mut record.row, row.clone());
        self.journal.push(Change::Task { before: Some(Box::new(before)), after: Box::new(row), events });
    }

    fn save_attempt(&mut self, row: AttemptRow) {
        let holding = self.holding.entry(row.node).or_default();
        if row.reserved {
            holding.insert(row.id);
        } else {
            holding.remove(&row.id);
        }
        let before = self.attempts.insert(row.id, row.clone());
        if before.as_ref() != Some(&row) {
            self.journal.push(Change::Attempt { before: before.map(Box::new), after: Box::new(row) });
        }
    }

    /// A new attempt. If it is exclusive, its lease is made from what counts now.
    fn insert_attempt(&mut self, attempt: AttemptRow) {
        if self.tasks[&attempt.task].spec.on_node_loss.exclusive {
            self.leased_ms.insert(attempt.id, self.offline_after_ms);
        }
        self.make_log(attempt.id);
        self.save_attempt(attempt);
    }

    /// The silence that the lease of this attempt was made from.
    fn leased_ms(&self, attempt: AttemptId) -> u64 {
        self.leased_ms.get(&attempt).copied().unwrap_or(self.offline_after_ms)
    }

    /// Nodes that a person took away for good.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|(_, row)| row.admission == Admission::Revoked).map(|(id, _)| *id)
    }

    /// A process of this task may live on where nobody can ask, by a lease that was made from so much.
    fn wait_for(&mut self, task: TaskId, offline_after_ms: u64) {
        let replace_after_ms = self.tasks[&task].spec.on_node_loss.replace_after_ms;
        let new = Wait { replace_after_ms, offline_after_ms, until_ms: None };
        let wait = self.waits.entry(task).or_insert(new);
        *wait = Wait { offline_after_ms: wait.offline_after_ms.max(offline_after_ms), ..new };
    }

    /// Attempts that hold resources on this node, in the order of their ids.
    pub(crate) fn held_on(&self, node: NodeId) -> impl Iterator<Item = &AttemptRow> {
        self.holding.get(&node).into_iter().flatten().map(|id| &self.attempts[id])
    }
}
