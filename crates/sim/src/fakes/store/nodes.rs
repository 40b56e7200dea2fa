//! Sessions, heartbeats, admission and the offline sweep.

use super::{Change, FakeStore, Leadership, StoreError, Topic};
use domain::{
    Timestamp,
    attempt::Report,
    ids::{AttemptId, Held, InstanceId, NodeId},
    lifecycle::{self, Verdict},
    node::{Admission, NodeFacts, NodeMetrics},
    retry::RetryPolicy,
};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey {
    pub(crate) node: NodeId,
    pub(crate) epoch: i64,
}

#[derive(Clone)]
pub(crate) struct OpenSession {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) facts: NodeFacts,
    pub(crate) metrics: NodeMetrics,
    pub(crate) attempts: Vec<Held>,
    pub(crate) complete_executors: BTreeSet<String>,
    /// When the gateway took the connection, before the hello could be said.
    pub(crate) accepted_at: Timestamp,
}

#[derive(Clone)]
pub(crate) enum Opened {
    Session {
        key: SessionKey,
        draining: bool,
        unknown: Vec<Held>,
        log_offsets: Vec<(AttemptId, [u64; 4])>,
    },
    OtherInstance,
    /// The node has connected anew since.
    Superseded,
}

fn seconds(count: i64) -> chrono::TimeDelta {
    chrono::TimeDelta::seconds(count)
}

impl FakeStore {
    pub(crate) fn open_session(&mut self, hello: &OpenSession, silence_ms: u64, now: Timestamp) -> Opened {
        let node = self.nodes.get_mut(&hello.node).expect("nodes are made before the world begins");
        // Its inventory is of then: what was accepted since would seem missing.
        if node.connected_since.is_some_and(|since| since > hello.accepted_at) && !self.planted.late_hello_counts {
            return Opened::Superseded;
        }
        let silence = chrono::TimeDelta::milliseconds(silence_ms as i64);
        let is_alive = node.connected && node.beat_at.is_some_and(|beat| beat > now - silence);
        if node.instance.is_some_and(|instance| instance != hello.instance) && is_alive {
            return Opened::OtherInstance;
        }
        // What was sent to another installation may have been begun there.
        let is_new_instance = node.instance.is_some_and(|instance| instance != hello.instance);
        node.instance = Some(hello.instance);
        node.session_epoch += 1;
        node.connected = true;
        node.connected_since = Some(now);
        node.beat_at = Some(now);
        node.offline_since = None;
        node.metrics = hello.metrics.clone();
        node.facts = hello.facts.clone();
        let draining = matches!(node.admission, Admission::Draining | Admission::Drained);
        let key = SessionKey { node: hello.node, epoch: node.session_epoch };
        let unknown = self.reconcile(hello, is_new_instance && !self.planted.new_instance_gets_old_work, now);
        let log_offsets =
            hello.attempts.iter().filter_map(|held| Some((held.attempt, self.log_offsets(held.attempt)?))).collect();
        self.topics.extend([Topic::Queue, Topic::Node(hello.node)]);
        let inventory = hello.attempts.iter().map(|held| held.attempt).collect();
        self.journal.push(Change::SessionOpened { key, inventory });
        Opened::Session { key, draining, unknown, log_offsets }
    }

    /// Both directions: what the node lacks is given up, what it has too much is returned.
    fn reconcile(&mut self, hello: &OpenSession, is_new_instance: bool, now: Timestamp) -> Vec<Held> {
        let has: BTreeSet<AttemptId> = hello.attempts.iter().map(|held| held.attempt).collect();
        let expected: Vec<(Held, bool, String)> = self
            .held_on(hello.node)
            .map(|attempt| {
                let is_unaccepted = attempt.accepted_at.is_none() && attempt.ended_at.is_none();
                (attempt.held(), is_unaccepted, self.tasks[&attempt.task].spec.executor.clone())
            })
            .collect();
        let missing: Vec<AttemptId> = expected
            .iter()
            .filter(|(held, is_unaccepted, executor)| {
                !has.contains(&held.attempt)
                    && (!is_unaccepted || is_new_instance)
                    && hello.complete_executors.contains(executor)
            })
            .map(|(held, ..)| held.attempt)
            .collect();
        self.give_up(&missing, "the node came back without it", now);
        if !self.planted.return_leaves_queued {
            self.keep_returned(&expected, &has, now);
        }
        hello.attempts.iter().filter(|held| !expected.iter().any(|(known, ..)| known == *held)).copied().collect()
    }

    /// What the node still has is not queued for replacement any more.
    fn keep_returned(&mut self, expected: &[(Held, bool, String)], has: &BTreeSet<AttemptId>, now: Timestamp) {
        for (held, ..) in expected.iter().filter(|(held, ..)| has.contains(&held.attempt)) {
            let mut attempt = self.attempts[&held.attempt].clone();
            let Some(mut task) =
                self.load_task(attempt.task).filter(|task| task.queued && task.live == Some(attempt.id))
            else {
                continue;
            };
            let policy = RetryPolicy::default();
            if let Verdict::Recorded(events) =
                lifecycle::report(&mut task, &mut attempt, *held, &Report::Accepted, &policy, now, 0.0)
            {
                self.save_attempt(attempt);
                self.save_task(task, events, now);
            }
        }
    }

    fn give_up(&mut self, attempts: &[AttemptId], because: &str, now: Timestamp) {
        for id in attempts {
            let mut attempt = self.attempts[id].clone();
            attempt.reserved = false;
            let task = self.load_task(attempt.task).filter(|task| task.live == Some(*id));
            if let Some(mut task) = task
                && let Some(events) = lifecycle::give_up(&mut task, &mut attempt, because, now)
            {
                self.save_attempt(attempt);
                self.save_task(task, events, now);
            } else {
                self.save_attempt(attempt);
            }
            self.topics.insert(Topic::Queue);
        }
    }

    pub(crate) fn heartbeat(&mut self, beats: &[(SessionKey, NodeMetrics)], now: Timestamp) -> Vec<SessionKey> {
        let mut counted = Vec::new();
        for (key, metrics) in beats {
            let is_planted = self.planted.stale_sessions_count;
            let Some(node) = self.nodes.get_mut(&key.node).filter(|node| is_planted || node.session_epoch == key.epoch)
            else {
                continue;
            };
            node.beat_at = Some(now);
            node.metrics = metrics.clone();
            node.connected = true;
            node.offline_since = None;
            counted.push(*key);
        }
        counted
    }

    pub(crate) fn close_session(&mut self, key: SessionKey) {
        if let Some(node) = self.nodes.get_mut(&key.node).filter(|node| node.session_epoch == key.epoch) {
            node.connected = false;
        }
    }

    pub(crate) fn mark_offline(
        &mut self,
        leadership: &Leadership,
        silence_s: i64,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.require(leadership, now)?;
        let mut marked = 0;
        for (id, node) in &mut self.nodes {
            let Some(beat_at) = node.beat_at.filter(|_| node.offline_since.is_none()) else { continue };
            if beat_at.min(now).max(leadership.since) <= now - seconds(silence_s) {
                node.offline_since = Some(now);
                node.connected = false;
                marked += 1;
                self.journal.push(Change::Offline { node: *id, last_beat: beat_at });
            }
        }
        Ok(marked)
    }

    pub(crate) fn queue_replaceable(&mut self, leadership: &Leadership, now: Timestamp) -> Result<usize, StoreError> {
        self.require(leadership, now)?;
        let away: Vec<(NodeId, Timestamp)> =
            self.nodes.iter().filter_map(|(id, node)| Some((*id, node.offline_since?))).collect();
        let mut queued = 0;
        for (node, since) in away {
            let due: Vec<_> = self
                .held_on(node)
                .filter(|attempt| attempt.ended_at.is_none())
                .filter_map(|attempt| {
                    let record = &self.tasks[&attempt.task];
                    let wait = chrono::TimeDelta::milliseconds(record.spec.on_node_loss.replace_after_ms as i64);
                    let is_due = record.row.cancel_requested || !record.row.queued && since + wait <= now;
                    let is_due = is_due && record.row.live == Some(attempt.id);
                    is_due.then(|| attempt.clone())
                })
                .collect();
            for mut attempt in due {
                let Some(mut task) = self.load_task(attempt.task) else { continue };
                let events = if !task.cancel_requested {
                    lifecycle::allow_replacement(&mut task)
                } else if self.planted.offline_cancels_wait {
                    None
                } else if let lifecycle::CancelVerdict::Cancelled(events) =
                    lifecycle::cancel(&mut task, Some(&mut attempt), true, now)
                {
                    self.save_attempt(attempt);
                    Some(events)
                } else {
                    None
                };
                if let Some(events) = events {
                    self.save_task(task, events, now);
                    queued += 1;
                }
            }
        }
        if queued > 0 {
            self.topics.insert(Topic::Queue);
        }
        Ok(queued)
    }

    pub(crate) fn set_admission(&mut self, id: NodeId, admission: Admission) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.admission = admission;
        }
        self.topics.extend([Topic::Node(id), Topic::Queue]);
    }

    pub(crate) fn finish_drains(&mut self) {
        let holding = &self.holding;
        for (id, node) in &mut self.nodes {
            if node.admission == Admission::Draining && holding.get(id).is_none_or(BTreeSet::is_empty) {
                node.admission = Admission::Drained;
            }
        }
    }
}
