//! What a simulated node says: pure, (state, message) -> messages. It runs no-op tasks and is honest about everything that the
//! platform relies on: a report is held until it is acknowledged and said again after a reconnect, an attempt ends after its log
//! has arrived, and what it held is released after its end was acknowledged.

use super::figures::Used;
use bytes::Bytes;
use domain::{
    attempt::{AttemptState, Report},
    ids::{AttemptId, Held, InstanceId, TaskId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    reconcile::HeldAttempt,
    resources::Capacity,
};
use protocol::{
    Assign, Completeness, Frame, FromNode, Hello, Inventory, LogFrame, LogPayload, MAX_LOG_BYTES, Stream, ToNode,
    delivery::{Heard, Incoming, Outgoing},
    transport::Message,
    version,
};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// The task type that simulated nodes offer.
pub const EXECUTOR: &str = "noop";

/// Log bytes of one attempt that may be under way.
const LOG_WINDOW: u64 = 256 * 1024;

/// What a no-op task does, from the payload of its spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Work {
    /// From `started` to `exited`. 0: both are said at once.
    pub run_ms: u64,
    /// Lines of `line_bytes` each, the line feed included, as fast as they are taken.
    pub log_lines: u64,
    pub line_bytes: u64,
}

/// What the shell must do besides sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Call [`Node::due`] for this attempt after so long.
    Wake(AttemptId, Duration),
    /// The session is open; beats are due this often.
    Opened {
        heartbeat: Duration,
    },
    /// Refused; come back after so long, if ever.
    Refused(Option<Duration>),
    /// The heartbeat of this number is recorded.
    BeatAnswered(u64),
    Assigned(AttemptId),
    /// The end of an attempt is committed on the other side.
    EndAcknowledged,
    /// The platform said that something was wrong with what was sent.
    Complaint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Sent ahead: it begins when a slot is free.
    Waiting,
    Running,
    /// It has exited; the rest of its log is on its way.
    Exited,
    /// What `ended` says.
    Ended,
    /// What `released` says; one of the two is not acknowledged yet.
    Released,
}

#[derive(Clone, Debug)]
struct Attempt {
    held: Held,
    task: TaskId,
    number: u32,
    priority: i32,
    work: Work,
    phase: Phase,
    failure: Option<FailureKind>,
    /// Of stdout: (sent, acknowledged).
    log: (u64, u64),
    pieces: u64,
    /// By the node's clock.
    started_at: u64,
}

impl Attempt {
    fn log_bytes(&self) -> u64 {
        self.work.log_lines * self.work.line_bytes
    }
    fn exit(&self) -> ExitFacts {
        let cancelled = self.failure == Some(FailureKind::Cancelled);
        ExitFacts { code: Some(0), cancelled, duration_ms: self.work.run_ms, ..ExitFacts::default() }
    }
    fn ending(&self) -> Ending {
        Ending {
            failure: self.failure,
            message: String::new(),
            exit: Some(self.exit()),
            planned_stop: false,
            log: LogTotals { bytes: self.log.1, complete: self.log.1 == self.log_bytes() },
        }
    }
}

pub struct Node {
    instance: InstanceId,
    attempts: BTreeMap<AttemptId, Attempt>,
    is_open: bool,
    numbers: Outgoing<(AttemptId, Phase)>,
    incoming: Incoming,
    beats: u64,
    /// Pieces of logs that were sent in this session.
    pieces: u64,
    /// Unix microseconds, as the shell last said: stands in every line of a log, for followers to compare.
    pub clock: u64,
    pub used: Used,
    /// Tasks that it runs at once, however many are sent ahead. None: it begins with whatever comes.
    pub slots: Option<u64>,
}

/// What a node offers: `slots` tasks of the default size at once.
pub fn facts(slots: u64) -> NodeFacts {
    NodeFacts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: "linux".into(),
        arch: std::env::consts::ARCH.into(),
        os: "simulated".into(),
        hostname: "simulated".into(),
        capacity: Capacity {
            cpu_millis: 1_000 * slots,
            memory_bytes: slots << 29,
            disk_bytes: slots << 30,
            gpus: Vec::new(),
        },
        executors: BTreeMap::from([(EXECUTOR.to_owned(), "1".to_owned())]),
        ..NodeFacts::default()
    }
}

impl Node {
    pub fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            attempts: BTreeMap::new(),
            is_open: false,
            numbers: Outgoing::default(),
            incoming: Incoming::default(),
            beats: 0,
            pieces: 0,
            clock: 0,
            used: Used::default(),
            slots: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.is_open
    }
    pub fn attempts(&self) -> usize {
        self.attempts.len()
    }

    fn metrics(&self) -> NodeMetrics {
        NodeMetrics { cpu_percent: 3.0, live_attempts: self.attempts.len() as u32, ..NodeMetrics::default() }
    }

    /// The first message of a session.
    pub fn hello(&self, facts: &NodeFacts) -> Message {
        let said = |attempt: &Attempt| {
            let has_exited = !matches!(attempt.phase, Phase::Waiting | Phase::Running);
            let has_ended = matches!(attempt.phase, Phase::Ended | Phase::Released);
            let state = match (attempt.phase, attempt.failure) {
                (Phase::Waiting, _) => AttemptState::Assigned,
                (Phase::Running, _) => AttemptState::Running,
                (Phase::Exited, _) => AttemptState::Finishing,
                (Phase::Ended | Phase::Released, None) => AttemptState::Succeeded,
                (Phase::Ended | Phase::Released, Some(_)) => AttemptState::Cancelled,
            };
            HeldAttempt {
                task: Some(attempt.task),
                number: attempt.number,
                exit: has_exited.then(|| attempt.exit()),
                ending: has_ended.then(|| attempt.ending()),
                log_offsets: BTreeMap::from([("stdout".to_owned(), attempt.log.0)]),
                ..HeldAttempt::new(attempt.held, state)
            }
        };
        let hello = Hello {
            versions: version::SUPPORTED,
            instance: self.instance,
            facts: facts.clone(),
            metrics: self.metrics(),
            inventory: Inventory {
                executors: BTreeMap::from([(EXECUTOR.to_owned(), Completeness::Complete)]),
                attempts: self.attempts.values().map(said).collect(),
            },
        };
        Message::Text(Frame::new(FromNode::Hello(Box::new(hello))).encode())
    }

    /// The line is gone. What is not acknowledged is said again in the next session.
    pub fn closed(&mut self) {
        self.is_open = false;
        self.numbers = Outgoing::default();
    }

    /// A heartbeat and its number.
    pub fn beat(&mut self) -> (u64, Message) {
        self.beats += 1;
        let seq = self.numbers.number();
        let beat = FromNode::Heartbeat { metrics: Box::new(self.metrics()), number: self.beats, pieces: self.pieces };
        (self.beats, Message::Text(Frame::numbered(seq, beat).encode()))
    }

    /// A message of the platform.
    pub fn hear(&mut self, text: &str, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let Ok(Frame { seq, message }) = Frame::<ToNode>::decode(text) else {
            effects.push(Effect::Complaint);
            return;
        };
        match self.incoming.message(seq) {
            Heard::New => {}
            Heard::Again => return,
            Heard::Missing => return effects.push(Effect::Complaint),
        }
        match message {
            ToNode::Welcome(welcome) => {
                self.is_open = true;
                self.numbers = Outgoing::default();
                self.incoming = Incoming::default();
                self.beats = 0;
                self.pieces = 0;
                effects.push(Effect::Opened { heartbeat: Duration::from_millis(welcome.heartbeat_ms) });
                for offset in welcome.log_offsets.iter().filter(|offset| offset.stream == Stream::Stdout) {
                    if let Some(attempt) = self.attempts.get_mut(&offset.attempt) {
                        attempt.log = (offset.next_offset, offset.next_offset);
                    }
                }
                self.say_again(out, effects);
            }
            ToNode::Refused(refused) => {
                effects.push(Effect::Refused(refused.retry_after_ms.map(Duration::from_millis)));
            }
            ToNode::Assign(assign) => self.assigned(&assign, out, effects),
            ToNode::Cancel { held } | ToNode::Evict { held } => {
                if let Some(attempt) = self.attempts.get_mut(&held.attempt)
                    && matches!(attempt.phase, Phase::Waiting | Phase::Running)
                {
                    attempt.failure = Some(FailureKind::Cancelled);
                    self.exit(held.attempt, out, effects);
                }
            }
            ToNode::Stop { held } => {
                if let Some(attempt) = self.attempts.get_mut(&held.attempt) {
                    attempt.phase = Phase::Released;
                    self.report(held, Report::Released, out);
                    self.begin_waiting(out, effects);
                }
            }
            ToNode::Ack { up_to } => {
                let acknowledged: Vec<(AttemptId, Phase)> = self.numbers.acknowledged(up_to).collect();
                for (id, phase) in acknowledged {
                    match (phase, self.attempts.get_mut(&id)) {
                        (Phase::Ended, Some(_)) => effects.push(Effect::EndAcknowledged),
                        (Phase::Released, _) => drop(self.attempts.remove(&id)),
                        (Phase::Waiting | Phase::Running | Phase::Exited | Phase::Ended, _) => {}
                    }
                }
            }
            ToNode::LogAck { attempt: id, stream: Stream::Stdout, next_offset } => {
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    attempt.log.1 = attempt.log.1.max(next_offset);
                    self.go_on(id, out, effects);
                }
            }
            ToNode::Beat { number } => effects.push(Effect::BeatAnswered(number)),
            ToNode::Error { .. } => effects.push(Effect::Complaint),
            ToNode::LogAck { .. } | ToNode::Drain | ToNode::Resume | ToNode::Unknown => {}
        }
    }

    fn assigned(&mut self, assign: &Assign, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let id = assign.held.attempt;
        if self.attempts.contains_key(&id) {
            return;
        }
        let work: Work = serde_json::from_value(assign.spec.payload.clone()).unwrap_or_default();
        let attempt = Attempt {
            held: assign.held,
            task: assign.task,
            number: assign.number,
            priority: assign.spec.priority,
            work,
            phase: Phase::Waiting,
            failure: None,
            log: (0, 0),
            pieces: 0,
            started_at: 0,
        };
        self.attempts.insert(id, attempt);
        effects.push(Effect::Assigned(id));
        self.report(assign.held, Report::Accepted, out);
        if assign.ahead {
            self.begin_waiting(out, effects);
        } else {
            self.begin(id, out, effects);
        }
    }

    /// Begins with what waits and has a slot: the most urgent first, then the oldest.
    fn begin_waiting(&mut self, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        loop {
            let waiting = self.attempts.iter().filter(|(_, attempt)| attempt.phase == Phase::Waiting);
            let Some(next) = waiting.min_by_key(|(id, attempt)| (-attempt.priority, **id)).map(|(id, _)| *id) else {
                return;
            };
            let holds = |attempt: &&Attempt| matches!(attempt.phase, Phase::Running | Phase::Exited | Phase::Ended);
            let held = self.attempts.values().filter(holds).count() as u64;
            if self.slots.is_some_and(|slots| held >= slots) {
                return;
            }
            self.begin(next, out, effects);
        }
    }

    fn begin(&mut self, id: AttemptId, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let clock = self.clock;
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        (attempt.phase, attempt.started_at) = (Phase::Running, clock);
        let (held, run) = (attempt.held, Duration::from_millis(attempt.work.run_ms));
        let running = self.attempts.values().filter(|attempt| attempt.phase == Phase::Running).count() as u64;
        self.used.most_running = self.used.most_running.max(running);
        if self.used.first_start_at == 0 {
            self.used.first_start_at = clock;
        }
        for report in [Report::Preparing, Report::Started] {
            self.report(held, report, out);
        }
        self.pump(id, out);
        if run.is_zero() {
            self.due(id, out, effects);
        } else {
            effects.push(Effect::Wake(id, run));
        }
    }

    /// The attempt's time to run is over.
    pub fn due(&mut self, id: AttemptId, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.phase == Phase::Running) else {
            return;
        };
        self.used.ran += 1;
        self.used.busy_us += self.clock.saturating_sub(attempt.started_at);
        self.used.last_exit_at = self.clock;
        self.exit(id, out, effects);
    }

    fn exit(&mut self, id: AttemptId, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.phase = Phase::Exited;
        let (held, exit) = (attempt.held, attempt.exit());
        self.report(held, Report::Exited { exit }, out);
        self.go_on(id, out, effects);
    }

    /// Sends more of the log; once all of it has arrived, an attempt that has exited ends.
    fn go_on(&mut self, id: AttemptId, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        self.pump(id, out);
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if attempt.phase == Phase::Exited && attempt.log.1 >= attempt.log_bytes() {
            attempt.phase = Phase::Released;
            let (held, ending) = (attempt.held, attempt.ending());
            self.report(held, Report::Ended { ending }, out);
            // As an agent says it of a process: nothing is left of it that takes time to remove.
            self.report(held, Report::Released, out);
            self.begin_waiting(out, effects);
        }
    }

    fn pump(&mut self, id: AttemptId, out: &mut Vec<Message>) {
        let (is_open, clock) = (self.is_open, self.clock);
        let Some(attempt) = self.attempts.get_mut(&id).filter(|_| is_open) else { return };
        let total = attempt.log_bytes();
        let line = attempt.work.line_bytes.max(1);
        let per_frame = (MAX_LOG_BYTES as u64 / line).max(1) * line;
        while attempt.log.0 < total && attempt.log.0 - attempt.log.1 + per_frame <= LOG_WINDOW {
            let bytes = per_frame.min(total - attempt.log.0);
            let frame = LogFrame {
                held: attempt.held,
                stream: Stream::Stdout,
                ordinal: attempt.pieces,
                offset: attempt.log.0,
                payload: LogPayload::Bytes(lines(attempt.log.0, bytes, line, clock)),
            };
            attempt.pieces += 1;
            self.pieces += 1;
            attempt.log.0 += bytes;
            out.push(Message::Binary(frame.encode()));
        }
    }

    /// After a reconnect: what may not have arrived.
    fn say_again(&mut self, out: &mut Vec<Message>, effects: &mut Vec<Effect>) {
        let all: Vec<(AttemptId, Held, Phase)> =
            self.attempts.values().map(|attempt| (attempt.held.attempt, attempt.held, attempt.phase)).collect();
        for (id, held, phase) in all {
            let (exit, ending) = match self.attempts.get(&id) {
                Some(attempt) => (attempt.exit(), attempt.ending()),
                None => continue,
            };
            match phase {
                Phase::Waiting => self.report(held, Report::Accepted, out),
                Phase::Running => {
                    self.report(held, Report::Started, out);
                    self.pump(id, out);
                    effects.push(Effect::Wake(id, Duration::ZERO));
                }
                Phase::Exited => {
                    self.report(held, Report::Exited { exit }, out);
                    self.go_on(id, out, effects);
                }
                Phase::Ended | Phase::Released => {
                    self.report(held, Report::Ended { ending }, out);
                    self.report(held, Report::Released, out);
                }
            }
        }
    }

    fn report(&mut self, held: Held, report: Report, out: &mut Vec<Message>) {
        if !self.is_open {
            return;
        }
        let seq = match report {
            Report::Ended { .. } => self.numbers.hold((held.attempt, Phase::Ended)),
            Report::Released => self.numbers.hold((held.attempt, Phase::Released)),
            Report::Accepted
            | Report::Preparing
            | Report::Prepared { .. }
            | Report::Started
            | Report::Exited { .. } => self.numbers.number(),
        };
        out.push(Message::Text(Frame::numbered(seq, FromNode::Report { held, report }).encode()));
    }
}

/// Readable lines: which it is, and when it was written.
fn lines(offset: u64, bytes: u64, line: u64, clock: u64) -> Bytes {
    let mut out = Vec::with_capacity(bytes as usize);
    let mut at = offset;
    while (out.len() as u64) < bytes {
        let number = at / line;
        let begin = out.len();
        out.extend_from_slice(format!("line {number:010} at {clock} ").as_bytes());
        out.resize(begin + line as usize, b'.');
        if let Some(last) = out.last_mut() {
            *last = b'\n';
        }
        at += line;
    }
    out.truncate(bytes as usize);
    out.into()
}

#[cfg(test)]
mod tests;
