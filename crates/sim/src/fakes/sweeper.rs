//! A sweeper: while it leads it marks silent nodes offline, queues what may be replaced, and ends waits.

use crate::{
    fakes::{
        database::{Answer, Call, ReplyTo},
        scheduler::process_number,
        store::{Leadership, Role, StoreError},
    },
    world::{Event, Process, SweeperEvent, World},
};

#[derive(Default)]
pub(crate) struct Sweeper {
    pub(crate) process: Process,
    leadership: Option<Leadership>,
}

impl World {
    pub(crate) fn start_sweeper(&mut self, w: usize) {
        self.sweepers[w].process.start();
        self.sweepers[w].leadership = None;
        self.sweeper_after(w, 0, SweeperEvent::Tick);
    }

    fn sweeper_after(&mut self, w: usize, delay: u64, event: SweeperEvent) {
        let run = self.sweepers[w].process.run;
        self.after(delay, Event::Sweeper { sweeper: w, run, event });
    }

    pub(crate) fn sweeper_event(&mut self, w: usize, event: SweeperEvent) {
        let run = self.sweepers[w].process.run;
        match event {
            SweeperEvent::Tick => {
                let known = self.sweepers[w].leadership;
                let call = Call::Lead { role: Role::Sweeper, holder: process_number(w, run), known };
                self.call(ReplyTo::Sweeper { sweeper: w, run }, call);
            }
            SweeperEvent::Answered(Ok(Answer::Led(leadership))) => {
                self.sweepers[w].leadership = leadership;
                match leadership {
                    Some(leadership) => self.call(ReplyTo::Sweeper { sweeper: w, run }, Call::Sweep(leadership)),
                    None => self.sweeper_after(w, self.plan.knobs.pass_every_ms, SweeperEvent::Tick),
                }
            }
            SweeperEvent::Answered(answer) => {
                if answer.is_err_and(|error| error == StoreError::NotLeader) {
                    self.sweepers[w].leadership = None;
                }
                self.sweeper_after(w, self.plan.knobs.pass_every_ms, SweeperEvent::Tick);
            }
        }
    }
}
