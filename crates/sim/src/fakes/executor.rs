//! A machine's containers: they live on without the agent, and die with the machine. Docker may be away, slow, or unsure.

use crate::{
    Ms,
    assertions::{Sometimes, Violation},
    dice::Dice,
    fakes::{
        clients::{HERD, POISON},
        disk::slot,
        store::OutputAnswer,
    },
    faults::Fault,
    world::{Event, HostEvent, NodeEvent, World},
};
use domain::{
    ids::{AttemptId, TaskId},
    lease::Lease,
    outcome::{ExitFacts, FailureKind},
    resources::{Ledger, Reservation},
};
use protocol::Stream;
use provider_gateway::{
    agent,
    executor::{Adopted, Failure, Signal},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
}

pub(crate) struct Container {
    pub(crate) state: State,
    behaviour: Behaviour,
    started_at: Ms,
    pub(crate) written: [u64; 4],
    exit: ExitFacts,
    /// The request to stop has reached the process.
    is_stopping: bool,
    supervisor: Option<Supervisor>,
}

/// What stands beside a process of exclusive work: starts it once it has a lease, and ends it with it.
struct Supervisor {
    task: TaskId,
    terms: Lease,
    /// By the machine's clock. Until the first renewal: how long it waits for that.
    ends_at: agent::Millis,
    has_begun: bool,
    is_ending: bool,
}

impl Container {
    /// A process of exclusive work is alive in it.
    fn runs_exclusively(&self, task: TaskId) -> bool {
        let is_begun = |supervisor: &Supervisor| supervisor.has_begun && supervisor.task == task;
        self.state == State::Running && self.supervisor.as_ref().is_some_and(is_begun)
    }
}

/// What its process will do, drawn from the attempt's id.
struct Behaviour {
    runs_ms: Ms,
    code: i32,
    writes: Vec<(Ms, Stream, u64)>,
    is_stubborn: bool,
    stops_in_ms: Ms,
    code_when_stopped: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Prepare,
    Start,
    Adopt,
    Remove,
    /// What it leaves travels to the object store.
    Store {
        due: u32,
    },
    /// The directory of what runs does.
    Checkpoint,
    Signal {
        signal: Signal,
        since: Ms,
    },
    Renew {
        sent_at: agent::Millis,
    },
}

/// How far an agent got with what an attempt leaves.
enum Storing {
    Over(Result<(), Failure>),
    /// Docker is away, or the platform can't be reached: the agent waits.
    Later,
}

impl World {
    fn behaviour(&self, n: usize, attempt: AttemptId) -> Behaviour {
        let timeout_ms = self.nodes[n].agent.assignment(attempt).and_then(|assign| assign.spec.timeout_ms);
        let mut dice = Dice::new(self.plan.seed, (1 << 32) + attempt.as_uuid().as_u128() as u64 % (1 << 32));
        // Some would run for ever; only those with a timeout may, since everything must end at last.
        let runs_ms = match timeout_ms {
            Some(timeout_ms) if dice.chance(0.4) => timeout_ms * 20,
            _ => dice.log_uniform(50, 120_000),
        };
        let is_of_herd = self.nodes[n].agent.assignment(attempt).is_some_and(|assign| assign.spec.name == HERD);
        let runs_ms = if is_of_herd { runs_ms.min(dice.log_uniform(50, 4_000)) } else { runs_ms };
        let mut writes: Vec<(Ms, Stream, u64)> = (0..dice.between(0, 5))
            .map(|_| {
                let stream = if dice.chance(0.7) { Stream::Stdout } else { Stream::Stderr };
                (dice.between(0, runs_ms - 1), stream, dice.log_uniform(1, 300))
            })
            .collect();
        writes.sort_by_key(|(at, ..)| *at);
        Behaviour {
            runs_ms,
            code: if dice.chance(0.75) { 0 } else { *dice.pick(&[1, 3, 75]) },
            writes,
            is_stubborn: self.plan.has(Fault::Stubborn) && dice.chance(0.3),
            stops_in_ms: dice.log_uniform(1, 3_000),
            code_when_stopped: match () {
                () if dice.chance(0.3) => 0,
                // It has saved what it did.
                () if dice.chance(0.6) => 75,
                () => 143,
            },
        }
    }

    fn docker_latency(&mut self) -> Ms {
        let (low, high) = self.plan.knobs.docker_ms;
        self.dice.log_uniform(low, high)
    }

    /// Asks the machine for something; the answer comes to this run of the agent only.
    pub(crate) fn ask_executor(&mut self, n: usize, attempt: AttemptId, op: Op) {
        let latency = match op {
            Op::Prepare if self.nodes[n].black_hole_until > self.now => 50,
            Op::Prepare => self.docker_latency() * self.dice.between(1, 10),
            Op::Remove if self.has(Fault::SlowRemoval) && self.dice.chance(0.3) => self.dice.log_uniform(1_000, 40_000),
            // As large as they are.
            Op::Store { .. } | Op::Checkpoint => self.docker_latency() + self.dice.log_uniform(10, 60_000),
            Op::Start | Op::Adopt | Op::Remove | Op::Signal { .. } | Op::Renew { .. } => self.docker_latency(),
        };
        let run = self.nodes[n].process.run;
        if op == Op::Start {
            // As the real executor: the mark is on disk before Docker is asked.
            self.nodes[n].disk.attempts.entry(attempt).or_default().started_mark = true;
        }
        if matches!(op, Op::Start | Op::Prepare | Op::Remove) {
            self.nodes[n].asked.insert(attempt, op);
        }
        let boot = self.nodes[n].boot;
        self.after(latency, Event::Host { node: n, boot, event: HostEvent::Op { attempt, op, run } });
    }

    /// The agent died in the middle of requests: Docker did each, or never heard of it.
    pub(crate) fn resolve_asked(&mut self, n: usize) {
        for (attempt, op) in std::mem::take(&mut self.nodes[n].asked) {
            if self.dice.chance(0.4) && self.nodes[n].docker_up {
                let _ = self.perform(n, attempt, op);
            }
        }
    }

    pub(crate) fn host_hears(&mut self, n: usize, event: HostEvent) {
        match event {
            HostEvent::Op { attempt, op, run } => {
                if self.nodes[n].process.run != run {
                    return;
                }
                if let Op::Signal { signal, since } = op {
                    self.signal(n, attempt, signal, since);
                    return;
                }
                if let Op::Renew { sent_at } = op {
                    self.renew(n, attempt, sent_at);
                    return;
                }
                let is_dropped = match op {
                    Op::Prepare => !self.nodes[n].preparing.contains(&attempt),
                    Op::Store { .. } => !self.nodes[n].storing.remove(&attempt),
                    Op::Checkpoint => !self.nodes[n].checkpointing.remove(&attempt),
                    _ => false,
                };
                if self.nodes[n].asked.get(&attempt) == Some(&op) {
                    self.nodes[n].asked.remove(&attempt);
                }
                if is_dropped {
                    return;
                }
                if let Some(answer) = self.perform(n, attempt, op) {
                    self.after(0, Event::Node { node: n, run, event: NodeEvent::Done(Box::new(answer)) });
                }
            }
            HostEvent::LeaseOver { attempt } => self.look_at_lease(n, attempt),
            HostEvent::Resume => self.resume(n),
            HostEvent::Write { attempt, index } => self.write(n, attempt, index),
            HostEvent::Exit { attempt, exit } => self.exit(n, attempt, exit),
            HostEvent::DockerBack => {
                self.nodes[n].docker_up = true;
                for attempt in self.nodes[n].collecting.clone() {
                    self.collect(n, attempt);
                }
            }
        }
    }

    /// What Docker does, and what it answers.
    fn perform(&mut self, n: usize, attempt: AttemptId, op: Op) -> Option<agent::Event> {
        use agent::Event as Done;
        let away = || Failure::node("Docker does not answer");
        let is_up = self.nodes[n].docker_up;
        Some(match op {
            Op::Prepare => {
                let outcome = if !is_up {
                    Err(away())
                } else if self.nodes[n].black_hole_until > self.now {
                    Err(Failure::node("no space left on device"))
                } else if self.has(Fault::PrepareFails) && self.dice.chance(0.25) {
                    let kind = *self.dice.pick(&[
                        FailureKind::BuildFailed,
                        FailureKind::NodeError,
                        FailureKind::SourceUnavailable,
                    ]);
                    Err(Failure::new(kind, "it could not be prepared"))
                } else {
                    self.create(n, attempt);
                    let mut provenance = serde_json::Map::new();
                    if attempt.as_uuid().as_u128().is_multiple_of(2) {
                        provenance.insert("image".into(), "sha256:1".into());
                    }
                    Ok(provenance)
                };
                Done::Prepared { attempt, outcome }
            }
            Op::Start => {
                let refused = self.has(Fault::StartFails) && self.dice.chance(0.15);
                let started =
                    if is_up && (!refused || self.dice.chance(0.4)) { self.start(n, attempt) } else { Err(away()) };
                if refused && started.is_ok() {
                    self.checker.start_denied(attempt);
                }
                // It may be up although the answer says otherwise.
                let outcome = if refused { Err(Failure::node("Docker gave no answer in time")) } else { started };
                Done::Started { attempt, outcome }
            }
            Op::Adopt => Done::Adopted { attempt, found: self.find(n, attempt) },
            Op::Remove => {
                let outcome = if is_up {
                    self.nodes[n].containers.remove(&attempt);
                    Ok(())
                } else {
                    self.hit(Sometimes::RemovalRetried);
                    Err(away())
                };
                Done::Removed { attempt, outcome }
            }
            Op::Checkpoint => {
                // Docker or the store may be away, or something be written just then.
                let is_settled = is_up && self.nodes[n].partitioned_until <= self.now && self.dice.chance(0.7);
                if is_settled {
                    self.hit(Sometimes::CheckpointTaken);
                }
                Done::CheckpointTried { attempt, is_settled }
            }
            Op::Store { due } => match self.store_outputs(n, attempt, due) {
                Storing::Over(outcome) => Done::OutputsStored { attempt, outcome },
                Storing::Later => {
                    self.nodes[n].storing.insert(attempt);
                    self.ask_executor(n, attempt, op);
                    return None;
                }
            },
            Op::Signal { .. } | Op::Renew { .. } => return None,
        })
    }

    /// What the executor and the platform say to each output in its turn, as far as it gets this time.
    fn store_outputs(&mut self, n: usize, attempt: AttemptId, due: u32) -> Storing {
        let node = &self.nodes[n];
        let is_away = !node.docker_up || node.partitioned_until > self.now || self.database_away_until > self.now;
        let Some(held) = node.agent.assignment(attempt).map(|assign| assign.held).filter(|_| !is_away) else {
            return Storing::Later;
        };
        if !node.containers.contains_key(&attempt) {
            return Storing::Over(Err(Failure::node("The container is gone, and its outputs with it.")));
        }
        if due > 0 && self.dice.chance(0.1) {
            return Storing::Over(Err(Failure::new(FailureKind::OutputFailed, "nothing matches out")));
        }
        for index in 0..due {
            // They are large, and an answer may be lost.
            if self.dice.chance(0.3) {
                return Storing::Later;
            }
            match self.store.complete_output(self.nodes[n].id, held, index) {
                OutputAnswer::Stored => {}
                OutputAnswer::NotYet => return Storing::Later,
                OutputAnswer::Fenced => {
                    self.hit(Sometimes::OutputFenced);
                    // The agent is told to stop, unless the platform forgets it: so it asks again.
                    return Storing::Later;
                }
                OutputAnswer::Ended | OutputAnswer::Forgotten => {
                    let failure = Failure::new(FailureKind::OutputFailed, "the platform keeps nothing more of it");
                    return Storing::Over(Err(failure));
                }
            }
        }
        if self.dice.chance(0.2) { Storing::Later } else { Storing::Over(Ok(())) }
    }

    fn create(&mut self, n: usize, attempt: AttemptId) {
        let behaviour = self.behaviour(n, attempt);
        let supervisor = self.nodes[n].agent.assignment(attempt).and_then(|assign| {
            let terms = assign.lease?;
            Some(Supervisor { task: assign.task, terms, ends_at: 0, has_begun: false, is_ending: false })
        });
        self.nodes[n].containers.entry(attempt).or_insert(Container {
            state: State::Created,
            behaviour,
            started_at: 0,
            written: [0; 4],
            exit: ExitFacts::default(),
            is_stopping: false,
            supervisor,
        });
    }

    fn start(&mut self, n: usize, attempt: AttemptId) -> Result<(), Failure> {
        let (now, clock) = (self.now, self.boot_millis(n));
        let Some(container) = self.nodes[n].containers.get_mut(&attempt) else {
            return Err(Failure::node("no such container"));
        };
        if container.state != State::Created {
            return Ok(());
        }
        container.state = State::Running;
        container.started_at = now;
        self.check_room(n);
        let Some(container) = self.nodes[n].containers.get_mut(&attempt) else { return Ok(()) };
        if let Some(supervisor) = &mut container.supervisor {
            supervisor.ends_at = clock + supervisor.terms.period_ms;
            self.look_at_lease(n, attempt);
        } else {
            self.begin(n, attempt);
        }
        Ok(())
    }

    /// Whatever was sent ahead of its room: what runs on a machine is never more than it has.
    fn check_room(&mut self, n: usize) {
        let node = &self.nodes[n];
        let running = node.containers.iter().filter(|(_, container)| container.state == State::Running);
        let assigned: Vec<_> = running.filter_map(|(id, _)| node.agent.assignment(*id)).collect();
        let mut ledger = Ledger::new(node.facts.capacity.clone());
        assigned.iter().for_each(|assign| ledger.hold(&Reservation::of(&assign.spec.requirements.amounts)));
        if assigned.iter().any(|assign| assign.ahead) && ledger.is_overcommitted() {
            let names: Vec<_> = assigned.iter().map(|assign| (assign.held.attempt, assign.ahead)).collect();
            self.violate(Violation::new("I19 a machine runs no more than it has", format!("node {n}: {names:?}")));
        }
    }

    /// The user's program runs.
    fn begin(&mut self, n: usize, attempt: AttemptId) {
        let (now, boot) = (self.now, self.nodes[n].boot);
        let Some(container) = self.nodes[n].containers.get(&attempt) else { return };
        let ends_at = now + container.behaviour.runs_ms;
        let code = container.behaviour.code;
        let writes: Vec<Ms> = container.behaviour.writes.iter().map(|(at, ..)| now + at).collect();
        for (index, at) in writes.into_iter().enumerate() {
            self.at(at, Event::Host { node: n, boot, event: HostEvent::Write { attempt, index } });
        }
        let exit = ExitFacts { code: Some(code), ..ExitFacts::default() };
        self.at(ends_at, Event::Host { node: n, boot, event: HostEvent::Exit { attempt, exit } });
        let broken = self.checker.process_started(attempt, now);
        broken.into_iter().for_each(|violation| self.violate(violation));
        let is_poison = self.nodes[n].agent.assignment(attempt).is_some_and(|assign| assign.spec.name == POISON);
        if is_poison && self.has(Fault::Poison) {
            let (count, for_ms) = (self.nodes.len() as u64, self.dice.log_uniform(1_000, 30_000));
            let draw = n as u64 + count * self.dice.between(0, 1_000);
            let delay = self.dice.log_uniform(500, 10_000);
            self.after(delay, Event::Strike { fault: Fault::HostCrash, draw, for_ms });
        }
        let supervisor = self.nodes[n].containers.get(&attempt).and_then(|container| container.supervisor.as_ref());
        if let Some(task) = supervisor.map(|supervisor| supervisor.task) {
            self.last_begun.insert(task, attempt);
            self.check_alone(n, attempt);
        }
    }

    /// The supervisor hears of a heartbeat that was sent then and acknowledged.
    fn renew(&mut self, n: usize, attempt: AttemptId, sent_at: agent::Millis) {
        let clock = self.boot_millis(n);
        let node = &mut self.nodes[n];
        let container = node.containers.get_mut(&attempt).filter(|c| node.docker_up && c.state == State::Running);
        let Some(supervisor) = container.and_then(|container| container.supervisor.as_mut()) else { return };
        let ends_at = sent_at + supervisor.terms.period_ms;
        if supervisor.is_ending || clock >= ends_at || clock >= supervisor.ends_at {
            return;
        }
        if supervisor.has_begun {
            supervisor.ends_at = supervisor.ends_at.max(ends_at);
        } else {
            (supervisor.has_begun, supervisor.ends_at) = (true, ends_at);
            self.begin(n, attempt);
            // The timer of the wait for this is later.
            self.look_at_lease(n, attempt);
        }
    }

    /// At its end the process is asked to stop; what is there at the end of the short grace, or woke up after it, is killed at once.
    fn look_at_lease(&mut self, n: usize, attempt: AttemptId) {
        let (clock, boot) = (self.boot_millis(n), self.nodes[n].boot);
        let Some(container) = self.nodes[n].containers.get_mut(&attempt).filter(|c| c.state == State::Running) else {
            return;
        };
        let Some(supervisor) = container.supervisor.as_mut().filter(|supervisor| !supervisor.is_ending) else { return };
        if clock < supervisor.ends_at {
            let event = Event::Host { node: n, boot, event: HostEvent::LeaseOver { attempt } };
            let wait = supervisor.ends_at - clock;
            self.after(wait, event);
            return;
        }
        if self.plan.planted.agent_alone_fences {
            return;
        }
        supervisor.is_ending = true;
        let kill_in = (supervisor.ends_at + supervisor.terms.grace_ms).saturating_sub(clock);
        let stops_in = if container.behaviour.is_stubborn { kill_in } else { container.behaviour.stops_in_ms };
        let (delay, has_begun) = (stops_in.min(kill_in), supervisor.has_begun);
        self.checker.process_signalled(attempt);
        if has_begun {
            self.hit(Sometimes::SelfFenceFired);
        }
        let exit = ExitFacts { code: Some(agent::SELF_FENCED), ..ExitFacts::default() };
        if delay == 0 {
            self.exit(n, attempt, exit);
        } else {
            self.after(delay, Event::Host { node: n, boot, event: HostEvent::Exit { attempt, exit } });
        }
    }

    /// The machine wakes up: timers that ran out meanwhile fire before anything else.
    fn resume(&mut self, n: usize) {
        let running: Vec<AttemptId> =
            self.nodes[n].containers.iter().filter(|(_, c)| c.state == State::Running).map(|(id, _)| *id).collect();
        for attempt in &running {
            self.end_late(n, *attempt);
            self.look_at_lease(n, *attempt);
        }
        for attempt in running {
            self.check_alone(n, attempt);
        }
    }

    /// What was to be killed while the machine slept is killed now.
    fn end_late(&mut self, n: usize, attempt: AttemptId) {
        let clock = self.boot_millis(n);
        let supervisor = self.nodes[n].containers.get(&attempt).and_then(|container| container.supervisor.as_ref());
        let is_late = supervisor.is_some_and(|s| s.is_ending && clock >= s.ends_at + s.terms.grace_ms);
        if is_late {
            self.exit(n, attempt, ExitFacts { code: Some(agent::SELF_FENCED), ..ExitFacts::default() });
        }
    }

    /// Of an exclusive task no other process is alive anywhere. One on a machine that sleeps does nothing.
    fn check_alone(&mut self, n: usize, attempt: AttemptId) {
        let container = self.nodes[n].containers.get(&attempt);
        let Some(supervisor) = container.and_then(|container| container.supervisor.as_ref()) else { return };
        let task = supervisor.task;
        if !container.is_some_and(|container| container.runs_exclusively(task)) {
            return;
        }
        if let Some(later) = self.last_begun.get(&task).filter(|last| **last != attempt) {
            let detail = format!("{task:?}: {attempt:?} on node {n} wakes up, and {later:?} was begun meanwhile");
            self.violate(Violation::new("I12 an exclusive task never has two live processes", detail));
            return;
        }
        let awake = self.nodes.iter().enumerate().filter(|(_, node)| node.is_up && node.suspended_until <= self.now);
        let other = awake
            .flat_map(|(m, node)| node.containers.iter().map(move |(id, container)| (m, *id, container)))
            .find(|(_, id, container)| *id != attempt && container.runs_exclusively(task));
        if let Some((m, id, _)) = other {
            let detail = format!("{task:?}: {attempt:?} on node {n}, {id:?} on node {m}");
            self.violate(Violation::new("I12 an exclusive task never has two live processes", detail));
        }
    }

    fn find(&mut self, n: usize, attempt: AttemptId) -> Adopted {
        let node = &self.nodes[n];
        let is_marked = node.disk.attempts.get(&attempt).is_some_and(|directory| directory.started_mark);
        let (found, hit) = match node.containers.get(&attempt).map(|container| container.state) {
            _ if !node.docker_up => (Adopted::Unknown, Some(Sometimes::AdoptionUnknown)),
            Some(State::Created) => (Adopted::NotStarted, None),
            Some(State::Running) => (Adopted::Running, Some(Sometimes::AdoptedRunning)),
            Some(State::Exited) => (Adopted::Exited, Some(Sometimes::ExitRecovered)),
            None if is_marked => (Adopted::Gone, Some(Sometimes::AdoptionFoundItGone)),
            None => (Adopted::NotStarted, None),
        };
        if let Some(hit) = hit {
            self.hit(hit);
        }
        found
    }

    fn signal(&mut self, n: usize, attempt: AttemptId, signal: Signal, since: Ms) {
        let (now, boot, run) = (self.now, self.nodes[n].boot, self.nodes[n].process.run);
        if !self.nodes[n].docker_up {
            // Tried again for 20 s, then given up.
            if now < since + 20_000 {
                let op = Op::Signal { signal, since };
                self.after(500, Event::Host { node: n, boot, event: HostEvent::Op { attempt, op, run } });
            }
            return;
        }
        let Some(container) = self.nodes[n].containers.get_mut(&attempt).filter(|c| c.state == State::Running) else {
            return;
        };
        self.checker.process_signalled(attempt);
        let is_waiting = container.supervisor.as_ref().is_some_and(|supervisor| !supervisor.has_begun);
        let (code, delay) = match signal {
            Signal::Kill => (137, 1),
            Signal::Stop if is_waiting => (143, 1),
            Signal::Stop if container.behaviour.is_stubborn || container.is_stopping => return,
            Signal::Stop => {
                container.is_stopping = true;
                (container.behaviour.code_when_stopped, container.behaviour.stops_in_ms)
            }
        };
        let exit = ExitFacts { code: Some(code), signal: (code > 128).then(|| code - 128), ..ExitFacts::default() };
        self.after(delay, Event::Host { node: n, boot, event: HostEvent::Exit { attempt, exit } });
    }

    fn write(&mut self, n: usize, attempt: AttemptId, index: usize) {
        let Some(container) = self.nodes[n].containers.get_mut(&attempt).filter(|c| c.state == State::Running) else {
            return;
        };
        let (_, stream, len) = container.behaviour.writes[index];
        container.written[slot(stream)] += len;
        let written = container.written;
        self.checker.process_wrote(attempt, written);
        self.collect(n, attempt);
    }

    fn exit(&mut self, n: usize, attempt: AttemptId, mut exit: ExitFacts) {
        let now = self.now;
        let Some(container) = self.nodes[n].containers.get_mut(&attempt).filter(|c| c.state == State::Running) else {
            return;
        };
        if container.supervisor.as_ref().is_some_and(|supervisor| supervisor.is_ending) {
            (exit.code, exit.signal) = (Some(agent::SELF_FENCED), None);
        }
        exit.duration_ms = now - container.started_at;
        if container.supervisor.as_ref().is_none_or(|supervisor| supervisor.has_begun) {
            let broken = self.checker.process_ended(n, attempt, now, &self.store);
            self.violation = self.violation.take().or(broken);
        }
        container.state = State::Exited;
        container.exit = exit;
        self.collect(n, attempt);
    }

    /// Copies what the container wrote and the log has not; when it has ended, the facts follow.
    pub(crate) fn collect(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        if !node.collecting.contains(&attempt) || !node.docker_up || !node.process.is_up {
            return;
        }
        let run = node.process.run;
        let Some(container) = node.containers.get(&attempt) else {
            node.collecting.remove(&attempt);
            let gone = Failure::node("The container was removed by somebody else before its end was recorded.");
            let event = NodeEvent::Done(Box::new(agent::Event::Collected { attempt, outcome: Err(gone) }));
            self.after(1, Event::Node { node: n, run, event });
            return;
        };
        let Some(directory) = node.disk.attempts.get_mut(&attempt) else { return };
        for stream in Stream::ALL {
            let new = container.written[slot(stream)].saturating_sub(directory.spool.next[slot(stream)]);
            let knobs = &self.plan.knobs;
            if directory.spool.append(stream, new, knobs.log_piece_bytes, knobs.spool_bytes, self.now) {
                self.checker.hits.add(Sometimes::SpoolFull);
            }
        }
        if container.state == State::Exited {
            node.collecting.remove(&attempt);
            let exit = container.exit.clone();
            let latency = self.docker_latency();
            let event = NodeEvent::Done(Box::new(agent::Event::Collected { attempt, outcome: Ok(exit) }));
            self.after(latency, Event::Node { node: n, run, event });
        }
        self.pump_logs(n);
    }

    /// Power is lost: what ran is gone, what was only created is still there.
    pub(crate) fn containers_die(&mut self, n: usize) {
        let running: Vec<AttemptId> =
            self.nodes[n].containers.iter().filter(|(_, c)| c.state == State::Running).map(|(id, _)| *id).collect();
        for attempt in running {
            self.nodes[n].containers.remove(&attempt);
        }
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}
