//! Virtual time: events in the order of (moment, sequence), each handed to whom it concerns; after every one the
//! assertions look at what it wrote. First a phase of faults, then everything is healed and must come to rest.

use crate::{
    Hits, Ms, Sometimes, Violation,
    assertions::{Books, Checker},
    dice::Dice,
    fakes::{
        clients::Clients,
        database::{Answer, Request},
        executor::Op,
        gateway::{Gateway, Tag},
        net::{Line, LineId},
        node::Node,
        scheduler::Scheduler,
        store::{FakeStore, Role, StoreError, Topic},
        sweeper::Sweeper,
    },
    faults::{Fault, Plan},
    trace::Trace,
};
use domain::{
    Timestamp,
    ids::{AttemptId, InstanceId, NodeId, TaskId},
    node::NodeFacts,
    outcome::ExitFacts,
};
use provider_gateway::agent;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What must have come to rest is looked at from here on after the healing,
const REST_AFTER_MS: Ms = 300_000;
/// and has not come to rest when so much more has passed.
const PATIENCE_MS: Ms = 2_400_000;
const LOOK_EVERY_MS: Ms = 30_000;

/// A process: every start and end is a new run, and what belongs to an older one reaches nobody.
#[derive(Clone, Copy, Default)]
pub(crate) struct Process {
    pub(crate) run: u64,
    pub(crate) is_up: bool,
    pub(crate) paused_until: Ms,
}

impl Process {
    pub(crate) fn start(&mut self) {
        *self = Self { run: self.run + 1, is_up: true, paused_until: 0 };
    }
    pub(crate) fn stop(&mut self) {
        *self = Self { run: self.run + 1, is_up: false, paused_until: 0 };
    }
}

pub(crate) enum Event {
    Gateway { gateway: usize, run: u64, event: GatewayEvent },
    Node { node: usize, run: u64, event: NodeEvent },
    Scheduler { scheduler: usize, run: u64, event: SchedulerEvent },
    Sweeper { sweeper: usize, run: u64, event: SweeperEvent },
    Host { node: usize, boot: u64, event: HostEvent },
    Database(Box<Request>),
    Deliver { line: LineId, up: bool },
    LineEnded { line: LineId, at_node: bool },
    ClientAsks { op: usize },
    ClientAnswered { op: usize, answer: Result<Answer, StoreError> },
    Strike { fault: Fault, draw: u64, for_ms: Ms },
    StartGateway { gateway: usize },
    StartScheduler { scheduler: usize },
    StartSweeper { sweeper: usize },
    StartAgent { node: usize },
    Boot { node: usize },
    Reopen { node: usize },
    Restore,
    Heal,
}

pub(crate) enum GatewayEvent {
    Answered(Tag, Result<Answer, StoreError>),
    Tell(LineId),
    RenewPresence,
    ReportsAgain(LineId),
    LogsAgain(LineId),
    BeatsAgain,
    HelloLate(LineId),
    LookForSilence(LineId),
}

pub(crate) enum NodeEvent {
    Dial,
    Dialled(LineId),
    WelcomeLate(LineId),
    Heartbeat(LineId),
    Done(Box<agent::Event>),
    Tick,
    StopLate,
}

pub(crate) enum SchedulerEvent {
    Tick,
    Hint(Topic),
    Answered(Result<Answer, StoreError>),
}

pub(crate) enum SweeperEvent {
    Tick,
    Answered(Result<Answer, StoreError>),
}

pub(crate) enum HostEvent {
    Op {
        attempt: AttemptId,
        op: Op,
        run: u64,
    },
    /// The lease of exclusive work may have run out.
    LeaseOver {
        attempt: AttemptId,
    },
    Resume,
    Write {
        attempt: AttemptId,
        index: usize,
    },
    Exit {
        attempt: AttemptId,
        exit: ExitFacts,
    },
    DockerBack,
}

impl Event {
    /// For the trace: what kind of event, and whose.
    fn code(&self) -> u64 {
        let (kind, who) = match self {
            Self::Gateway { gateway, .. } => (1, *gateway as u64),
            Self::Node { node, .. } => (2, *node as u64),
            Self::Scheduler { scheduler, .. } => (3, *scheduler as u64),
            Self::Sweeper { sweeper, .. } => (4, *sweeper as u64),
            Self::Host { node, .. } => (5, *node as u64),
            Self::Database(_) => (6, 0),
            Self::Deliver { line, up } => (7, line * 2 + u64::from(*up)),
            Self::LineEnded { line, at_node } => (8, line * 2 + u64::from(*at_node)),
            Self::ClientAsks { op } => (9, *op as u64),
            Self::ClientAnswered { op, .. } => (10, *op as u64),
            Self::Strike { fault, .. } => (11, *fault as u64),
            Self::StartGateway { gateway } => (12, *gateway as u64),
            Self::StartScheduler { scheduler } => (13, *scheduler as u64),
            Self::StartSweeper { sweeper } => (14, *sweeper as u64),
            Self::StartAgent { node } => (15, *node as u64),
            Self::Boot { node } => (16, *node as u64),
            Self::Reopen { node } => (17, *node as u64),
            Self::Heal => (18, 0),
            Self::Restore => (19, 0),
        };
        kind << 32 | who
    }
}

/// What came of one seed.
pub struct Outcome {
    pub seed: u64,
    pub events: u64,
    /// Equal for two runs of one plan, or chance got in from elsewhere.
    pub trace_hash: u64,
    pub hits: Hits,
    pub violation: Option<Violation>,
    /// The last lines of the story, when they were asked for.
    pub story: Vec<String>,
}

pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Ms,
    queue: BTreeMap<(Ms, u64), Event>,
    seq: u64,
    /// Of each exclusive task, the attempt whose process was begun last.
    pub(crate) last_begun: BTreeMap<TaskId, AttemptId>,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    pub(crate) checker: Checker,
    pub(crate) violation: Option<Violation>,
    pub(crate) store: FakeStore,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) sweepers: Vec<Sweeper>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Clients,
    pub(crate) lines: BTreeMap<LineId, Line>,
    pub(crate) last_line: LineId,
    instances: u128,
    pub(crate) database_away_until: Ms,
    /// What the database's clock is ahead of time by.
    pub(crate) clock_ahead_ms: i64,
    pub(crate) leader_locked: Option<(Role, Ms)>,
    /// To be restored: the database, and what was promised until then.
    pub(crate) backup: Option<(FakeStore, Books)>,
    /// Calls that were made before a restore reach nothing.
    pub(crate) database_run: u64,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            seq: 0,
            dice: Dice::new(plan.seed, 3),
            last_begun: BTreeMap::new(),
            trace: Trace::default(),
            checker: Checker::new(&plan.knobs),
            violation: None,
            store: FakeStore::new(plan.planted, plan.knobs.black_hole, plan.knobs.offline_s as u64 * 1_000),
            gateways: (0..plan.gateways).map(|_| Gateway::default()).collect(),
            schedulers: (0..plan.schedulers).map(|_| Scheduler::new()).collect(),
            sweepers: (0..plan.sweepers).map(|_| Sweeper::default()).collect(),
            nodes: Vec::new(),
            clients: Clients::default(),
            lines: BTreeMap::new(),
            last_line: 0,
            instances: 0,
            database_away_until: 0,
            clock_ahead_ms: 0,
            leader_locked: None,
            backup: None,
            database_run: 0,
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for (n, capacity) in self.plan.nodes.clone().into_iter().enumerate() {
            let id = NodeId::from_uuid(Uuid::from_u128((3 << 64) + n as u128));
            let kept = [domain::spec::ARTIFACTS_FEATURE, domain::spec::CHECKPOINTS_FEATURE].map(str::to_owned);
            let mut features: std::collections::BTreeSet<String> =
                kept.into_iter().chain([domain::lease::feature("container")]).collect();
            // Some agents are older.
            if Dice::new(self.plan.seed, 900 + n as u64).chance(0.7) {
                features.insert(domain::placement::AHEAD.to_owned());
            }
            let facts = NodeFacts {
                capacity,
                executors: [("container".to_owned(), "1".to_owned())].into(),
                features,
                ..NodeFacts::default()
            };
            let instance = self.next_instance();
            self.store.add_node(id, format!("node-{n}"));
            self.nodes.push(Node::new(id, facts, instance));
            self.at(n as u64 * 7, Event::StartAgent { node: n });
        }
        (0..self.gateways.len()).for_each(|g| self.start_gateway(g));
        (0..self.schedulers.len()).for_each(|s| self.start_scheduler(s));
        (0..self.sweepers.len()).for_each(|w| self.start_sweeper(w));
        self.plan_clients();
        self.plan_strikes();
        self.at(self.plan.chaos_ms, Event::Heal);
    }

    pub(crate) fn next_instance(&mut self) -> InstanceId {
        self.instances += 1;
        InstanceId::from_uuid(Uuid::from_u128((4 << 64) + self.instances))
    }

    /// Keeps the story, for a person who looks for the cause of a failure.
    pub fn verbose(mut self) -> Self {
        self.trace.is_verbose = true;
        self
    }

    /// Plays to the end, or to the first violation.
    pub fn play(mut self) -> Outcome {
        let mut events = 0;
        let rest_at = self.plan.chaos_ms + REST_AFTER_MS;
        let mut look_at = rest_at;
        while self.violation.is_none() {
            let Some(((at, seq), event)) = self.queue.pop_first() else { break };
            self.now = at;
            if at >= look_at {
                look_at = at + LOOK_EVERY_MS;
                match self.unrest() {
                    None => break,
                    Some(violation) if at >= rest_at + PATIENCE_MS => {
                        self.violate(violation);
                        break;
                    }
                    Some(_) => {}
                }
            }
            events += 1;
            self.trace.mix(at);
            self.trace.mix(seq);
            self.trace.mix(event.code());
            self.dispatch(event);
            self.look();
        }
        if let Some(violation) = self.violation.as_mut() {
            violation.at_ms = self.now;
        }
        Outcome {
            seed: self.plan.seed,
            events,
            trace_hash: self.trace.hash(),
            hits: self.checker.hits,
            violation: self.violation,
            story: self.trace.into_lines(),
        }
    }

    /// The assertions that hold after every event.
    fn look(&mut self) {
        if self.store.journal.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.store.journal);
        for change in &changes {
            self.trace.mix_text(self.checker.word_for(change));
            self.trace.say(self.now, || format!("    store: {}", self.checker.describe(change)));
        }
        if let Some(violation) = self.checker.check(&changes, &self.store, self.now) {
            self.violate(violation);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Gateway { gateway, run, event } => {
                let process = self.gateways[gateway].process;
                if process.run == run && process.paused_until > self.now {
                    self.at(process.paused_until, Event::Gateway { gateway, run, event });
                } else if process.run == run {
                    self.gateway_event(gateway, event);
                }
            }
            Event::Node { node, run, event } => {
                let process = self.nodes[node].process;
                let paused_until = self.nodes[node].paused_until();
                if process.run == run && paused_until > self.now {
                    self.at(paused_until, Event::Node { node, run, event });
                } else if process.run == run {
                    self.node_event(node, event);
                }
            }
            Event::Scheduler { scheduler, run, event } => {
                let process = self.schedulers[scheduler].process;
                if process.run == run && process.paused_until > self.now {
                    self.at(process.paused_until, Event::Scheduler { scheduler, run, event });
                } else if process.run == run {
                    self.scheduler_event(scheduler, event);
                }
            }
            Event::Sweeper { sweeper, run, event } => {
                if self.sweepers[sweeper].process.run == run {
                    self.sweeper_event(sweeper, event);
                }
            }
            Event::Host { node, boot, event } => {
                let suspended_until = self.nodes[node].suspended_until;
                if self.nodes[node].boot != boot || !self.nodes[node].is_up {
                    return;
                }
                if suspended_until > self.now {
                    self.at(suspended_until, Event::Host { node, boot, event });
                } else {
                    self.host_hears(node, event);
                }
            }
            Event::Database(request) => self.database(*request),
            Event::Deliver { line, up } => self.deliver(line, up),
            Event::LineEnded { line, at_node } => self.line_ended(line, at_node),
            Event::ClientAsks { op } => self.client_asks(op),
            Event::ClientAnswered { op, answer } => self.client_answered(op, answer),
            Event::Strike { fault, draw, for_ms } => self.strike(fault, draw, for_ms),
            Event::StartGateway { gateway } if !self.gateways[gateway].process.is_up => self.start_gateway(gateway),
            Event::StartScheduler { scheduler } if !self.schedulers[scheduler].process.is_up => {
                self.start_scheduler(scheduler)
            }
            Event::StartSweeper { sweeper } if !self.sweepers[sweeper].process.is_up => self.start_sweeper(sweeper),
            Event::StartGateway { .. } | Event::StartScheduler { .. } | Event::StartSweeper { .. } => {}
            Event::StartAgent { node } => self.start_agent(node),
            Event::Boot { node } => self.boot(node),
            Event::Reopen { node } => self.reopen(node),
            Event::Restore => self.restore(),
            Event::Heal => self.heal(),
        }
    }

    pub(crate) fn at(&mut self, at: Ms, event: Event) {
        self.seq += 1;
        self.queue.insert((at.max(self.now), self.seq), event);
    }

    pub(crate) fn after(&mut self, delay: Ms, event: Event) {
        self.at(self.now + delay, event);
    }

    /// The database's clock.
    pub(crate) fn timestamp(&self) -> Timestamp {
        let ms = 1_800_000_000_000 + self.now as i64 + self.clock_ahead_ms;
        chrono::DateTime::from_timestamp_millis(ms).expect("within this century")
    }

    /// Whether a fault of this kind may happen now.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.now < self.plan.chaos_ms && self.plan.has(fault)
    }

    pub(crate) fn hit(&mut self, what: Sometimes) {
        self.checker.hits.add(what);
    }
}
