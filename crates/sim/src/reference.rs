//! The fake store by itself, for the test that proves it equal to the real one: the same operations on both, the same answers and
//! the same rows. What the simulation shows counts only as far as this holds.
//!
//! Tasks, nodes and attempts are named by labels, so that an operation means the same on both sides, whatever their ids are.

use crate::{
    assertions::Violation,
    fakes::store::{
        FakeStore, Leadership, NewTask, NodeReport, OpenSession, Opened, OutputAnswer, Role, SessionKey, Submitted,
    },
    faults::Planted,
};
use domain::{
    Timestamp,
    attempt::Report,
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, NodeId, TaskId},
    lease::OFFLINE_AFTER_MS,
    lifecycle::Event,
    node::{Admission, NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind},
    placement::Placement,
    reconcile::HeldAttempt,
    resources::{Capacity, Reservation},
    spec::TaskSpec,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};
use uuid::Uuid;

/// An attempt: the task's label and the number of the attempt.
pub type AttemptLabel = (u8, u32);

/// One call of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new task with this label; with a key, and which of two bodies it stands for.
    Submit {
        task: u8,
        key: Option<(u8, u8)>,
    },
    Cancel {
        task: u8,
    },
    Retry {
        task: u8,
    },
    /// The leader leases the task to the node.
    Place {
        task: u8,
        node: u8,
    },
    /// One of two installations says hello with what it holds; the third is a copy of the first.
    Open {
        node: u8,
        instance: u8,
        holds: Vec<AttemptLabel>,
    },
    /// `back`: of the node's newest session, or of an earlier one.
    Report {
        node: u8,
        back: i64,
        attempt: AttemptLabel,
        report: What,
    },
    /// The node stores an output of the attempt.
    Store {
        node: u8,
        attempt: AttemptLabel,
        index: u32,
    },
    Beat {
        node: u8,
        back: i64,
    },
    Close {
        node: u8,
        back: i64,
    },
    /// The node fell silent long ago.
    Silence {
        node: u8,
    },
    /// What is due for replacement waits again.
    Replace,
    Admit {
        node: u8,
        admission: Admission,
    },
    FinishDrains,
}

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Accepted,
    Started,
    Exited(i32),
    /// Well, and so many outputs are to be stored.
    Owes(u32),
    /// None is success.
    Ended(Option<FailureKind>),
    PlannedStop,
    Released,
}

impl What {
    pub fn report(self) -> Report {
        let ending = |failure| Ending { failure, ..Ending::failed(FailureKind::NodeError, "so it was") };
        match self {
            Self::Accepted => Report::Accepted,
            Self::Started => Report::Started,
            Self::Exited(code) => Report::Exited { exit: ExitFacts { code: Some(code), ..ExitFacts::default() } },
            Self::Owes(outputs_due) => {
                Report::Exited { exit: ExitFacts { code: Some(0), outputs_due, ..ExitFacts::default() } }
            }
            Self::Ended(failure) => Report::Ended { ending: ending(failure) },
            Self::PlannedStop => {
                Report::Ended { ending: Ending { planned_stop: true, ..ending(Some(FailureKind::NodeError)) } }
            }
            Self::Released => Report::Released,
        }
    }
}

/// A node takes two tasks at a time, so that room is scarce.
pub fn capacity() -> Capacity {
    Capacity { cpu_millis: 2_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40, gpus: Vec::new() }
}
pub fn reservation() -> Reservation {
    Reservation { cpu_millis: 1_000, memory_bytes: 1 << 20, ..Reservation::default() }
}

/// The operations of one moment: what they name is looked up before the first of them begins.
pub type Group = Vec<Op>;

/// The fake store, played from its beginning.
pub struct Reference {
    store: FakeStore,
    spec: Rc<TaskSpec>,
    tasks: BTreeMap<u8, TaskId>,
    /// Leads throughout: leadership has tests of its own.
    leaders: BTreeMap<Role, Leadership>,
    now: Timestamp,
}

/// An operation with its names looked up.
struct Resolved<'a> {
    op: &'a Op,
    task: Option<TaskId>,
    held: Vec<Option<Held>>,
    session: Option<SessionKey>,
}

impl Reference {
    pub fn new(nodes: u8, spec: &TaskSpec) -> Self {
        let now = chrono::DateTime::from_timestamp_millis(1_800_000_000_000).expect("within this century");
        let mut store = FakeStore::new(Planted::default(), Default::default(), OFFLINE_AFTER_MS);
        for node in 0..nodes {
            store.add_node(node_id(node), format!("n{node}"));
        }
        let mut reference =
            Self { store, spec: Rc::new(spec.clone()), tasks: BTreeMap::new(), leaders: BTreeMap::new(), now };
        for role in [Role::Scheduler, Role::Sweeper] {
            if let Some(leadership) = reference.store.lead(role, 9, None, now) {
                reference.leaders.insert(role, leadership);
            }
        }
        reference
    }

    /// Applies the operations one after another and returns their answers.
    pub fn apply(&mut self, group: &[Op]) -> Result<Vec<String>, Violation> {
        let resolved: Vec<Resolved<'_>> = group.iter().map(|op| self.resolve(op)).collect();
        let answers = resolved.iter().map(|resolved| self.step(resolved)).collect();
        // Waits after failures are drawn by chance; here nobody waits.
        for record in self.store.tasks.values_mut() {
            record.row.not_before = None;
        }
        answers
    }

    fn resolve<'a>(&self, op: &'a Op) -> Resolved<'a> {
        let (mut task, mut held, mut session) = (None, Vec::new(), None);
        match op {
            Op::Submit { .. } | Op::Replace | Op::FinishDrains | Op::Silence { .. } | Op::Admit { .. } => {}
            Op::Cancel { task: label } | Op::Retry { task: label } | Op::Place { task: label, .. } => {
                task = self.tasks.get(label).copied();
            }
            Op::Open { holds, .. } => held = holds.iter().map(|label| self.held(*label)).collect(),
            Op::Store { attempt, .. } => held = vec![self.held(*attempt)],
            Op::Report { node, back, attempt, .. } => {
                (held, session) = (vec![self.held(*attempt)], Some(self.session(*node, *back)));
            }
            Op::Beat { node, back } | Op::Close { node, back } => session = Some(self.session(*node, *back)),
        }
        Resolved { op, task, held, session }
    }

    fn held(&self, (task, number): AttemptLabel) -> Option<Held> {
        let task = self.tasks.get(&task)?;
        let attempt = self.store.attempts.values().find(|row| row.task == *task && row.number == number)?;
        Some(attempt.held())
    }

    fn session(&self, node: u8, back: i64) -> SessionKey {
        let node = node_id(node);
        SessionKey { node, epoch: self.store.nodes[&node].session_epoch - back }
    }

    fn step(&mut self, resolved: &Resolved<'_>) -> Result<String, Violation> {
        self.now += chrono::TimeDelta::milliseconds(1);
        let now = self.now;
        Ok(match resolved.op {
            Op::Submit { task, key } => {
                let idempotency = key.map(|(key, body)| (format!("k{key}"), u64::from(body)));
                match self
                    .store
                    .submit_task(&NewTask { project: DEFAULT_PROJECT, spec: self.spec.clone(), idempotency }, now)
                {
                    Submitted::Accepted(id) => {
                        self.tasks.insert(*task, id);
                        "accepted".into()
                    }
                    Submitted::Replayed(id) => format!("replayed t{}", self.label(id)),
                    Submitted::KeyReused(id) => format!("key of t{}", self.label(id)),
                }
            }
            Op::Cancel { .. } => match resolved.task {
                Some(task) => format!("{:?}", self.store.cancel_task(task, now)),
                None => "NotFound".into(),
            },
            Op::Retry { .. } => match resolved.task {
                Some(task) => format!("{:?}", self.store.retry_task(task, now)),
                None => "NotFound".into(),
            },
            Op::Place { node, .. } => match resolved.task {
                Some(task) => {
                    let plan = [Placement { task, node: node_id(*node), reservation: reservation() }];
                    format!("placed {}", self.store.lease_tasks(&plan, now).len())
                }
                None => "placed 0".into(),
            },
            Op::Open { node, instance, .. } => self.open(*node, *instance, &resolved.held, now),
            Op::Report { report, .. } => {
                let session = resolved.session.expect("looked up with the report");
                let held = resolved.held[0].unwrap_or(UNKNOWN);
                let batch = [NodeReport { held, report: report.report() }];
                format!("{:?}", self.store.record_reports(session, &batch, now, || 1.0)?[0])
            }
            Op::Store { node, index, .. } => {
                let held = resolved.held[0].unwrap_or(UNKNOWN);
                let answer = self.store.complete_output(node_id(*node), held, *index);
                format!("stored {}", answer == OutputAnswer::Stored)
            }
            Op::Beat { .. } => {
                let session = resolved.session.expect("looked up with the beat");
                format!("counted {}", self.store.heartbeat(&[(session, NodeMetrics::default())], now).len())
            }
            Op::Close { .. } => {
                self.store.close_session(resolved.session.expect("looked up with the close"));
                "closed".into()
            }
            Op::Silence { node } => {
                if let Some(row) = self.store.nodes.get_mut(&node_id(*node)) {
                    row.offline_since = Some(now - chrono::TimeDelta::hours(1));
                    row.offline_at_ms = Some(-3_600_000);
                    row.connected = false;
                }
                "silent".into()
            }
            Op::Replace => {
                let queued = self.store.queue_replaceable(&self.leaders[&Role::Sweeper], now);
                format!("queued {}", queued.map_or_else(|error| format!("{error:?}"), |queued| queued.to_string()))
            }
            Op::Admit { node, admission } => {
                self.store.set_admission(node_id(*node), *admission, None);
                "admitted".into()
            }
            Op::FinishDrains => {
                self.store.finish_drains();
                "looked".into()
            }
        })
    }

    fn open(&mut self, node: u8, instance: u8, held: &[Option<Held>], now: Timestamp) -> String {
        let executors: BTreeMap<String, String> = [("process".to_owned(), "1".to_owned())].into();
        let hello = OpenSession {
            node: node_id(node),
            instance: instance_id(node, instance),
            facts: NodeFacts { capacity: capacity(), executors, boot: Some(boot_id(instance)), ..NodeFacts::default() },
            metrics: NodeMetrics::default(),
            attempts: held
                .iter()
                .flatten()
                .map(|held| HeldAttempt::new(*held, domain::attempt::AttemptState::Running))
                .collect(),
            complete_executors: BTreeSet::from(["process".to_owned()]),
            newest_epoch: i64::MAX,
        };
        match self.store.open_session(&hello, 45_000, now) {
            Opened::Session { key, draining, settled, .. } => {
                let unknown: Vec<String> = settled.stop.iter().map(|held| self.attempt_label(held.attempt)).collect();
                format!("session {} draining {draining} unknown {unknown:?}", key.epoch)
            }
            Opened::OtherInstance => "other instance".into(),
            Opened::OtherBoot => "other boot".into(),
            Opened::Superseded => "superseded".into(),
            Opened::Forgotten => "forgotten".into(),
            Opened::Revoked => "revoked".into(),
        }
    }

    fn label(&self, id: TaskId) -> u8 {
        self.tasks.iter().find(|(_, known)| **known == id).map_or(u8::MAX, |(label, _)| *label)
    }

    fn attempt_label(&self, id: AttemptId) -> String {
        let row = &self.store.attempts[&id];
        format!("t{}#{}", self.label(row.task), row.number)
    }

    /// Every row that counts, as lines in a fixed order: what the real store's rows are compared with.
    pub fn rows(&self) -> Vec<String> {
        let tasks = self.tasks.iter().map(|(label, id)| {
            let row = &self.store.tasks[id].row;
            let live = row.live.map_or_else(|| "-".to_owned(), |live| self.store.attempts[&live].number.to_string());
            format!(
                "task t{label}: {} queued {} live {live} fence {} attempts {} failures {} {} {} cancel {} failure {} exit {}",
                row.state,
                row.queued,
                row.fence.get(),
                row.attempts,
                row.user_failures,
                row.infra_failures,
                row.node_losses,
                row.cancel_requested,
                row.failure.map_or_else(|| "-".to_owned(), |kind| kind.to_string()),
                row.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            )
        });
        let mut attempts: Vec<String> = self
            .store
            .attempts
            .values()
            .map(|row| {
                format!(
                    "attempt t{}#{} on {}: fence {} {} reserved {} accepted {} started {} exited {} ended {} stored {}",
                    self.label(row.task),
                    row.number,
                    self.store.nodes[&row.node].name,
                    row.fence.get(),
                    row.state,
                    row.reserved,
                    row.accepted_at.is_some(),
                    row.started_at.is_some(),
                    row.exited_at.is_some(),
                    row.ended_at.is_some(),
                    row.outputs_stored,
                )
            })
            .collect();
        attempts.sort();
        let nodes = self.store.nodes.values().map(|node| {
            format!(
                "node {}: {} session {} connected {} offline {}",
                node.name,
                node.admission,
                node.session_epoch,
                node.connected,
                node.offline_since.is_some()
            )
        });
        tasks.chain(attempts).chain(nodes).collect()
    }

    /// Attempts that exist, with the node that has each.
    pub fn attempts(&self) -> Vec<(AttemptLabel, u8)> {
        let nodes: Vec<NodeId> = self.store.nodes.keys().copied().collect();
        let node = |id: NodeId| nodes.iter().position(|known| *known == id).unwrap_or(0) as u8;
        self.store.attempts.values().map(|row| ((self.label(row.task), row.number), node(row.node))).collect()
    }

    /// Whether a change of this kind is in the history so far.
    pub fn has_event(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.store.journal.iter().any(|change| match change {
            crate::fakes::store::Change::Task { events, .. } => events.iter().any(&is_it),
            _ => false,
        })
    }
}

/// No attempt has it.
pub const UNKNOWN: Held =
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(404)), fence: Fence::from_i64((1 << 32) + 404) };

fn node_id(node: u8) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(0x0de0 + u128::from(node)))
}
fn instance_id(node: u8, instance: u8) -> InstanceId {
    InstanceId::from_uuid(Uuid::from_u128(0x1000 + u128::from(node) * 16 + u128::from(instance % 2)))
}

/// Each of the three runs on a machine of its own.
fn boot_id(instance: u8) -> Uuid {
    Uuid::from_u128(0x2000 + u128::from(instance))
}
