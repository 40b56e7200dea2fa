//! Sessions, heartbeats, admission and the offline sweep.

use super::{Change, FakeStore, Leadership, NodeRow, Returned, StoreError, Topic};
use crate::fakes::disk::slot;
use domain::{
    Timestamp,
    attempt::{AttemptRow, AttemptState, Report},
    ids::{AttemptId, Held, InstanceId, NodeId},
    lifecycle::{self, Around, NewAttempt, Verdict},
    node::{Admission, NodeFacts, NodeMetrics},
    poison::{self, Presence},
    reconcile::{Absence, Answer, HeldAttempt, Inventory, Restore, absent, answer, shows_loss},
    resources::Reservation,
    sweep::{ABSENT_AFTER_MS, Findings, Platform, Step},
    task::{TaskRow, TaskState},
};
use protocol::Stream;
use std::collections::{BTreeMap, BTreeSet};

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
    pub(crate) attempts: Vec<HeldAttempt>,
    pub(crate) complete_executors: BTreeSet<String>,
    /// The node's newest session when the gateway took the connection, before the hello could be said.
    pub(crate) newest_epoch: i64,
}

/// What became of the attempts that a hello named.
#[derive(Clone, Default)]
pub(crate) struct Settled {
    pub(crate) stop: Vec<Held>,
    pub(crate) adopted: usize,
}

#[derive(Clone)]
pub(crate) enum Opened {
    Session {
        key: SessionKey,
        draining: bool,
        settled: Settled,
        log_offsets: Vec<(AttemptId, [u64; 4])>,
    },
    OtherInstance,
    OtherBoot,
    /// The node has connected anew since.
    Superseded,
    Forgotten,
    Revoked,
}

/// What is known of the machine that is given up on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    IsFree,
    /// It may go on until it hears that it must stop.
    MayGoOn,
    /// Another installation has its place, and what is exclusive in the old one ends by itself: after the silence that its lease was
    /// made from and its own wait.
    OfAnother,
}

/// What the sweep decides from.
pub(crate) struct Liveness {
    pub(crate) platform: Option<Platform>,
    pub(crate) nodes: BTreeMap<NodeId, Timestamp>,
    pub(crate) seen_ms: u64,
    pub(crate) read_at: Option<Timestamp>,
    pub(crate) offline_after_ms: u64,
    pub(crate) longer: BTreeMap<NodeId, u64>,
}

fn milliseconds(count: i64) -> chrono::TimeDelta {
    chrono::TimeDelta::milliseconds(count)
}

impl FakeStore {
    pub(crate) fn open_session(&mut self, hello: &OpenSession, offline_s: i64, now: Timestamp) -> Opened {
        let shows_loss = |said: &&HeldAttempt| {
            let has_task = said.task.is_some_and(|task| self.tasks.contains_key(&task));
            shows_loss(said, self.attempts.contains_key(&said.held.attempt), has_task, self.epoch)
        };
        let forgotten = hello.attempts.iter().filter(shows_loss).map(|said| said.held.fence.epoch()).max();
        if let Some(epoch) = forgotten {
            self.begin_epoch_above(epoch, now);
            return Opened::Forgotten;
        }
        let node = self.nodes.get_mut(&hello.node).expect("nodes are made before the world begins");
        if node.admission == Admission::Revoked {
            return Opened::Revoked;
        }
        // Its inventory is of then: what was accepted since would seem missing.
        if node.session_epoch > hello.newest_epoch && !self.planted.late_hello_counts {
            return Opened::Superseded;
        }
        // As in all seeds: half of it.
        let silence = chrono::TimeDelta::milliseconds(offline_s * 500);
        let is_alive = node.connected && node.beat_at.is_some_and(|beat| beat > now - silence);
        if node.instance.is_some_and(|instance| instance != hello.instance) && is_alive {
            return Opened::OtherInstance;
        }
        if is_alive && node.facts.is_of_another_boot(&hello.facts) {
            return Opened::OtherBoot;
        }
        // What was sent to another installation may have been begun there.
        let is_new_instance = node.instance.is_some_and(|instance| instance != hello.instance);
        let last_hello = node.connected_since;
        node.instance = Some(hello.instance);
        node.session_epoch += 1;
        node.connected = true;
        node.connected_since = Some(now);
        node.away_from = node.beat_at.replace(now);
        node.offline_since = None;
        node.offline_at_ms = None;
        node.metrics = hello.metrics.clone();
        node.facts = hello.facts.clone();
        let draining = matches!(node.admission, Admission::Draining | Admission::Drained);
        let key = SessionKey { node: hello.node, epoch: node.session_epoch };
        let is_new_instance = is_new_instance && !self.planted.new_instance_gets_old_work;
        let settled = self.reconcile(hello, is_new_instance, last_hello, now);
        let log_offsets = hello
            .attempts
            .iter()
            .map(|said| said.held.attempt)
            .filter_map(|id| Some((id, self.log_offsets(id)?)))
            .collect();
        self.topics.extend([Topic::Room(hello.node), Topic::Queue, Topic::Node(hello.node)]);
        let inventory = hello.attempts.iter().map(|said| said.held.attempt).collect();
        self.journal.push(Change::SessionOpened { key, inventory });
        self.journal.push(Change::Heard { node: hello.node, returned: None });
        Opened::Session { key, draining, settled, log_offsets }
    }

    /// Both directions: what the node lacks is given up, and each attempt that it has gets its answer.
    fn reconcile(
        &mut self,
        hello: &OpenSession,
        is_new_instance: bool,
        last_hello: Option<Timestamp>,
        now: Timestamp,
    ) -> Settled {
        let has: BTreeSet<AttemptId> = hello.attempts.iter().map(|said| said.held.attempt).collect();
        let expected: Vec<AttemptRow> = self.held_on(hello.node).cloned().collect();
        let mut missing: Vec<AttemptId> = expected
            .iter()
            .filter(|row| {
                let is_complete = hello.complete_executors.contains(&self.tasks[&row.task].spec.executor);
                let inventory = Inventory { is_complete, is_new_instance };
                !has.contains(&row.id) && absent(row, inventory, self.epoch) == Absence::GiveUp
            })
            .map(|row| row.id)
            .collect();
        let mut returned: Vec<(Held, Report)> = Vec::new();
        if !self.planted.return_leaves_queued {
            let back = expected.iter().filter(|row| has.contains(&row.id) && self.tasks[&row.task].row.queued);
            returned.extend(back.map(|row| (row.held(), Report::Accepted)));
        }
        let since = self.forgotten_since(last_hello);
        let mut settled = Settled::default();
        for said in &hello.attempts {
            let record = said.task.and_then(|task| self.tasks.get(&task));
            let may_have_forgotten = since.is_some_and(|since| record.is_some_and(|record| record.created_at < since));
            let restore = Restore { epoch: self.epoch, may_have_forgotten };
            let row = self.attempts.get(&said.held.attempt);
            match answer(said, hello.node, row, record.map(|record| &record.row), restore) {
                Answer::Keep if self.is_old(said.held.fence) => returned.extend(self.as_report(said)),
                Answer::Keep | Answer::Collect | Answer::Forget => {}
                Answer::Stop => settled.stop.push(said.held),
                Answer::GiveUp => missing.push(said.held.attempt),
                Answer::Orphan => {}
                Answer::Adopt => {
                    if self.adopt(hello.node, said, now) {
                        settled.adopted += 1;
                        returned.extend(self.as_report(said));
                    } else {
                        settled.stop.push(said.held);
                    }
                }
            }
        }
        let machine = if is_new_instance { Machine::OfAnother } else { Machine::IsFree };
        self.give_up(&missing, "the node came back without it", machine, now);
        self.hear(&returned, now);
        let runs = |said: &&HeldAttempt| said.state == AttemptState::Running;
        let alive = hello.attempts.iter().filter(runs).map(|said| said.held.attempt).collect();
        self.absolve(hello.node, &alive, now);
        settled
    }

    fn as_report(&self, said: &HeldAttempt) -> Option<(Held, Report)> {
        let stored = self.log_offsets(said.held.attempt).unwrap_or_default();
        let of = |stream: &str| Stream::parse(stream).map_or(0, |stream| stored[slot(stream)]);
        Some((said.held, said.as_report(of)?))
    }

    /// Takes up again what a restore has forgotten.
    fn adopt(&mut self, node: NodeId, said: &HeldAttempt, now: Timestamp) -> bool {
        let Some(mut task) = said.task.and_then(|task| self.load_task(task)) else { return false };
        let amounts = self.tasks[&task.id].spec.requirements.amounts;
        let reservation = Reservation {
            cpu_millis: amounts.cpu_millis,
            memory_bytes: amounts.memory_bytes,
            disk_bytes: amounts.disk_bytes,
            gpu_ids: said.gpu_ids.clone(),
            ahead: said.ahead,
        };
        let mut previous = task.live.and_then(|live| self.attempts.get(&live).cloned());
        let forgotten = NewAttempt { id: said.held.attempt, node, reservation };
        let adopted = lifecycle::adopt(&mut task, previous.as_mut(), forgotten, said.held.fence, said.number, now);
        let Some((attempt, events)) = adopted else { return false };
        if let Some(lost) = previous.filter(|attempt| attempt.state.is_terminal()) {
            self.topics.insert(Topic::Node(lost.node));
            self.save_attempt(lost);
        }
        self.insert_attempt(attempt);
        self.save_task(task, events, now);
        true
    }

    /// As if the node had reported it: what it still has is not queued for replacement any more.
    fn hear(&mut self, reports: &[(Held, Report)], now: Timestamp) {
        for (held, report) in reports {
            let Some(mut attempt) = self.attempts.get(&held.attempt).cloned() else { continue };
            let Some(mut task) = self.load_task(attempt.task).filter(|task| task.live == Some(attempt.id)) else {
                continue;
            };
            let policy = self.tasks[&task.id].spec.retry.clone();
            // It is there, so it did not go down.
            let node = Presence { session_since: Some(Timestamp::MIN_UTC), ..Presence::default() };
            let around = Around { policy: &policy, now, jitter_0_to_1: 0.0, node, is_probe: false };
            if let Verdict::Recorded(events) = lifecycle::report(&mut task, &mut attempt, *held, report, &around) {
                self.save_attempt(attempt);
                self.save_task(task, events, now);
            }
        }
    }

    /// The node was only out of reach: what runs there did not take it down.
    fn absolve(&mut self, node: NodeId, alive: &BTreeSet<AttemptId>, now: Timestamp) {
        let held: Vec<AttemptRow> = self.held_on(node).filter(|held| alive.contains(&held.id)).cloned().collect();
        for attempt in held {
            let Some(mut task) = self.load_task(attempt.task) else { continue };
            if lifecycle::returned_alive(&mut task, &attempt) {
                self.save_task(task, Vec::new(), now);
            }
        }
    }

    /// How a node was present, for judging why an attempt on it went wrong.
    pub(super) fn presence_of(&self, node: NodeId, now: Timestamp) -> Presence {
        let heard = |row: &NodeRow| if row.offline_since.is_none() { row.away_from } else { row.beat_at };
        let row = &self.nodes[&node];
        let last_beat = heard(row);
        let is_revoked = |row: &&NodeRow| row.admission == Admission::Revoked;
        let losses: Vec<Timestamp> = self.nodes.values().filter(|row| !is_revoked(row)).filter_map(heard).collect();
        // Who was revoked did not go down: a person took it away.
        let session_since = if is_revoked(&row) {
            Some(Timestamp::MIN_UTC)
        } else {
            row.connected_since.filter(|_| row.offline_since.is_none())
        };
        Presence { last_beat, session_since, is_mass_event: poison::is_mass_event(last_beat.unwrap_or(now), &losses) }
    }

    /// The defect that the rest of a log is worth another run.
    fn forget_exit(&self, task: &mut TaskRow, attempt: &mut AttemptRow) {
        if self.planted.finishing_runs_again && attempt.state == AttemptState::Finishing {
            attempt.state = AttemptState::Running;
            attempt.exit = None;
            task.state = TaskState::Running;
        }
    }

    fn give_up(&mut self, attempts: &[AttemptId], because: &str, machine: Machine, now: Timestamp) {
        for id in attempts {
            let mut attempt = self.attempts[id].clone();
            attempt.reserved &= machine == Machine::MayGoOn;
            let loss = &self.tasks[&attempt.task].spec.on_node_loss;
            let leased_ms = self.leased_ms(*id);
            let wait = (machine == Machine::OfAnother && loss.exclusive && attempt.exit.is_none())
                .then(|| now + milliseconds((leased_ms + loss.replace_after_ms) as i64));
            if wait.is_some() {
                self.wait_for(attempt.task, leased_ms);
            }
            let task = self.load_task(attempt.task);
            if let Some(mut task) = task.clone().filter(|task| task.live.is_none() && wait.is_some()) {
                task.not_before = task.not_before.max(wait);
                self.save_task(task, Vec::new(), now);
            }
            let task = task.filter(|task| task.live == Some(*id));
            let policy = self.tasks[&attempt.task].spec.retry.clone();
            let node = self.presence_of(attempt.node, now);
            let around = Around { policy: &policy, now, jitter_0_to_1: 0.5, node, is_probe: false };
            if let Some(mut task) = task
                && let Some(events) = {
                    self.forget_exit(&mut task, &mut attempt);
                    lifecycle::give_up(&mut task, &mut attempt, because, &around)
                }
            {
                task.not_before = task.not_before.max(wait);
                self.save_attempt(attempt);
                self.save_task(task, events, now);
            } else {
                self.save_attempt(attempt);
            }
            self.topics.insert(Topic::Queue);
        }
    }

    /// The real one takes two steps for a node that is offline. Nobody is answered between them, so they may be one.
    pub(crate) fn heartbeat(&mut self, beats: &[(SessionKey, NodeMetrics)], now: Timestamp) -> Vec<SessionKey> {
        let mut counted = Vec::new();
        for (key, metrics) in beats {
            let is_planted = self.planted.stale_sessions_count;
            let Some(node) = self.nodes.get_mut(&key.node).filter(|node| is_planted || node.session_epoch == key.epoch)
            else {
                continue;
            };
            node.beat_at = Some(now);
            let is_news = !node.connected || node.metrics.conditions != metrics.conditions;
            node.metrics = metrics.clone();
            node.connected = true;
            node.offline_at_ms = None;
            if is_news {
                self.topics.insert(Topic::Room(key.node));
            }
            let was_offline = node.offline_since.take().is_some();
            let returned = was_offline.then(|| self.return_to_work(key.node, now));
            self.journal.push(Change::Heard { node: key.node, returned });
            counted.push(*key);
            if was_offline {
                // Its session was open all the time, so nothing went down there.
                let held: BTreeSet<AttemptId> = self.held_on(key.node).map(|attempt| attempt.id).collect();
                self.absolve(key.node, &held, now);
            }
        }
        counted
    }

    /// What the node has accepted is not to be replaced any more.
    fn return_to_work(&mut self, node: NodeId, now: Timestamp) -> Returned {
        let accepted: Vec<AttemptRow> =
            self.held_on(node).filter(|attempt| attempt.accepted_at.is_some()).cloned().collect();
        let has = accepted.iter().map(|row| row.id).collect();
        let waiting = self.queue.len();
        if !self.planted.heartbeat_leaves_queued {
            let back = accepted.iter().filter(|row| self.tasks[&row.task].row.queued);
            let returned: Vec<(Held, Report)> = back.map(|row| (row.held(), Report::Accepted)).collect();
            self.hear(&returned, now);
        }
        self.topics.extend([Topic::Room(node), Topic::Queue, Topic::Node(node)]);
        Returned { has, kept: waiting - self.queue.len() }
    }

    pub(crate) fn close_session(&mut self, key: SessionKey) {
        if let Some(node) = self.nodes.get_mut(&key.node).filter(|node| node.session_epoch == key.epoch) {
            node.connected = false;
            self.topics.insert(Topic::Room(key.node));
        }
    }

    pub(crate) fn liveness(&self) -> Liveness {
        let online = self.nodes.iter().filter(|(_, node)| node.offline_since.is_none());
        let is_longer = |(_, ms): &(NodeId, u64)| *ms > self.offline_after_ms;
        Liveness {
            platform: self.platform,
            nodes: online.filter_map(|(id, node)| Some((*id, node.beat_at?))).collect(),
            seen_ms: self.seen_ms as u64,
            read_at: self.read_at,
            offline_after_ms: self.offline_after_ms,
            longer: self.holding.keys().map(|id| (*id, self.longest_ms(*id))).filter(is_longer).collect(),
        }
    }

    /// The longest silence that a lease on this node was made from.
    fn longest_ms(&self, node: NodeId) -> u64 {
        self.held_on(node).filter_map(|attempt| self.leased_ms.get(&attempt.id)).copied().max().unwrap_or(0)
    }

    pub(crate) fn renew_presence(&mut self, now: Timestamp) {
        let gap = milliseconds(ABSENT_AFTER_MS as i64);
        let since = self.platform.filter(|row| (now - row.renewed_at).abs() <= gap).map_or(now, |row| row.since);
        self.platform = Some(Platform { since, renewed_at: now });
        self.journal.push(Change::Present);
    }

    /// Writes what a sweep found in what it read at `as_of`.
    pub(crate) fn record_sweep(
        &mut self,
        leadership: &Leadership,
        as_of: Timestamp,
        findings: &Findings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.require(leadership, now)?;
        findings.step.iter().for_each(|step| self.add_step(step, as_of));
        self.measure(findings.seen_ms as i64);
        self.read_at = Some(as_of);
        for (id, beat_at) in &findings.offline {
            let Some(node) = self.nodes.get_mut(id).filter(|node| node.beat_at == Some(*beat_at)) else { continue };
            if node.offline_since.is_none() {
                node.offline_since = Some(as_of);
                node.offline_at_ms = Some(self.seen_ms);
                node.connected = false;
                self.topics.insert(Topic::Room(*id));
                self.journal.push(Change::Offline { node: *id });
            }
        }
        Ok(())
    }

    /// So much time has passed, in all.
    fn measure(&mut self, seen_ms: i64) {
        self.seen_ms = self.seen_ms.max(seen_ms);
        let (seen_ms, counts_ms) = (self.seen_ms, self.offline_after_ms);
        // The sweep does not look at a node that was revoked: it is offline when its silence would have been noticed.
        for id in self.nodes.keys().copied().collect::<Vec<NodeId>>() {
            let leased_ms = self.held_on(id).filter_map(|held| self.leased_ms.get(&held.id)).max().copied();
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.offline_since.is_some() && node.offline_at_ms.is_none() {
                let is_revoked = node.admission == Admission::Revoked;
                let silence_ms = if is_revoked { leased_ms.unwrap_or(0).max(counts_ms) } else { 0 };
                node.offline_at_ms = Some(seen_ms + silence_ms as i64);
            }
        }
        let many = self.waits.len();
        self.waits.retain(|_, wait| wait.until_ms.is_none_or(|until| until > seen_ms));
        self.waits_over += many - self.waits.len();
        for wait in self.waits.values_mut().filter(|wait| wait.until_ms.is_none()) {
            let wait_ms = wait.replace_after_ms + wait.offline_after_ms.max(counts_ms);
            wait.until_ms = Some(seen_ms + wait_ms as i64);
        }
    }

    /// Once per step, and what is known of it may grow.
    fn add_step(&mut self, step: &Step, as_of: Timestamp) {
        let added_ms = self.step.filter(|noted| noted.since == step.since).map_or(0, |noted| noted.by_ms);
        let more = milliseconds(step.by_ms - added_ms);
        self.step = Some(*step);
        for since in self.nodes.values_mut().filter_map(|node| node.offline_since.as_mut()) {
            *since += more;
        }
        if more < milliseconds(0) {
            let waiting = self.tasks.values_mut().filter(|record| record.row.queued);
            for at in waiting.filter_map(|record| record.row.not_before.as_mut()).filter(|at| **at > as_of) {
                *at += more;
            }
        }
    }

    pub(crate) fn queue_replaceable(&mut self, leadership: &Leadership, now: Timestamp) -> Result<usize, StoreError> {
        self.require(leadership, now)?;
        let away: Vec<(NodeId, Option<i64>)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.offline_since.is_some())
            .map(|(id, node)| (*id, node.offline_at_ms))
            .collect();
        let mut queued = 0;
        for (node, at_ms) in away {
            let is_revoked = self.nodes[&node].admission == Admission::Revoked;
            let due: Vec<_> = self
                .held_on(node)
                .filter(|attempt| attempt.ended_at.is_none())
                .filter_map(|attempt| {
                    let record = &self.tasks[&attempt.task];
                    let wait_ms = record.spec.on_node_loss.replace_after_ms as i64;
                    let is_over = at_ms.is_some_and(|at| at + wait_ms <= self.seen_ms);
                    let has_left_all = attempt.state == AttemptState::Finishing && !attempt.lacks_outputs();
                    let may_wait = !record.row.queued || is_revoked || has_left_all;
                    let is_due = record.row.cancel_requested || may_wait && is_over;
                    let is_due = is_due && record.row.live == Some(attempt.id);
                    is_due.then(|| attempt.clone())
                })
                .collect();
            for mut attempt in due {
                let Some(mut task) = self.load_task(attempt.task) else { continue };
                let policy = self.tasks[&attempt.task].spec.retry.clone();
                let around = Around {
                    policy: &policy,
                    now,
                    jitter_0_to_1: 0.5,
                    node: self.presence_of(node, now),
                    is_probe: false,
                };
                let events = if !task.cancel_requested {
                    self.forget_exit(&mut task, &mut attempt);
                    let events = if is_revoked {
                        // It never comes back.
                        lifecycle::give_up(&mut task, &mut attempt, "its node was revoked", &around)
                    } else {
                        lifecycle::allow_replacement(&mut task, &mut attempt, &around)
                    };
                    self.save_attempt(attempt);
                    events
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
            if is_revoked {
                self.release_for_good(node, at_ms);
            }
        }
        if queued > 0 {
            self.topics.insert(Topic::Queue);
        }
        Ok(queued)
    }

    /// Nobody will ever say that what a revoked node held is free.
    fn release_for_good(&mut self, node: NodeId, at_ms: Option<i64>) {
        let held: Vec<AttemptRow> = self.held_on(node).filter(|held| held.ended_at.is_some()).cloned().collect();
        for held in held {
            let loss = &self.tasks[&held.task].spec.on_node_loss;
            let wait_ms = if loss.exclusive { loss.replace_after_ms as i64 } else { 0 };
            if at_ms.is_some_and(|at| at + wait_ms <= self.seen_ms) {
                self.save_attempt(AttemptRow { reserved: false, ..held });
            }
        }
    }

    /// Takes a node away for good. False: `evict` was asked for, and something exclusive is there; then nothing was done.
    pub(crate) fn revoke(&mut self, id: NodeId, evict: bool, now: Timestamp) -> bool {
        let live: Vec<AttemptRow> = self.held_on(id).filter(|held| held.ended_at.is_none()).cloned().collect();
        let is_exclusive = |held: &AttemptRow| self.tasks[&held.task].spec.on_node_loss.exclusive;
        if evict && live.iter().any(is_exclusive) {
            return false;
        }
        let leased = self.held_on(id).filter_map(|held| self.leased_ms.get(&held.id)).max();
        let silence_ms = leased.copied().unwrap_or(0).max(self.offline_after_ms);
        let Some(node) = self.nodes.get_mut(&id) else { return true };
        node.admission = Admission::Revoked;
        node.connected = false;
        node.session_epoch += 1;
        // It is heard no more, so it counts as offline when its silence would have been noticed.
        if node.offline_since.is_none() {
            node.offline_since = Some(now + milliseconds(silence_ms as i64));
            node.offline_at_ms = None;
        }
        self.journal.push(Change::Revoked { node: id, evicted: evict });
        if evict {
            let live: Vec<AttemptId> = live.iter().map(|held| held.id).collect();
            self.give_up(&live, "its node was revoked", Machine::MayGoOn, now);
        }
        self.topics.extend([Topic::Node(id), Topic::Queue]);
        true
    }

    pub(crate) fn set_admission(&mut self, id: NodeId, admission: Admission, deadline: Option<Timestamp>) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.admission != Admission::Revoked) {
            node.admission = admission;
            node.drain_deadline = deadline;
            if admission == Admission::Open {
                node.faults = None;
            }
        }
        self.topics.extend([Topic::Room(id), Topic::Node(id), Topic::Queue]);
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
