//! A scheduler: leads or stands by, and while it leads places what waits with the product's own `placement::Fleet`.

use crate::{
    fakes::{
        database::{Answer, Call, ReplyTo},
        store::{Leadership, Role, StoreError},
    },
    world::{Event, Process, SchedulerEvent, World},
};
use domain::placement::{Fleet, Strategy};

pub(crate) struct Scheduler {
    pub(crate) process: Process,
    leadership: Option<Leadership>,
    fleet: Fleet,
    /// One step at a time, as behind the real one's mutex.
    is_busy: bool,
    wants_renewal: bool,
    wants_pass: bool,
    /// The leadership under which the pass under way began.
    passing_as: Option<Leadership>,
}

impl Scheduler {
    pub(crate) fn new() -> Self {
        Self {
            process: Process::default(),
            leadership: None,
            fleet: Fleet::new(Strategy::LeastLoaded),
            is_busy: false,
            wants_renewal: false,
            wants_pass: false,
            passing_as: None,
        }
    }
}

impl World {
    pub(crate) fn start_scheduler(&mut self, s: usize) {
        let strategy =
            *self.dice.pick(&[Strategy::LeastLoaded, Strategy::RoundRobin, Strategy::Pack, Strategy::Random]);
        let scheduler = &mut self.schedulers[s];
        let mut process = scheduler.process;
        process.start();
        *scheduler = Scheduler { process, fleet: Fleet::new(strategy), ..Scheduler::new() };
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
            SchedulerEvent::Hint => {
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
            self.scheduler_calls(s, Call::Snapshot);
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

    fn scheduler_answered(&mut self, s: usize, answer: Result<Answer, StoreError>) {
        match answer {
            Ok(Answer::Led(leadership)) => self.schedulers[s].leadership = leadership,
            Ok(Answer::Snapshot(mut snapshot)) => {
                let scheduler = &mut self.schedulers[s];
                let Some(leadership) = scheduler.passing_as.take() else { return };
                if snapshot.heads.is_empty() {
                    return;
                }
                let dice = &mut self.dice;
                scheduler.fleet.replace_all(std::mem::take(&mut snapshot.nodes));
                let plan = scheduler.fleet.plan(&mut snapshot.heads, || dice.unit());
                if !plan.is_empty() {
                    self.scheduler_calls(s, Call::Commit { leadership, plan });
                }
            }
            // Where something was placed, the next of its class may fit too.
            Ok(Answer::Committed(placed)) => self.schedulers[s].wants_pass |= placed > 0,
            Err(StoreError::NotLeader) => self.schedulers[s].leadership = None,
            Ok(_) | Err(StoreError::Unavailable) => {}
        }
    }
}

/// A new process is a new holder.
pub(crate) fn process_number(index: usize, run: u64) -> u64 {
    (index as u64 + 1) * 1_000_000 + run
}
