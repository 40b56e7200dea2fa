//! The agent's end of its one connection: dialled out, greeted, redialled for ever.

use crate::{
    Ms,
    fakes::{
        disk::bytes_at,
        net::{Line, LineId, Up},
        node::Session,
    },
    world::{NodeEvent, World},
};
use domain::{
    backoff,
    ids::AttemptId,
    node::{Admission, Condition, NodeMetrics},
};
use protocol::{Completeness, FromNode, Hello, Inventory, LogFrame, LogPayload, ToNode, Welcome, version};
use provider_gateway::agent;
use std::collections::BTreeMap;

const BACKOFF_BASE_MS: u64 = 1_000;
const BACKOFF_CAP_MS: u64 = 30_000;
const HEALTHY_AFTER_MS: Ms = 60_000;
const REFUSED_WAIT_MS: Ms = 300_000;
const WELCOME_WITHIN_MS: Ms = 30_000;
/// What a dial into nothing costs.
const DIAL_TIMEOUT_MS: Ms = 20_000;

impl World {
    pub(crate) fn dial(&mut self, n: usize) {
        if self.nodes[n].line.is_some() {
            return;
        }
        self.nodes[n].began_at = self.now;
        let gateway = self.dice.between(0, self.gateways.len() as u64 - 1) as usize;
        let (low, high) = self.plan.knobs.net_ms;
        let latency = self.dice.log_uniform(low, high);
        if self.nodes[n].partitioned_until > self.now {
            self.redial(n, None, DIAL_TIMEOUT_MS);
        } else if !self.gateways[gateway].process.is_up {
            self.redial(n, None, latency);
        } else if self.store.nodes[&self.nodes[n].id].admission == Admission::Revoked {
            // Its token opens no door.
            self.hit(crate::Sometimes::RevokedTurnedAway);
            self.redial(n, Some(REFUSED_WAIT_MS), latency);
        } else {
            self.last_line += 1;
            let id = self.last_line;
            let line = Line::new(n, self.nodes[n].process.run, gateway, self.gateways[gateway].process.run);
            self.lines.insert(id, line);
            self.nodes[n].line = Some(id);
            self.gateway_accepts(gateway, id);
            self.node_after(n, latency, NodeEvent::Dialled(id));
        }
    }

    /// Comes back after the backoff, or when the server said so.
    fn redial(&mut self, n: usize, told_ms: Option<Ms>, spent_ms: Ms) {
        let jitter = self.dice.unit();
        let node = &mut self.nodes[n];
        let lasted = self.now - node.began_at;
        node.failures = if lasted >= HEALTHY_AFTER_MS { 1 } else { node.failures.saturating_add(1) };
        let jittered = backoff::delay_ms(node.failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, jitter);
        self.node_after(n, spent_ms + told_ms.unwrap_or(jittered), NodeEvent::Dial);
    }

    pub(crate) fn greet(&mut self, n: usize, line: LineId) {
        if self.nodes[n].line == Some(line) {
            self.nodes[n].last_heard = self.now;
            self.nodes[n].wants_hello = true;
            // What a suspend has ended is stopped before anything is said; then the hello follows.
            self.agent_event(n, agent::Event::Tick);
        }
    }

    /// The inventory is taken only when nothing is being looked up any more: the server concludes from what is absent.
    pub(crate) fn try_hello(&mut self, n: usize) {
        let (metrics, clock) = (self.metrics(n), self.boot_millis(n));
        let node = &mut self.nodes[n];
        let Some(line) = node.line.filter(|_| node.wants_hello && node.adopting.is_empty()) else { return };
        node.wants_hello = false;
        node.hello_sent_at = clock;
        let of = if node.unknown.is_empty() { Completeness::Complete } else { Completeness::Unknown };
        let hello = Hello {
            versions: version::SUPPORTED,
            instance: node.instance,
            facts: node.facts.clone(),
            metrics,
            inventory: Inventory { executors: [("container".to_owned(), of)].into(), attempts: node.inventory() },
        };
        self.send_up(line, Up::Control { seq: 0, message: FromNode::Hello(Box::new(hello)) });
        self.node_after(n, WELCOME_WITHIN_MS, NodeEvent::WelcomeLate(line));
    }

    fn metrics(&self, n: usize) -> NodeMetrics {
        let node = &self.nodes[n];
        let mut metrics = NodeMetrics { live_attempts: node.agent.live() as u32, ..NodeMetrics::default() };
        if !node.docker_up {
            metrics.conditions.insert(Condition::DockerUnavailable);
        }
        if node.is_stopping {
            metrics.conditions.insert(Condition::Stopping);
        }
        if node.disk_full_until > self.now && node.disk_full_is_known {
            metrics.conditions.insert(Condition::DiskFull);
        }
        metrics
    }

    pub(crate) fn heartbeat(&mut self, n: usize, line: LineId) {
        if self.nodes[n].line != Some(line) || self.nodes[n].session.is_none() {
            return;
        }
        if self.now - self.nodes[n].last_heard > self.plan.knobs.silence_ms {
            self.hit(crate::Sometimes::SilenceNoticed);
            self.drop_line(n);
            return;
        }
        self.agent_event(n, agent::Event::Tick);
        if self.nodes[n].line != Some(line) {
            return;
        }
        self.beat_at_once(n);
        self.node_after(n, self.plan.knobs.heartbeat_ms, NodeEvent::Heartbeat(line));
    }

    /// What has changed must not wait for the next heartbeat: the agent goes down.
    pub(crate) fn beat_at_once(&mut self, n: usize) {
        let (metrics, clock) = (Box::new(self.metrics(n)), self.boot_millis(n));
        let node = &mut self.nodes[n];
        if let (Some(line), Some(session)) = (node.line, &mut node.session) {
            session.last_beat += 1;
            let number = session.last_beat;
            session.beats.insert(number, clock);
            self.send_up(line, Up::Control { seq: 0, message: FromNode::Heartbeat { metrics, number, pieces: 0 } });
        }
    }

    /// The agent gives the connection up.
    pub(crate) fn drop_line(&mut self, n: usize) {
        if let Some(line) = self.nodes[n].line {
            self.close_from(line, true);
            self.node_lost_line(n, line);
        }
    }

    pub(crate) fn node_lost_line(&mut self, n: usize, line: LineId) {
        if self.nodes[n].line == Some(line) && self.nodes[n].process.is_up {
            self.forget_line(n);
            self.redial(n, None, 0);
        }
    }

    fn forget_line(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.line = None;
        node.session = None;
        node.wants_hello = false;
    }

    pub(crate) fn node_hears(&mut self, n: usize, line: LineId, message: ToNode) {
        if self.nodes[n].line != Some(line) {
            return;
        }
        self.nodes[n].last_heard = self.now;
        match message {
            ToNode::Welcome(welcome) => {
                let sent_at = self.nodes[n].hello_sent_at;
                self.heartbeat_answered(n, sent_at);
                if self.nodes[n].line == Some(line) {
                    self.open_node_session(n, line, &welcome);
                    self.agent_event(n, agent::Event::Draining(welcome.draining));
                }
            }
            ToNode::Beat { number } => {
                let sent_at = self.nodes[n].session.as_mut().and_then(|session| session.beats.remove(&number));
                sent_at.into_iter().for_each(|sent_at| self.heartbeat_answered(n, sent_at));
            }
            ToNode::Refused(refused) => {
                self.close_from(line, true);
                self.forget_line(n);
                self.redial(n, Some(refused.retry_after_ms.unwrap_or(REFUSED_WAIT_MS)), 0);
            }
            ToNode::Assign(assign) => self.agent_event(n, agent::Event::Assigned(assign)),
            ToNode::Cancel { held } => self.agent_event(n, agent::Event::Cancel(held)),
            ToNode::Stop { held } => self.agent_event(n, agent::Event::Stop(held)),
            ToNode::Evict { held } => self.agent_event(n, agent::Event::Evict(held)),
            ToNode::Ack { up_to } => {
                while let Some((_, attempt, kind)) = self.nodes[n]
                    .session
                    .as_mut()
                    .and_then(|session| session.unacknowledged.pop_front_if(|(seq, ..)| *seq <= up_to))
                {
                    let broken = self.checker.acknowledged(&self.store, attempt, kind);
                    broken.into_iter().for_each(|violation| self.violate(violation));
                    self.agent_event(n, agent::Event::Acknowledged { attempt, kind });
                }
            }
            ToNode::LogAck { attempt, stream, next_offset } => {
                if let Some(session) = &mut self.nodes[n].session
                    && let Some((sent, acknowledged)) = session.streams.get_mut(&(attempt, stream))
                {
                    let up_to = next_offset.min(*sent);
                    let bytes = up_to.saturating_sub(*acknowledged);
                    *acknowledged = (*acknowledged).max(up_to);
                    session.in_flight_bytes = session.in_flight_bytes.saturating_sub(bytes);
                }
                if let Some(directory) = self.nodes[n].disk.attempts.get_mut(&attempt) {
                    directory.spool.acknowledge(stream, next_offset);
                }
                self.check_log(n, attempt);
                self.pump_logs(n);
            }
            ToNode::Drain => self.agent_event(n, agent::Event::Draining(true)),
            ToNode::Resume => self.agent_event(n, agent::Event::Draining(false)),
            ToNode::Error { .. } | ToNode::Unknown => {}
        }
    }

    fn heartbeat_answered(&mut self, n: usize, sent_at: agent::Millis) {
        let sent_at = if self.plan.planted.lease_from_answer { self.boot_millis(n) } else { sent_at };
        self.agent_event(n, agent::Event::HeartbeatAcknowledged { sent_at });
    }

    fn open_node_session(&mut self, n: usize, line: LineId, welcome: &Welcome) {
        if self.nodes[n].session.is_some() {
            return;
        }
        let mut stored: BTreeMap<AttemptId, u64> = BTreeMap::new();
        for offset in &welcome.log_offsets {
            *stored.entry(offset.attempt).or_default() += offset.next_offset;
            if let Some(directory) = self.nodes[n].disk.attempts.get_mut(&offset.attempt) {
                directory.spool.resume(offset.stream, offset.next_offset);
            }
        }
        for (attempt, stored_bytes) in stored {
            let kept = self.nodes[n].disk.attempts.get(&attempt).map(|directory| directory.spool.totals());
            self.agent_event(n, agent::Event::LogResumed { attempt, stored_bytes, kept });
        }
        self.nodes[n].session = Some(Session::default());
        for (held, report) in self.nodes[n].agent.unacknowledged() {
            self.send_report(n, held, report);
        }
        for attempt in self.nodes[n].awaiting_log.clone() {
            self.check_log(n, attempt);
        }
        self.node_after(n, self.plan.knobs.heartbeat_ms, NodeEvent::Heartbeat(line));
        self.pump_logs(n);
    }

    /// Sends logs from the spools in turn, and never more at once than the window.
    pub(crate) fn pump_logs(&mut self, n: usize) {
        let window = self.plan.knobs.log_window_bytes;
        loop {
            let node = &mut self.nodes[n];
            let (Some(line), Some(session)) = (node.line, &mut node.session) else { return };
            if session.in_flight_bytes >= window {
                return;
            }
            let Some((attempt, record)) = node.disk.attempts.iter().find_map(|(attempt, directory)| {
                let cursor = session.cursors.entry(*attempt).or_default();
                let is_closed = node.awaiting_log.contains(attempt);
                directory.spool.read_next(cursor, is_closed).map(|record| (*attempt, record))
            }) else {
                return;
            };
            if record.is_gap {
                self.checker.hits.add(crate::Sometimes::GapSent);
            }
            let Some(held) = node.agent.assignment(attempt).map(|assign| assign.held) else { continue };
            let (sent, _) = session.streams.entry((attempt, record.stream)).or_insert((record.offset, record.offset));
            *sent = record.offset + record.len;
            session.in_flight_bytes += record.len;
            let payload = if record.is_gap {
                LogPayload::Gap(record.len)
            } else {
                LogPayload::Bytes(bytes_at(attempt, record.stream, record.offset, record.len))
            };
            let frame = LogFrame { held, stream: record.stream, ordinal: 0, offset: record.offset, payload };
            self.send_up(line, Up::Log(frame));
        }
    }
}
