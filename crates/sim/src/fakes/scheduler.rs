//! A scheduler: leads or stands by, and while it leads places what waits with the product's own `placement::Watched`: it remembers
//! the nodes, and reads again what a hint names, what a commit has found to be otherwise, and everything from time to time.

use crate::{
    Ms, Sometimes,
    fakes::{
        database::{Answer, Call, ReplyTo},
        store::{Leadership, Role, StoreError, Topic},
    },
    world::{Event, Process, SchedulerEvent, World},
};
use domain::placement::{Asked, Head, Placement, Short, Strategy, Turns, Unread, Watched, before};
use std::{collections::BTreeSet, time::Duration};

/// From one look at all nodes to the next.
const ROUND_EVERY_MS: Ms = 5_000;
/// From one count of who has how much to the next.
const COUNT_EVERY_MS: Ms = 1_000;
/// The wait after which age counts.
const AGEING: Duration = Duration::from_secs(20);
/// Passes that follow at once although all that was planned had become untrue.
const VAIN_PASSES: u32 = 3;

pub(crate) struct Scheduler {
    pub(crate) process: Process,
    leadership: Option<Leadership>,
    nodes: Watched,
    turns: Turns,
    counted_at: Ms,
    /// When all nodes were read the last time.
    read_at: Ms,
    /// One step at a time, as behind the real one's mutex.
    is_busy: bool,
    wants_renewal: bool,
    wants_pass: bool,
    /// The leadership under which the pass under way began.
    passing_as: Option<Leadership>,
    /// What is being read.
    reading: Option<Unread>,
    /// What is being committed.
    plan: Vec<Placement>,
    in_vain: u32,
}

impl Scheduler {
    pub(crate) fn new() -> Self {
        Self::of(Strategy::LeastLoaded, Short::default(), Process::default())
    }

    fn of(strategy: Strategy, short: Short, process: Process) -> Self {
        Self {
            process,
            leadership: None,
            nodes: Watched::new(strategy).with_short(short),
            turns: Turns::default(),
            counted_at: 0,
            read_at: 0,
            is_busy: false,
            wants_renewal: false,
            wants_pass: false,
            passing_as: None,
            reading: None,
            plan: Vec::new(),
            in_vain: 0,
        }
    }

    fn forget_nodes(&mut self) {
        self.nodes.hear(Unread { everything: true, ..Unread::default() });
    }
}

impl World {
    pub(crate) fn start_scheduler(&mut self, s: usize) {
        let strategy =
            *self.dice.pick(&[Strategy::LeastLoaded, Strategy::RoundRobin, Strategy::Pack, Strategy::Random]);
        let scheduler = &mut self.schedulers[s];
        let mut process = scheduler.process;
        process.start();
        *scheduler = Scheduler::of(strategy, self.plan.knobs.short, process);
        let run = process.run;
        self.after(0, Event::Scheduler { scheduler: s, run, event: SchedulerEvent::Tick });
    }

    pub(crate) fn scheduler_event(&mut self, s: usize, event: SchedulerEvent) {
        match event {
            SchedulerEvent::Tick => {
                let run = self.schedulers[s].process.run;
                self.after(
                    self.plan.knobs.pass_every_ms,
                    Event::Scheduler { scheduler: s, run, event: SchedulerEvent::Tick },
                );
                self.schedulers[s].wants_renewal = true;
                self.schedulers[s].wants_pass = true;
                self.next_step(s);
            }
            SchedulerEvent::Hint(topic) => {
                let mut hint = Unread::default();
                match topic {
                    Topic::Room(node) => _ = hint.nodes.insert(node),
                    Topic::Freed(attempt) => _ = hint.freed.insert(attempt),
                    Topic::Queue | Topic::Node(_) => {}
                }
                self.schedulers[s].nodes.hear(hint);
                self.schedulers[s].wants_pass = true;
                self.next_step(s);
            }
            SchedulerEvent::Answered(answer) => {
                self.schedulers[s].is_busy = false;
                self.scheduler_answered(s, answer);
                self.next_step(s);
            }
        }
    }

    fn next_step(&mut self, s: usize) {
        let scheduler = &mut self.schedulers[s];
        if scheduler.is_busy || !scheduler.process.is_up {
            return;
        }
        if scheduler.wants_pass && scheduler.leadership.is_some() {
            scheduler.wants_pass = false;
            scheduler.passing_as = scheduler.leadership;
            if self.now - scheduler.read_at >= ROUND_EVERY_MS {
                scheduler.forget_nodes();
            }
            self.pass_on(s);
        } else if scheduler.wants_renewal {
            scheduler.wants_renewal = false;
            let holder = process_number(s, scheduler.process.run);
            let known = scheduler.leadership;
            self.scheduler_calls(s, Call::Lead { role: Role::Scheduler, holder, known });
        }
    }

    fn scheduler_calls(&mut self, s: usize, call: Call) {
        self.schedulers[s].is_busy = true;
        let run = self.schedulers[s].process.run;
        self.call(ReplyTo::Scheduler { scheduler: s, run }, call);
    }

    /// Reads what is known to be out of date, one after another, then the queue.
    fn pass_on(&mut self, s: usize) {
        let now = self.now;
        let nodes = &mut self.schedulers[s].nodes;
        let unread = nodes.take_unread(now);
        let freed_by_hint = !unread.freed.is_empty();
        let call = if unread.everything {
            Call::ReadNodes(None)
        } else if !unread.nodes.is_empty() {
            Call::ReadNodes(Some(unread.nodes.clone()))
        } else {
            Call::Heads
        };
        if freed_by_hint {
            self.hit(Sometimes::FreedByHint);
        }
        if !matches!(call, Call::Heads) {
            self.schedulers[s].reading = Some(unread);
        }
        self.scheduler_calls(s, call);
    }

    fn scheduler_answered(&mut self, s: usize, answer: Result<Answer, StoreError>) {
        let now = self.now;
        let scheduler = &mut self.schedulers[s];
        let reading = scheduler.reading.take();
        let plan = std::mem::take(&mut scheduler.plan);
        match (answer, reading) {
            (Ok(Answer::Led(leadership)), _) => {
                if leadership.map(|it| it.epoch) != scheduler.leadership.map(|it| it.epoch) {
                    scheduler.forget_nodes();
                }
                scheduler.leadership = leadership;
            }
            (Ok(Answer::Nodes(readings)), Some(asked)) => {
                if asked.everything {
                    scheduler.read_at = now;
                    scheduler.nodes.read(&Asked::Range(None, None), readings);
                } else {
                    scheduler.nodes.read(&Asked::Nodes(asked.nodes), readings);
                }
                self.pass_on(s);
            }
            (Ok(Answer::Heads(mut heads, live, at)), _) => {
                let Some(leadership) = scheduler.passing_as.take() else { return };
                let projects: BTreeSet<_> = heads.iter().map(|head| head.project).collect();
                let is_due = now - scheduler.counted_at >= COUNT_EVERY_MS || !scheduler.turns.knows(&projects);
                if projects.len() > 1 && is_due {
                    scheduler.turns.count_anew(live);
                    scheduler.counted_at = now;
                }
                scheduler.turns.old_until(before(at, AGEING));
                let dice = &mut self.dice;
                let mut plan = scheduler.nodes.plan(&mut heads, &mut scheduler.turns, || dice.unit());
                let is_left = |head: &&Head| plan.iter().all(|placement| placement.task != head.task);
                let left: Vec<Head> = heads.iter().filter(is_left).cloned().collect();
                plan.extend(scheduler.nodes.plan_ahead(&left, [], &mut scheduler.turns, at));
                if !plan.is_empty() {
                    scheduler.plan = plan.clone();
                    let found = turns_of(&heads, &plan);
                    found.into_iter().for_each(|what| self.hit(what));
                    self.scheduler_calls(s, Call::Commit { leadership, plan });
                }
            }
            (Ok(Answer::Leased(leases)), _) => {
                let is_stale = leases.len() < plan.len();
                scheduler.nodes.committed(plan, &leases);
                scheduler.in_vain = if leases.is_empty() { scheduler.in_vain + 1 } else { 0 };
                // Where something was placed, the next of its class may fit too.
                scheduler.wants_pass |= !leases.is_empty() || is_stale && scheduler.in_vain < VAIN_PASSES;
            }
            (Err(StoreError::NotLeader), _) => {
                scheduler.leadership = None;
                scheduler.forget_nodes();
            }
            (Err(StoreError::Unavailable), reading) => {
                scheduler.nodes.in_doubt(&plan);
                reading.into_iter().for_each(|unread| scheduler.nodes.hear(unread));
            }
            (Ok(_), _) => {}
        }
    }
}

/// What is to be seen in a plan for these heads, which are in the order of urgency and age.
fn turns_of(heads: &[Head], plan: &[Placement]) -> Vec<Sometimes> {
    let position = |placement: &Placement| heads.iter().position(|head| head.task == placement.task);
    let order: Vec<usize> = plan.iter().filter_map(position).collect();
    let mut seen = Vec::new();
    for pair in order.windows(2).filter(|pair| pair[0] > pair[1]) {
        let (first, second) = (&heads[pair[0]], &heads[pair[1]]);
        if first.priority < second.priority {
            seen.push(Sometimes::OldBeforeUrgent);
        } else if first.project != second.project {
            seen.push(Sometimes::ProjectsTookTurns);
        }
    }
    seen
}

/// A new process is a new holder.
pub(crate) fn process_number(index: usize, run: u64) -> u64 {
    (index as u64 + 1) * 1_000_000 + run
}
