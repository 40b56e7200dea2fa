//! A sweeper: while it leads it has the product's `sweep` decide who is offline, queues what may be replaced, and ends waits.

use crate::{
    Ms, Sometimes,
    fakes::{
        database::{Answer, Call, ReplyTo},
        scheduler::process_number,
        store::{Leadership, Liveness, Role, StoreError},
    },
    world::{Event, Process, SweeperEvent, World},
};
use domain::{
    Timestamp,
    sweep::{self, ABSENT_AFTER_MS, Findings, Limits, Memory, Platform, Sight},
};

#[derive(Default)]
pub(crate) struct Sweeper {
    pub(crate) process: Process,
    /// What it is told at its start, if not what everybody was told; and whether that counts by now.
    pub(crate) told_ms: Option<u64>,
    has_set: bool,
    leadership: Option<Leadership>,
    asked_at: Ms,
    memory: Memory,
    /// It counts once what was found is written.
    next: Memory,
}

impl World {
    pub(crate) fn start_sweeper(&mut self, w: usize) {
        let mut process = self.sweepers[w].process;
        process.start();
        let told_ms = self.sweepers[w].told_ms;
        self.sweepers[w] = Sweeper { process, told_ms, ..Sweeper::default() };
        self.sweeper_after(w, 0, SweeperEvent::Tick);
    }

    fn sweeper_after(&mut self, w: usize, delay: u64, event: SweeperEvent) {
        let run = self.sweepers[w].process.run;
        self.after(delay, Event::Sweeper { sweeper: w, run, event });
    }

    fn sweeper_calls(&mut self, w: usize, call: Call) {
        let run = self.sweepers[w].process.run;
        self.call(ReplyTo::Sweeper { sweeper: w, run }, call);
    }

    pub(crate) fn sweeper_event(&mut self, w: usize, event: SweeperEvent) {
        let answer = match event {
            SweeperEvent::Tick if !self.sweepers[w].has_set => {
                let ms = self.sweepers[w].told_ms.unwrap_or(self.plan.knobs.offline_s as u64 * 1_000);
                return self.sweeper_calls(w, Call::SetOfflineAfter(ms));
            }
            SweeperEvent::Tick => {
                let (run, known) = (self.sweepers[w].process.run, self.sweepers[w].leadership);
                let holder = process_number(w, run);
                return self.sweeper_calls(w, Call::Lead { role: Role::Sweeper, holder, known });
            }
            SweeperEvent::Answered(answer) => answer,
        };
        let sweeper = &mut self.sweepers[w];
        match (answer, sweeper.leadership) {
            (Ok(Answer::Led(Some(leadership))), _) => {
                sweeper.leadership = Some(leadership);
                sweeper.asked_at = self.now;
                return self.sweeper_calls(w, Call::Liveness);
            }
            (Ok(Answer::OfflineAfterSet), _) => {
                sweeper.has_set = true;
                return self.sweeper_after(w, 0, SweeperEvent::Tick);
            }
            (Ok(Answer::Led(None)), _) => sweeper.leadership = None,
            (Ok(Answer::Liveness(now, seen)), Some(leadership)) => return self.sweep(w, leadership, now, seen),
            (Ok(_), _) => sweeper.memory = std::mem::take(&mut sweeper.next),
            (Err(StoreError::NotLeader), _) => sweeper.leadership = None,
            (Err(StoreError::Unavailable), _) => {}
        }
        self.sweeper_after(w, self.plan.knobs.pass_every_ms, SweeperEvent::Tick);
    }

    fn sweep(&mut self, w: usize, leadership: Leadership, now: Timestamp, seen: Liveness) {
        let limits = Limits { offline_after_ms: seen.offline_after_ms, absent_after_ms: ABSENT_AFTER_MS };
        if !seen.longer.is_empty() {
            self.hit(Sometimes::LongerSilenceGiven);
        }
        let mut sight = Sight {
            epoch: leadership.epoch,
            asked_at: self.sweepers[w].asked_at,
            answered_at: self.now,
            now,
            seen_ms: seen.seen_ms,
            read_at: seen.read_at,
            platform: seen.platform,
            nodes: seen.nodes,
            longer: seen.longer,
        };
        if self.plan.planted.absence_counts {
            sight.platform = Some(Platform { since: Timestamp::UNIX_EPOCH, renewed_at: now });
        }
        let (mut findings, next) = sweep::sweep(&self.sweepers[w].memory, &sight, &limits);
        if self.plan.planted.clock_steps_count {
            let is_old = |beat: &Timestamp| (now - *beat).num_milliseconds() >= limits.offline_after_ms as i64;
            findings.offline = sight.nodes.into_iter().filter(|(_, beat)| is_old(beat)).collect();
        }
        self.sweepers[w].next = next;
        self.note_findings(&findings);
        self.sweeper_calls(w, Call::Sweep { leadership, as_of: now, findings: Box::new(findings) });
    }

    fn note_findings(&mut self, findings: &Findings) {
        if findings.alarm_changed && findings.alarm.is_some() {
            self.trace.say(self.now, || format!("    sweep: {:?}", findings.alarm));
            self.hit(Sometimes::BreakerTripped);
        }
        if findings.step.is_some() {
            self.trace.say(self.now, || format!("    sweep: {:?}", findings.step));
            self.hit(Sometimes::ClockStepNoticed);
        }
        if findings.spared > 0 && !findings.platform_is_away {
            self.hit(Sometimes::PlatformAbsenceNotCounted);
        }
    }
}
