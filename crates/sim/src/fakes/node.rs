//! A node: the machine with its disk and containers, and the shell around the agent's core, which carries actions out and
//! feeds back what came of them. The core itself is the product's.

use crate::{
    Ms, Violation,
    fakes::{
        disk::{Cursor, FakeDisk, slot},
        executor::{Container, Op},
        net::LineId,
    },
    faults::Fault,
    world::{Event, NodeEvent, Process, World},
};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held, InstanceId, NodeId},
    node::NodeFacts,
};
use protocol::Stream;
use provider_gateway::{
    agent::{self, Action, Agent},
    executor::Adopted,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uuid::Uuid;

pub(crate) struct Node {
    // The machine.
    pub(crate) id: NodeId,
    pub(crate) facts: NodeFacts,
    pub(crate) instance: InstanceId,
    pub(crate) boot: u64,
    pub(crate) booted_at: Ms,
    pub(crate) is_up: bool,
    pub(crate) is_gone: bool,
    pub(crate) suspended_until: Ms,
    /// Since it was booted.
    pub(crate) suspended_ms: Ms,
    pub(crate) docker_up: bool,
    /// Until then every creation fails at once.
    pub(crate) black_hole_until: Ms,
    pub(crate) containers: BTreeMap<AttemptId, Container>,
    pub(crate) disk: FakeDisk,
    pub(crate) partitioned_until: Ms,
    /// Its heartbeats are not written.
    pub(crate) beats_lost_until: Ms,
    /// Its disk takes nothing new.
    pub(crate) disk_full_until: Ms,
    /// An assignment was refused for it.
    pub(crate) disk_full_is_known: bool,
    // The agent's process: gone with a crash.
    pub(crate) process: Process,
    pub(crate) agent: Agent,
    pub(crate) is_stopping: bool,
    pub(crate) adopting: BTreeSet<AttemptId>,
    pub(crate) unknown: BTreeSet<AttemptId>,
    pub(crate) preparing: BTreeSet<AttemptId>,
    pub(crate) storing: BTreeSet<AttemptId>,
    pub(crate) checkpointing: BTreeSet<AttemptId>,
    /// By this run of the agent.
    pub(crate) asked_to_stop: BTreeSet<AttemptId>,
    pub(crate) collecting: BTreeSet<AttemptId>,
    pub(crate) awaiting_log: BTreeSet<AttemptId>,
    /// Requests that Docker has not answered.
    pub(crate) asked: BTreeMap<AttemptId, Op>,
    pub(crate) tick_at: Option<Ms>,
    // Its connection.
    pub(crate) line: Option<LineId>,
    pub(crate) session: Option<Session>,
    pub(crate) wants_hello: bool,
    pub(crate) failures: u32,
    pub(crate) began_at: Ms,
    pub(crate) last_heard: Ms,
    pub(crate) hello_sent_at: agent::Millis,
}

/// What lives as long as a session.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) seq: u64,
    pub(crate) unacknowledged: VecDeque<(u64, AttemptId, &'static str)>,
    pub(crate) cursors: BTreeMap<AttemptId, Cursor>,
    pub(crate) streams: BTreeMap<(AttemptId, Stream), (u64, u64)>,
    pub(crate) in_flight_bytes: u64,
    pub(crate) last_beat: u64,
    /// When each heartbeat was sent, until it is answered.
    pub(crate) beats: BTreeMap<u64, agent::Millis>,
}

impl Node {
    pub(crate) fn new(id: NodeId, facts: NodeFacts, instance: InstanceId) -> Self {
        let mut node = Self {
            id,
            facts,
            instance,
            boot: 0,
            booted_at: 0,
            is_up: true,
            is_gone: false,
            suspended_until: 0,
            suspended_ms: 0,
            docker_up: true,
            black_hole_until: 0,
            containers: BTreeMap::new(),
            disk: FakeDisk::default(),
            partitioned_until: 0,
            beats_lost_until: 0,
            disk_full_until: 0,
            disk_full_is_known: false,
            process: Process::default(),
            agent: Agent::default(),
            is_stopping: false,
            adopting: BTreeSet::new(),
            unknown: BTreeSet::new(),
            preparing: BTreeSet::new(),
            storing: BTreeSet::new(),
            checkpointing: BTreeSet::new(),
            asked_to_stop: BTreeSet::new(),
            collecting: BTreeSet::new(),
            awaiting_log: BTreeSet::new(),
            asked: BTreeMap::new(),
            tick_at: None,
            line: None,
            session: None,
            wants_hello: false,
            failures: 0,
            began_at: 0,
            last_heard: 0,
            hello_sent_at: 0,
        };
        node.boots();
        node
    }

    /// The machine starts, or will, and has another boot from now on.
    pub(crate) fn boots(&mut self) {
        self.boot += 1;
        self.facts.boot = Some(Uuid::from_u128(self.id.as_uuid().as_u128() << 8 | u128::from(self.boot)));
    }

    /// The agent does nothing before then.
    pub(crate) fn paused_until(&self) -> Ms {
        self.process.paused_until.max(self.suspended_until)
    }
}

impl Node {
    /// What the agent holds, and where its logs stand.
    pub(crate) fn inventory(&self) -> Vec<protocol::HeldAttempt> {
        let mut attempts = self.agent.inventory();
        for attempt in &mut attempts {
            if let Some(directory) = self.disk.attempts.get(&attempt.held.attempt) {
                let offset = |stream: Stream| (stream.as_str().to_owned(), directory.spool.next[slot(stream)]);
                attempt.log_offsets = Stream::ALL.map(offset).into();
            }
        }
        attempts
    }
}

impl World {
    pub(crate) fn start_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.process.is_up || node.is_gone || !node.is_up {
            return;
        }
        if node.suspended_until > self.now {
            let until = node.suspended_until;
            self.at(until, Event::StartAgent { node: n });
            return;
        }
        node.process.start();
        node.agent = Agent::default();
        let run = node.process.run;
        let capacity = node.facts.capacity.clone();
        self.agent_event(n, agent::Event::Offers(capacity));
        for record in self.nodes[n].disk.read_all() {
            self.agent_event(n, agent::Event::Restored(Box::new(record)));
            if self.nodes[n].process.run != run {
                // It did not get far.
                return;
            }
        }
        self.node_after(n, 0, NodeEvent::Dial);
    }

    /// The process is gone; its sockets are closed by its kernel, if the kernel lives.
    pub(crate) fn stop_agent(&mut self, n: usize, kernel_lives: bool) {
        if !self.nodes[n].process.is_up {
            return;
        }
        if kernel_lives {
            self.resolve_asked(n);
        }
        let node = &mut self.nodes[n];
        node.process.stop();
        node.is_stopping = false;
        node.agent = Agent::default();
        for set in [
            &mut node.adopting,
            &mut node.unknown,
            &mut node.preparing,
            &mut node.storing,
            &mut node.checkpointing,
            &mut node.asked_to_stop,
            &mut node.collecting,
            &mut node.awaiting_log,
        ] {
            set.clear();
        }
        node.asked.clear();
        node.wants_hello = false;
        node.tick_at = None;
        node.session = None;
        if let Some(line) = node.line.take() {
            if kernel_lives {
                self.close_from(line, true);
            } else {
                self.cut(line, false);
            }
        }
    }

    pub(crate) fn node_after(&mut self, n: usize, delay: Ms, event: NodeEvent) {
        let run = self.nodes[n].process.run;
        self.after(delay, Event::Node { node: n, run, event });
    }

    pub(crate) fn node_event(&mut self, n: usize, event: NodeEvent) {
        match event {
            NodeEvent::Dial => self.dial(n),
            NodeEvent::Dialled(line) => self.greet(n, line),
            NodeEvent::WelcomeLate(line) => {
                if self.nodes[n].line == Some(line) && self.nodes[n].session.is_none() {
                    self.drop_line(n);
                }
            }
            NodeEvent::Heartbeat(line) => self.heartbeat(n, line),
            NodeEvent::Done(event) => self.agent_event(n, *event),
            NodeEvent::Tick => {
                self.nodes[n].tick_at = None;
                self.agent_event(n, agent::Event::Tick);
            }
            NodeEvent::StopLate => {
                if self.nodes[n].is_stopping {
                    self.agent_exits(n);
                }
            }
        }
    }

    fn agent_exits(&mut self, n: usize) {
        self.stop_agent(n, true);
        let delay = self.dice.log_uniform(200, 30_000);
        self.checker.agent_away(n, self.now, delay);
        self.after(delay, Event::StartAgent { node: n });
    }

    /// Milliseconds of the machine's own clock, which starts with it and runs through suspends.
    pub(crate) fn boot_millis(&self, n: usize) -> agent::Millis {
        let node = &self.nodes[n];
        let lost = if self.plan.planted.clock_stops_in_suspend { node.suspended_ms } else { 0 };
        self.now - node.booted_at + 1 - lost
    }

    pub(crate) fn agent_event(&mut self, n: usize, event: agent::Event) {
        self.note(n, &event);
        if let agent::Event::Assigned(assign) = &event
            && self.nodes[n].agent.assignment(assign.held.attempt).is_none()
        {
            if self.nodes[n].disk_full_until > self.now {
                self.hit(crate::Sometimes::AssignmentRefused);
                self.nodes[n].disk_full_is_known = true;
                self.beat_at_once(n);
                let failure = provider_gateway::executor::Failure::node("disk: no room");
                let refused = agent::Event::Refused { held: assign.held, failure };
                return self.agent_event(n, refused);
            }
            self.nodes[n].disk.attempts.entry(assign.held.attempt).or_default();
        }
        let now = self.boot_millis(n);
        let trace = self.trace.is_verbose.then(|| format!("{event:?}"));
        let actions = self.nodes[n].agent.step(now, event);
        if let Some(event) = trace {
            self.trace.say(self.now, || format!("node {n}: {event:.160} -> {:.200}", format!("{actions:?}")));
        }
        for action in actions {
            if self.dies_here(n) {
                return;
            }
            self.carry_out(n, action);
        }
        self.schedule_tick(n);
        if self.nodes[n].is_stopping && self.nodes[n].agent.live() == 0 {
            self.agent_exits(n);
            return;
        }
        self.try_hello(n);
    }

    /// Between any two actions the agent may be killed, and the machine may lose its power or its disk.
    fn dies_here(&mut self, n: usize) -> bool {
        let for_ms = self.dice.log_uniform(100, 60_000);
        let draw = self.dice.between(0, 1_000_000);
        for (fault, probability) in [(Fault::AgentCrash, 0.003), (Fault::HostCrash, 0.002), (Fault::DiskLoss, 0.001)] {
            if self.has(fault) && self.dice.chance(probability) {
                self.strike_node(fault, n, draw, for_ms);
                return true;
            }
        }
        false
    }

    /// Books on what is being looked up.
    fn note(&mut self, n: usize, event: &agent::Event) {
        let node = &mut self.nodes[n];
        match event {
            agent::Event::Adopted { attempt, found } => {
                node.adopting.remove(attempt);
                if *found == Adopted::Unknown {
                    node.unknown.insert(*attempt);
                } else {
                    node.unknown.remove(attempt);
                }
            }
            agent::Event::Prepared { attempt, .. } => {
                node.preparing.remove(attempt);
            }
            _ => {}
        }
    }

    fn schedule_tick(&mut self, n: usize) {
        let Some(deadline) = self.nodes[n].agent.next_deadline() else { return };
        let at = self.now + deadline.saturating_sub(self.boot_millis(n));
        if self.nodes[n].tick_at.is_none_or(|planned| at < planned) {
            self.nodes[n].tick_at = Some(at);
            self.node_after(n, at - self.now, NodeEvent::Tick);
        }
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        match action {
            Action::Persist(attempt) => self.persist(n, attempt),
            Action::Report { held, report } => self.send_report(n, held, report),
            Action::Adopt(attempt) => {
                self.nodes[n].adopting.insert(attempt);
                self.ask_executor(n, attempt, Op::Adopt);
            }
            Action::Prepare(attempt) => {
                self.nodes[n].preparing.insert(attempt);
                self.ask_executor(n, attempt, Op::Prepare);
            }
            Action::Abort(attempt) => {
                self.nodes[n].preparing.remove(&attempt);
                self.nodes[n].storing.remove(&attempt);
                if self.nodes[n].checkpointing.remove(&attempt) {
                    self.hit(crate::Sometimes::CheckpointCut);
                }
            }
            Action::Checkpoint(attempt) => self.begin_checkpoint(n, attempt),
            Action::StoreOutputs { attempt, exit, last_checkpoint } => {
                self.nodes[n].storing.insert(attempt);
                let record = self.nodes[n].agent.record(attempt);
                if last_checkpoint && record.is_some_and(|record| record.planned_stop.is_some()) {
                    self.hit(crate::Sometimes::LastCheckpointOfMoved);
                }
                self.ask_executor(n, attempt, Op::Store { due: exit.outputs_due });
            }
            Action::Start(attempt) => self.ask_executor(n, attempt, Op::Start),
            Action::Renew { attempt, sent_at } => self.ask_executor(n, attempt, Op::Renew { sent_at }),
            Action::Collect(attempt) => {
                self.nodes[n].collecting.insert(attempt);
                self.collect(n, attempt);
            }
            Action::Signal(attempt, signal) => {
                let since = self.now;
                self.nodes[n].asked_to_stop.insert(attempt);
                self.ask_executor(n, attempt, Op::Signal { signal, since });
            }
            Action::AwaitLog(attempt) => {
                self.nodes[n].awaiting_log.insert(attempt);
                self.check_log(n, attempt);
                // A gap at the end is told now.
                self.pump_logs(n);
            }
            Action::Remove(attempt) => {
                self.nodes[n].collecting.remove(&attempt);
                self.ask_executor(n, attempt, Op::Remove);
            }
            Action::Forget(attempt) => {
                self.nodes[n].disk.attempts.remove(&attempt);
                self.nodes[n].awaiting_log.remove(&attempt);
            }
        }
    }

    fn begin_checkpoint(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let is_asked_to_stop = node.asked_to_stop.contains(&attempt);
        let is_second = !node.checkpointing.insert(attempt);
        if is_asked_to_stop || is_second {
            let detail = format!("{attempt:?} on node {n}: asked to stop {is_asked_to_stop}, two at once {is_second}");
            self.violate(Violation::new("checkpoints are taken one at a time, and of what is to go on", detail));
        }
        self.ask_executor(n, attempt, Op::Checkpoint);
    }

    fn persist(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let Some(record) = node.agent.record(attempt).filter(|_| !self.plan.planted.record_not_persisted) else {
            return;
        };
        let directory = node.disk.attempts.entry(attempt).or_default();
        // Once the end is on disk nobody reads the container's log again.
        if record.ending.is_some() && !self.plan.planted.end_before_log_sync {
            directory.spool.sync();
        }
        directory.record = Some(record);
    }

    /// Says [`agent::Event::LogAcknowledged`] as soon as it is true.
    pub(crate) fn check_log(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let Some(directory) = node.disk.attempts.get(&attempt) else { return };
        if node.awaiting_log.contains(&attempt) && directory.spool.is_acknowledged() {
            node.awaiting_log.remove(&attempt);
            let totals = directory.spool.totals();
            let event = NodeEvent::Done(Box::new(agent::Event::LogAcknowledged { attempt, totals }));
            self.node_after(n, 0, event);
        }
    }

    pub(crate) fn send_report(&mut self, n: usize, held: Held, report: Report) {
        let node = &mut self.nodes[n];
        let (Some(line), Some(session)) = (node.line, &mut node.session) else { return };
        session.seq += 1;
        session.unacknowledged.push_back((session.seq, held.attempt, report.kind()));
        let seq = session.seq;
        self.send_up(line, super::net::Up::Control { seq, message: protocol::FromNode::Report { held, report } });
    }
}
