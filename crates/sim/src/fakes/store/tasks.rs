//! Submitting, cancelling, retrying, and the wait that ends.

use super::{Change, FakeStore, TaskRecord, Topic};
use domain::{
    Timestamp,
    ids::{ProjectId, TaskId},
    lifecycle::{self, CancelVerdict, Event},
    quantity::show_duration_ms,
    spec::TaskSpec,
    task::TaskRow,
};
use std::{rc::Rc, sync::Arc};

#[derive(Clone)]
pub(crate) struct NewTask {
    pub(crate) project: ProjectId,
    pub(crate) spec: Rc<TaskSpec>,
    /// The key and the hash of the request that it stands for.
    pub(crate) idempotency: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    Accepted(TaskId),
    Replayed(TaskId),
    KeyReused(TaskId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    Done,
    Requested,
    AlreadyEnded,
    NotFound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retried {
    Queued,
    NotEnded,
    NotFound,
}

impl FakeStore {
    pub(crate) fn submit_task(&mut self, new: &NewTask, now: Timestamp) -> Submitted {
        let id = TaskId::from_uuid(self.next_id(1));
        if let Some((key, hash)) = &new.idempotency {
            if let Some((first_hash, first)) = self.keys.get(key) {
                return if first_hash == hash { Submitted::Replayed(*first) } else { Submitted::KeyReused(*first) };
            }
            self.keys.insert(key.clone(), (*hash, id));
        }
        let needs = new.spec.needs();
        let next_class = self.classes.len() as i64;
        let class = *self.classes.entry((new.project, needs.clone())).or_insert(next_class);
        let row = TaskRow { exclusive: new.spec.on_node_loss.exclusive, ..TaskRow::submitted(id, new.project) };
        let queue_expires_at = new.spec.queue_timeout_ms.map(|ms| now + chrono::TimeDelta::milliseconds(ms as i64));
        self.journal.push(Change::Task { before: None, after: Box::new(row.clone()), events: vec![Event::Submitted] });
        let record = TaskRecord {
            row,
            spec: new.spec.clone(),
            needs: Arc::new(needs),
            class,
            created_at: now,
            queued_at: now,
            queue_expires_at,
        };
        self.tasks.insert(id, record);
        self.queue.insert(id);
        self.topics.insert(Topic::Queue);
        Submitted::Accepted(id)
    }

    pub(crate) fn cancel_task(&mut self, id: TaskId, now: Timestamp) -> Cancelled {
        let Some(mut task) = self.load_task(id) else { return Cancelled::NotFound };
        let mut attempt = task.live.and_then(|live| self.attempts.get(&live).cloned());
        let node_is_offline = attempt
            .as_ref()
            .is_some_and(|attempt| self.nodes.get(&attempt.node).is_none_or(|node| node.offline_since.is_some()));
        let (answer, events) = match lifecycle::cancel(&mut task, attempt.as_mut(), node_is_offline, now) {
            CancelVerdict::AlreadyEnded => return Cancelled::AlreadyEnded,
            CancelVerdict::Repeated => return Cancelled::Requested,
            CancelVerdict::Cancelled(events) => (Cancelled::Done, events),
            CancelVerdict::Requested(events) => (Cancelled::Requested, events),
        };
        if let Some(attempt) = attempt {
            self.topics.insert(Topic::Node(attempt.node));
            self.save_attempt(attempt);
        }
        self.save_task(task, events, now);
        answer
    }

    pub(crate) fn retry_task(&mut self, id: TaskId, now: Timestamp) -> Retried {
        let Some(mut task) = self.load_task(id) else { return Retried::NotFound };
        let Some(events) = lifecycle::retry_ended(&mut task) else { return Retried::NotEnded };
        self.save_task(task, events, now);
        if let Some(record) = self.tasks.get_mut(&id) {
            record.queued_at = now;
        }
        self.topics.insert(Topic::Queue);
        Retried::Queued
    }

    pub(crate) fn expire_queued(&mut self, now: Timestamp) {
        let due: Vec<TaskId> = self
            .queue
            .iter()
            .filter(|id| self.tasks[id].queue_expires_at.is_some_and(|at| at <= now))
            .copied()
            .collect();
        for id in due {
            let record = &self.tasks[&id];
            let waited = show_duration_ms(record.spec.queue_timeout_ms.unwrap_or(0));
            let mut task = record.row.clone();
            if let Some(events) = lifecycle::expire_in_queue(&mut task, &waited, now) {
                self.save_task(task, events, now);
            }
        }
    }
}
