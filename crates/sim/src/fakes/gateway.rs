//! A gateway: holds sessions, greets nodes, and tells each what the state says that it must know.

use crate::{
    Ms, Sometimes,
    fakes::{
        database::{Answer, Call, ReplyTo},
        net::{LineId, Up},
        store::{NodeReport, OpenSession, Opened, Outbox, OutboxItem, Piece, SessionKey, StoreError},
    },
    world::{Event, GatewayEvent, Process, World},
};
use domain::{
    ids::{AttemptId, NodeId},
    node::NodeMetrics,
};
use protocol::{
    Assign, Completeness, FromNode, Hello, LogFrame, LogOffset, RefusalCode, Refused, Stream, ToNode, Welcome,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const HELLO_WITHIN_MS: Ms = 30_000;
const PRESENT_EVERY_MS: Ms = 2_000;
/// The agent's own: nobody tells it when to come back.
const REVOKED_WAIT_MS: Ms = 300_000;

#[derive(Default)]
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) sessions: BTreeMap<LineId, GatewaySession>,
    pub(crate) beats: Vec<(LineId, SessionKey, NodeMetrics, u64)>,
    pub(crate) beats_in_flight: Vec<(LineId, SessionKey, u64)>,
}

pub(crate) struct GatewaySession {
    pub(crate) node: NodeId,
    pub(crate) key: Option<SessionKey>,
    pub(crate) last_heard: Ms,
    newest_epoch: i64,
    inventory: BTreeSet<AttemptId>,
    pub(crate) reports: VecDeque<(u64, NodeReport)>,
    pub(crate) recording: Vec<(u64, NodeReport)>,
    pub(crate) reports_wait_ms: Ms,
    pub(crate) logs: VecDeque<LogFrame>,
    pub(crate) logging: Vec<Piece>,
    pub(crate) logs_wait_ms: Ms,
    sent: Sent,
    is_telling: bool,
    tell_again: bool,
}

#[derive(Default)]
struct Sent {
    assigned: BTreeSet<AttemptId>,
    cancelled: BTreeSet<AttemptId>,
    stopped: BTreeSet<AttemptId>,
    evicted: BTreeSet<AttemptId>,
    draining: bool,
}

/// What an answer of the database is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Open(LineId),
    Reports(LineId),
    Logs(LineId),
    Outbox(LineId),
    Beats,
    Presence,
    Close,
}

impl World {
    pub(crate) fn start_gateway(&mut self, g: usize) {
        self.gateways[g].process.start();
        self.gateway_after(g, 0, GatewayEvent::RenewPresence);
    }

    pub(crate) fn crash_gateway(&mut self, g: usize) {
        let gateway = &mut self.gateways[g];
        gateway.process.stop();
        gateway.beats.clear();
        gateway.beats_in_flight.clear();
        for (line, _) in std::mem::take(&mut gateway.sessions) {
            self.close_from(line, false);
        }
    }

    pub(crate) fn gateway_after(&mut self, g: usize, delay: Ms, event: GatewayEvent) {
        let run = self.gateways[g].process.run;
        self.after(delay, Event::Gateway { gateway: g, run, event });
    }

    pub(crate) fn gateway_calls(&mut self, g: usize, tag: Tag, call: Call) {
        let run = self.gateways[g].process.run;
        self.call(ReplyTo::Gateway { gateway: g, run, tag }, call);
    }

    pub(crate) fn gateway_accepts(&mut self, g: usize, line: LineId) {
        let session = GatewaySession {
            node: self.nodes[self.lines[&line].node].id,
            key: None,
            last_heard: self.now,
            newest_epoch: self.store.nodes[&self.nodes[self.lines[&line].node].id].session_epoch,
            inventory: BTreeSet::new(),
            reports: VecDeque::new(),
            recording: Vec::new(),
            reports_wait_ms: 0,
            logs: VecDeque::new(),
            logging: Vec::new(),
            logs_wait_ms: 0,
            sent: Sent::default(),
            is_telling: false,
            tell_again: false,
        };
        self.gateways[g].sessions.insert(line, session);
        self.gateway_after(g, HELLO_WITHIN_MS, GatewayEvent::HelloLate(line));
        self.gateway_after(g, self.plan.knobs.silence_ms, GatewayEvent::LookForSilence(line));
    }

    pub(crate) fn gateway_event(&mut self, g: usize, event: GatewayEvent) {
        match event {
            GatewayEvent::Answered(tag, answer) => self.gateway_answered(g, tag, answer),
            GatewayEvent::Tell(line) => self.tell(g, line),
            GatewayEvent::RenewPresence => self.gateway_calls(g, Tag::Presence, Call::RenewPresence),
            GatewayEvent::ReportsAgain(line) => self.record_batch(g, line),
            GatewayEvent::LogsAgain(line) => self.log_batch(g, line),
            GatewayEvent::BeatsAgain => self.write_beats(g),
            GatewayEvent::HelloLate(line) => {
                if self.gateways[g].sessions.get(&line).is_some_and(|session| session.key.is_none()) {
                    self.session_over(g, line, "no hello");
                }
            }
            GatewayEvent::LookForSilence(line) => {
                let Some(session) = self.gateways[g].sessions.get(&line) else { return };
                let due = session.last_heard + self.plan.knobs.silence_ms;
                if due <= self.now {
                    self.hit(Sometimes::SilenceNoticed);
                    self.session_over(g, line, "silent");
                } else {
                    self.gateway_after(g, due - self.now, GatewayEvent::LookForSilence(line));
                }
            }
        }
    }

    fn gateway_answered(&mut self, g: usize, tag: Tag, answer: Result<Answer, StoreError>) {
        match (tag, answer) {
            (Tag::Open(line), Ok(Answer::Opened(opened))) => self.opened(g, line, opened),
            (Tag::Open(line), _) => self.refuse(g, line, RefusalCode::Unknown, 2_000),
            (Tag::Reports(line), answer) => self.reports_recorded(g, line, answer),
            (Tag::Logs(line), answer) => self.logs_recorded(g, line, answer),
            (Tag::Outbox(line), Ok(Answer::Outbox(outbox))) => self.told(g, line, Some(outbox)),
            (Tag::Outbox(line), _) => self.told(g, line, None),
            (Tag::Beats, answer) => self.beats_written(g, answer),
            (Tag::Presence, _) => self.gateway_after(g, PRESENT_EVERY_MS, GatewayEvent::RenewPresence),
            (Tag::Close, _) => {}
        }
    }

    pub(crate) fn session_over(&mut self, g: usize, line: LineId, reason: &'static str) {
        let Some(session) = self.gateways[g].sessions.remove(&line) else { return };
        self.trace.say(self.now, || format!("gateway {g}: session {:?} is over: {reason}", session.key));
        self.close_from(line, false);
        if let Some(key) = session.key {
            self.gateway_calls(g, Tag::Close, Call::CloseSession(key));
        }
    }

    fn refuse(&mut self, g: usize, line: LineId, code: RefusalCode, retry_after_ms: Ms) {
        let refused = Refused { code, detail: String::new(), retry_after_ms: Some(retry_after_ms) };
        self.send_down(line, ToNode::Refused(refused));
        self.session_over(g, line, "refused");
    }

    pub(crate) fn gateway_hears(&mut self, g: usize, line: LineId, message: Up) {
        let now = self.now;
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        session.last_heard = now;
        match message {
            Up::Log(frame) => {
                session.logs.push_back(frame);
                self.record_logs(g, line);
            }
            Up::Control { seq, message } => match message {
                FromNode::Hello(hello) => self.hello(g, line, &hello),
                FromNode::Report { held, report } => {
                    session.reports.push_back((seq, NodeReport { held, report }));
                    if self.plan.planted.ack_before_commit {
                        self.send_down(line, ToNode::Ack { up_to: seq });
                    }
                    self.record_reports(g, line);
                }
                FromNode::Heartbeat { metrics, number, .. } => {
                    let Some(key) = session.key else { return };
                    if self.nodes[self.lines[&line].node].beats_lost_until > now {
                        return;
                    }
                    self.gateways[g].beats.push((line, key, *metrics, number));
                    self.write_beats(g);
                }
                FromNode::Facts { .. } | FromNode::Error { .. } | FromNode::Unknown => {}
            },
        }
    }

    fn hello(&mut self, g: usize, line: LineId, hello: &Hello) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        session.inventory = hello.inventory.attempts.iter().map(|attempt| attempt.held.attempt).collect();
        let is_complete = |how: &Completeness| *how == Completeness::Complete;
        let executors = hello.inventory.executors.iter().filter(|(_, how)| is_complete(how));
        let open = OpenSession {
            node: session.node,
            instance: hello.instance,
            facts: hello.facts.clone(),
            metrics: hello.metrics.clone(),
            attempts: hello.inventory.attempts.clone(),
            newest_epoch: session.newest_epoch,
            complete_executors: executors.map(|(name, _)| name.clone()).collect(),
        };
        self.gateway_calls(g, Tag::Open(line), Call::OpenSession(Box::new(open)));
    }

    fn opened(&mut self, g: usize, line: LineId, opened: Opened) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else {
            // The line broke meanwhile: the session that was opened for it is closed again.
            if let Opened::Session { key, .. } = opened {
                self.gateway_calls(g, Tag::Close, Call::CloseSession(key));
            }
            return;
        };
        let (key, draining, settled, log_offsets) = match opened {
            Opened::Session { key, draining, settled, log_offsets } => (key, draining, settled, log_offsets),
            Opened::OtherInstance => {
                self.hit(Sometimes::OtherInstanceRefused);
                return self.refuse(g, line, RefusalCode::OtherInstance, 60_000);
            }
            Opened::Revoked => return self.refuse(g, line, RefusalCode::Revoked, REVOKED_WAIT_MS),
            Opened::OtherBoot => {
                self.hit(Sometimes::OtherBootRefused);
                return self.refuse(g, line, RefusalCode::OtherInstance, 15_000);
            }
            Opened::Superseded => {
                self.hit(Sometimes::LateHelloRefused);
                return self.refuse(g, line, RefusalCode::Unknown, 2_000);
            }
            // A false alarm would stop all placing for a while.
            Opened::Forgotten => unreachable!("every restore is declared here, and nothing else forgets"),
        };
        session.key = Some(key);
        // What the hello names has arrived: an assignment read before its reports were recorded must not bring it again.
        if !self.plan.planted.assigns_known_attempts {
            session.sent.assigned = std::mem::take(&mut session.inventory);
        }
        session.sent.draining = draining;
        self.lines.get_mut(&line).expect("a session has its line").key = Some(key);
        let offsets = log_offsets.into_iter().flat_map(|(attempt, offsets)| {
            Stream::ALL.into_iter().zip(offsets).map(move |(stream, next_offset)| LogOffset {
                attempt,
                stream,
                next_offset,
            })
        });
        let welcome = Welcome {
            version: 1,
            server_version: String::new(),
            node: key.node,
            name: String::new(),
            session_epoch: key.epoch,
            heartbeat_ms: self.plan.knobs.heartbeat_ms,
            log_offsets: offsets.collect(),
            draining,
        };
        self.send_down(line, ToNode::Welcome(welcome));
        if settled.adopted > 0 {
            self.hit(Sometimes::RestoreAdopted);
        }
        for held in settled.stop {
            self.send_down(line, ToNode::Stop { held });
        }
        self.tell(g, line);
    }

    /// Looks for what the node must be told.
    pub(crate) fn tell(&mut self, g: usize, line: LineId) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        let Some(key) = session.key else { return };
        if session.is_telling {
            session.tell_again = true;
            return;
        }
        session.is_telling = true;
        session.tell_again = false;
        let sent = session.sent.assigned.clone();
        self.gateway_calls(g, Tag::Outbox(line), Call::Outbox { node: key.node, sent });
    }

    fn told(&mut self, g: usize, line: LineId, outbox: Option<Outbox>) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        session.is_telling = false;
        let again = if session.tell_again { 0 } else { self.plan.knobs.outbox_every_ms };
        if let Some(outbox) = outbox {
            if outbox.revoked {
                // What runs there must not run on; the session says so before it closes.
                let stops: Vec<ToNode> =
                    outbox.items.into_iter().filter_map(|item| session.sent.message(item)).collect();
                stops.into_iter().for_each(|stop| self.send_down(line, stop));
                return self.session_over(g, line, "the node was revoked");
            }
            if session.key.is_some_and(|key| key.epoch != outbox.session_epoch)
                && !self.plan.planted.stale_sessions_count
            {
                self.hit(Sometimes::StaleSessionDropped);
                return self.session_over(g, line, "a newer session took over");
            }
            let mut messages = Vec::new();
            if outbox.draining != session.sent.draining {
                session.sent.draining = outbox.draining;
                messages.push(if outbox.draining { ToNode::Drain } else { ToNode::Resume });
            }
            for item in outbox.items {
                messages.extend(session.sent.message(item));
            }
            for message in messages {
                self.send_down(line, message);
            }
        }
        self.gateway_after(g, again, GatewayEvent::Tell(line));
    }
}

impl Sent {
    /// What went out in this session need not go out again.
    fn message(&mut self, item: OutboxItem) -> Option<ToNode> {
        match item {
            OutboxItem::Assign { held, task, project, number, gpu_ids, ahead, lease, spec } => {
                self.assigned.insert(held.attempt).then(|| {
                    let spec = (*spec).clone();
                    let assign = Assign { held, task, project, number, gpu_ids, ahead, lease, spec };
                    ToNode::Assign(Box::new(assign))
                })
            }
            OutboxItem::Cancel { held } => self.cancelled.insert(held.attempt).then_some(ToNode::Cancel { held }),
            OutboxItem::Stop { held } => self.stopped.insert(held.attempt).then_some(ToNode::Stop { held }),
            OutboxItem::Evict { held } => self.evicted.insert(held.attempt).then_some(ToNode::Evict { held }),
        }
    }
}
