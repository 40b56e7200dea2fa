//! Faults that strike at a moment, and the healing that ends them all.

use crate::{
    Ms,
    dice::Dice,
    fakes::{
        database::{Call, ReplyTo},
        disk::FakeDisk,
        net::LineId,
    },
    faults::Fault,
    world::{Event, HostEvent, NodeEvent, World},
};
use domain::node::Admission;
use provider_gateway::agent;

impl World {
    /// Every kind draws from its own stream, so that leaving one out does not move the others.
    pub(crate) fn plan_strikes(&mut self) {
        for fault in self.plan.faults.clone().into_iter().filter(|fault| fault.strikes()) {
            let mut dice = Dice::new(self.plan.seed, 100 + fault as u64);
            let most = (fault.often() * self.plan.chaos_ms / 600_000).max(1);
            for _ in 0..dice.between(1, most) {
                let at = dice.between(1_000, self.plan.chaos_ms - 1);
                let draw = dice.between(0, u64::MAX - 1);
                let for_ms = dice.log_uniform(200, 120_000);
                self.at(at, Event::Strike { fault, draw, for_ms });
            }
        }
    }

    pub(crate) fn strike(&mut self, fault: Fault, draw: u64, for_ms: Ms) {
        self.trace.say(self.now, || format!("*** {fault:?} for {for_ms} ms"));
        let n = (draw % self.nodes.len() as u64) as usize;
        self.strike_node(fault, n, draw, for_ms);
    }

    pub(crate) fn strike_node(&mut self, fault: Fault, n: usize, draw: u64, for_ms: Ms) {
        let until = self.now + for_ms;
        let pick = |count: usize| (draw % count as u64) as usize;
        // Nothing happens on a machine that is suspended.
        let needs_life = matches!(
            fault,
            Fault::AgentCrash | Fault::AgentPause | Fault::PlannedStop | Fault::DockerAway | Fault::HostSuspend
        );
        if needs_life && self.nodes[n].suspended_until > self.now {
            return;
        }
        match fault {
            Fault::GatewayCrash => {
                let gateway = pick(self.gateways.len());
                self.crash_gateway(gateway);
                self.after(for_ms, Event::StartGateway { gateway });
            }
            Fault::GatewayPause => {
                let gateway = pick(self.gateways.len());
                self.gateways[gateway].process.paused_until = until;
            }
            Fault::SchedulerCrash => {
                let scheduler = pick(self.schedulers.len());
                self.schedulers[scheduler].process.stop();
                self.after(for_ms, Event::StartScheduler { scheduler });
            }
            Fault::SchedulerPause => {
                let scheduler = pick(self.schedulers.len());
                self.schedulers[scheduler].process.paused_until = until;
            }
            Fault::SweeperCrash => {
                let sweeper = pick(self.sweepers.len());
                self.sweepers[sweeper].process.stop();
                self.after(for_ms, Event::StartSweeper { sweeper });
            }
            Fault::OfflineAfterSet => {
                let sweeper = pick(self.sweepers.len());
                // Half of it, as it was, or twice as long. (Half of it is three heartbeats.)
                let half_ms = self.plan.knobs.offline_s as u64 * 500;
                self.sweepers[sweeper].told_ms = Some(half_ms << ((draw >> 8) % 3));
                self.sweepers[sweeper].process.stop();
                self.after(2_000, Event::StartSweeper { sweeper });
            }
            Fault::AgentCrash => {
                self.checker.agent_away(n, self.now, for_ms);
                self.stop_agent(n, true);
                self.after(for_ms, Event::StartAgent { node: n });
            }
            Fault::AgentPause => {
                self.checker.agent_away(n, self.now, for_ms);
                self.nodes[n].process.paused_until = until;
            }
            Fault::PlannedStop => {
                if self.nodes[n].process.is_up && !self.nodes[n].is_stopping {
                    self.checker.incident();
                    self.nodes[n].is_stopping = true;
                    let grace_ms = self.plan.knobs.shutdown_grace_ms;
                    self.node_after(n, grace_ms + 3_000, NodeEvent::StopLate);
                    self.beat_at_once(n);
                    self.agent_event(n, agent::Event::ShutDown { grace_ms });
                    // Somebody has no patience and kills it.
                    if draw.is_multiple_of(3) {
                        self.after(
                            draw % grace_ms,
                            Event::Strike { fault: Fault::AgentCrash, draw, for_ms: for_ms.min(30_000) },
                        );
                    }
                }
            }
            Fault::HostCrash => self.crash_host(n, for_ms, draw),
            Fault::DiskLoss => {
                self.crash_host(n, for_ms, draw);
                self.nodes[n].containers.clear();
                self.nodes[n].disk = FakeDisk::default();
                self.nodes[n].instance = self.next_instance();
                let id = self.nodes[n].id;
                self.checker.disk_lost(id);
            }
            Fault::HostSuspend => {
                if self.nodes[n].is_up {
                    // Every other one is long enough for its work to be elsewhere when it wakes up.
                    let is_long = (draw >> 8).is_multiple_of(2);
                    let for_ms = if is_long { for_ms + self.plan.knobs.offline_s as u64 * 1_500 } else { for_ms };
                    let until = self.now + for_ms;
                    self.checker.agent_away(n, self.now, for_ms);
                    self.nodes[n].suspended_until = until;
                    self.nodes[n].suspended_ms += for_ms;
                    let boot = self.nodes[n].boot;
                    self.at(until, Event::Host { node: n, boot, event: HostEvent::Resume });
                }
            }
            Fault::NodeGone => {
                self.crash_host(n, for_ms, draw);
                self.nodes[n].is_gone = true;
            }
            Fault::LineBreak => self.of_lines(draw).into_iter().for_each(|line| self.cut(line, true)),
            Fault::HalfOpen => self.of_lines(draw).into_iter().for_each(|line| self.cut(line, false)),
            Fault::LineStall => self.of_lines(draw).into_iter().for_each(|line| self.stall(line, until)),
            Fault::Partition => {
                self.nodes[n].partitioned_until = until;
                if let Some(line) = self.nodes[n].line {
                    self.cut(line, false);
                }
            }
            Fault::DockerAway => {
                self.checker.agent_away(n, self.now, for_ms);
                self.nodes[n].docker_up = false;
                let boot = self.nodes[n].boot;
                self.after(for_ms, Event::Host { node: n, boot, event: HostEvent::DockerBack });
            }
            Fault::BlackHole => self.nodes[n].black_hole_until = until,
            Fault::DatabaseAway => self.database_away_until = until,
            Fault::AllGatewaysAway => {
                for gateway in 0..self.gateways.len() {
                    self.crash_gateway(gateway);
                    self.after(2 * for_ms + 10_000, Event::StartGateway { gateway });
                }
            }
            Fault::DatabaseClockStep => {
                let by_ms = 2_500 << ((draw >> 1) % 11);
                self.clock_ahead_ms += if draw.is_multiple_of(2) { by_ms } else { -by_ms };
            }
            Fault::BeatsLost => {
                let until = until + self.plan.knobs.offline_s as u64 * 1_000;
                // All of them now and then: then there is nobody to whom their work could go.
                for node in (0..self.nodes.len()).filter(|node| *node == n || draw.is_multiple_of(2)) {
                    self.nodes[node].beats_lost_until = until;
                }
            }
            Fault::MassSilence => {
                // Long enough to be noticed, and now and then longer than an alarm.
                let until = until + self.plan.knobs.offline_s as u64 * 1_000;
                let spared = (draw >> 8) as usize % self.nodes.len();
                for node in (0..self.nodes.len()).filter(|node| *node != spared || draw.is_multiple_of(2)) {
                    self.nodes[node].partitioned_until = until;
                    if let Some(line) = self.nodes[node].line {
                        self.cut(line, false);
                    }
                }
            }
            Fault::DiskFull => {
                self.nodes[n].disk_full_until = until;
                self.nodes[n].disk_full_is_known = false;
            }
            Fault::Restore => {
                // A backup of a moment ago has forgotten too little.
                let until = until.max(self.now + 15_000);
                if self.backup.is_none() && until < self.plan.chaos_ms {
                    self.backup = Some((self.store.back_up(), self.checker.books.clone()));
                    self.at(until, Event::Restore);
                }
            }
            Fault::NodeRevoked => {
                let (node, evict) = (self.nodes[n].id, draw.is_multiple_of(2));
                self.call(ReplyTo::Nobody, Call::Revoke { node, evict });
            }
            Fault::Drain => {
                // Some have a deadline, and what still runs then is moved.
                let deadline_ms = draw.is_multiple_of(2).then_some(for_ms / 4);
                if deadline_ms.is_some() {
                    self.checker.incident();
                }
                self.set_admission(n, Admission::Draining, deadline_ms);
                self.after(for_ms, Event::Reopen { node: n });
            }
            Fault::PrepareFails
            | Fault::StartFails
            | Fault::SlowRemoval
            | Fault::Stubborn
            | Fault::CommitUnknown
            | Fault::CommitFails
            | Fault::CommitInDoubt
            | Fault::SlowQueries
            | Fault::HintsLost
            | Fault::Poison => {}
        }
    }

    fn of_lines(&self, draw: u64) -> Option<LineId> {
        self.lines.keys().nth(draw as usize % self.lines.len().max(1)).copied()
    }

    fn crash_host(&mut self, n: usize, for_ms: Ms, draw: u64) {
        if !self.nodes[n].is_up {
            return;
        }
        self.checker.incident();
        self.checker.agent_away(n, self.now, for_ms);
        self.stop_agent(n, false);
        self.containers_die(n);
        let since = self.now.saturating_sub(draw % 1_100);
        let node = &mut self.nodes[n];
        node.disk.lose_power(since);
        node.boots();
        node.is_up = false;
        (node.suspended_until, node.suspended_ms) = (0, 0);
        self.after(for_ms, Event::Boot { node: n });
    }

    /// Everything of the server is stopped, the backup restored and declared, and everything started again.
    pub(crate) fn restore(&mut self) {
        let Some((backup, books)) = self.backup.take() else { return };
        self.trace.say(self.now, || "*** restored".to_owned());
        for gateway in 0..self.gateways.len() {
            self.crash_gateway(gateway);
        }
        self.schedulers.iter_mut().for_each(|scheduler| scheduler.process.stop());
        self.sweepers.iter_mut().for_each(|sweeper| sweeper.process.stop());
        let lines: Vec<LineId> = self.lines.keys().copied().collect();
        lines.into_iter().for_each(|line| self.cut(line, true));
        self.store = backup.restored_after(&self.store, self.timestamp());
        self.database_run += 1;
        self.leader_locked = None;
        self.checker.restored(books, &self.store);
        for gateway in 0..self.gateways.len() {
            self.after(2_000, Event::StartGateway { gateway });
        }
        for scheduler in 0..self.schedulers.len() {
            self.after(2_000, Event::StartScheduler { scheduler });
        }
        for sweeper in 0..self.sweepers.len() {
            self.after(2_000, Event::StartSweeper { sweeper });
        }
    }

    pub(crate) fn boot(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.is_up || node.is_gone {
            return;
        }
        node.is_up = true;
        node.docker_up = true;
        node.booted_at = self.now;
        self.start_agent(n);
    }

    pub(crate) fn reopen(&mut self, n: usize) {
        // The rule's own cordon is none of a person's business here: it must heal by itself.
        if self.store.nodes[&self.nodes[n].id].admission != Admission::Open {
            self.set_admission(n, Admission::Open, None);
        }
    }

    fn set_admission(&mut self, n: usize, admission: Admission, drains_within_ms: Option<Ms>) {
        let node = self.nodes[n].id;
        self.call(ReplyTo::Nobody, Call::SetAdmission { node, admission, drains_within_ms });
    }

    /// Whatever can come back comes back. What nobody was told of is still to be found out.
    pub(crate) fn heal(&mut self) {
        self.trace.say(self.now, || "*** healed".to_owned());
        self.database_away_until = 0;
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].process.paused_until = 0;
            self.after(0, Event::StartGateway { gateway });
        }
        for scheduler in 0..self.schedulers.len() {
            self.schedulers[scheduler].process.paused_until = 0;
            self.after(0, Event::StartScheduler { scheduler });
        }
        for sweeper in 0..self.sweepers.len() {
            self.after(0, Event::StartSweeper { sweeper });
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].process.paused_until = 0;
            if self.nodes[node].suspended_until > self.now {
                self.nodes[node].suspended_ms -= self.nodes[node].suspended_until - self.now;
                self.nodes[node].suspended_until = 0;
                self.host_hears(node, HostEvent::Resume);
            }
            self.nodes[node].partitioned_until = 0;
            self.nodes[node].beats_lost_until = 0;
            self.nodes[node].disk_full_until = 0;
            self.nodes[node].black_hole_until = 0;
            let boot = self.nodes[node].boot;
            self.after(0, Event::Host { node, boot, event: HostEvent::DockerBack });
            self.after(0, Event::Boot { node });
            self.after(1, Event::StartAgent { node });
            // Once more and a little later: an admission may be on its way to the database.
            self.after(10_000, Event::Reopen { node });
        }
    }
}
