//! Promises that hold once everything was healed and had time to come to rest.

use super::Violation;
use crate::world::World;
use domain::{attempt::AttemptState, node::Admission, placement::check_fit};

impl World {
    /// What has not come to rest yet.
    pub(crate) fn unrest(&self) -> Option<Violation> {
        self.tasks_at_rest().or_else(|| self.nodes_at_rest()).or_else(|| self.logs_complete())
    }

    /// Every task has ended, or waits because no machine that is left could ever take it.
    fn tasks_at_rest(&self) -> Option<Violation> {
        let mut machines = self.store.candidates(self.plan.knobs.silence_ms, self.timestamp());
        for machine in &mut machines {
            machine.ledger = domain::resources::Ledger::new(machine.node.facts.capacity.clone());
            machine.holding = 0;
            // What the rule cordoned is tried again, and again.
            machine.may_probe = true;
        }
        for record in self.store.tasks.values().filter(|record| !record.row.state.is_terminal()) {
            let fits = machines.iter().any(|machine| check_fit(machine, &record.needs).is_ok());
            if fits || !record.row.queued {
                let attempt = record.row.live.and_then(|live| self.store.attempts.get(&live));
                return Some(Violation::new(
                    "I05 every task ends, or waits for want of a machine",
                    format!("{:?}, {attempt:?}, held back: {}", record.row, self.store.is_held_back(record.row.id)),
                ));
            }
        }
        None
    }

    /// Nothing is held, run or kept that no task wants.
    fn nodes_at_rest(&self) -> Option<Violation> {
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_gone) {
            let row = &self.store.nodes[&node.id];
            if row.beat_at.is_some() && row.offline_since.is_none() {
                let detail = format!("node {n}: heard at {:?}, and it is {}", row.beat_at, self.timestamp());
                return Some(Violation::new("I23 a silent node is offline in the end", detail));
            }
        }
        for node in self.store.revoked() {
            if let Some(attempt) = self.store.held_on(node).next() {
                return Some(Violation::new("I41 a revoked node holds nothing in the end", format!("{attempt:?}")));
            }
        }
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_gone) {
            if let Some(attempt) = self.store.held_on(node.id).next() {
                return Some(Violation::new("I05 every reservation is released", format!("{attempt:?}")));
            }
            // What nobody may tell it any more, it can't know: its work runs to its end.
            if self.store.nodes[&node.id].admission == Admission::Revoked {
                continue;
            }
            if !node.agent.is_settled() {
                return Some(Violation::new(
                    "I05 every agent comes to rest",
                    format!("node {n}: {:?}", node.agent.inventory()),
                ));
            }
            if let Some(attempt) = node.containers.keys().next() {
                return Some(Violation::new("I17 no container is left behind", format!("node {n}: {attempt:?}")));
            }
            if let Some(attempt) = node.disk.attempts.keys().next() {
                return Some(Violation::new("I17 no directory is left behind", format!("node {n}: {attempt:?}")));
            }
        }
        None
    }

    /// A log is what was written, less its gaps; an end that says the log is complete is right about it.
    fn logs_complete(&self) -> Option<Violation> {
        for attempt in self.store.attempts.values().filter(|attempt| attempt.state != AttemptState::Lost) {
            let Some(ending) = attempt.ending.as_ref().filter(|ending| ending.exit.is_some()) else { continue };
            if ending.log.complete && self.store.has_gaps(attempt.id) {
                return Some(Violation::new("I29 a gap is no complete log", format!("{attempt:?}")));
            }
            // What a restore has forgotten and its node has let go of is not there, and the end says so.
            if !ending.log.complete && self.store.is_old(attempt.fence) {
                continue;
            }
            let stored = self.store.log_offsets(attempt.id).unwrap_or_default();
            // An end by its exit facts alone says what was stored by then. Its node never came to tell of the rest, or came later.
            let said = ending.log.bytes;
            if !ending.log.complete && said <= stored.iter().sum::<u64>() {
                continue;
            }
            let written = self.checker.written(attempt.id);
            if stored != written || ending.log.bytes != written.iter().sum::<u64>() {
                let detail = format!("{:?}: {stored:?} stored, {written:?} written, {:?} said", attempt.id, ending.log);
                return Some(Violation::new("I29 a complete log is complete", detail));
            }
        }
        None
    }
}
