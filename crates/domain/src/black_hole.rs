//! A node on which everything fails at once is free again at once, and so would drain the whole queue into itself. The rule keeps new
//! work away from it, and lets one real task through now and then to see whether it has healed.
//!
//! Nothing is kept of a healthy node: its record is made by its first failure, and a success drops it.

use crate::{
    Timestamp,
    ids::{AttemptId, TaskId},
    outcome::{Ending, FailureClass, FailureKind},
};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// When a node is cordoned, and how long it waits for its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub failures: usize,
    pub tasks: usize,
    pub within_ms: i64,
    /// Doubled by every probe that fails, up to `longest_wait_ms`.
    pub first_wait_ms: i64,
    pub longest_wait_ms: i64,
}

impl Default for Rule {
    fn default() -> Self {
        let minutes = |count: i64| count * 60_000;
        Self { failures: 5, tasks: 3, within_ms: minutes(10), first_wait_ms: minutes(5), longest_wait_ms: minutes(60) }
    }
}

/// What is kept of a node on which something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFaults {
    /// The newest last; no more than the rule asks for.
    pub failures: Vec<NodeFault>,
    /// What the last one said.
    pub last_words: String,
    pub cordon: Option<Cordon>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFault {
    pub at: Timestamp,
    pub task: TaskId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    pub since: Timestamp,
    /// For people.
    pub because: String,
    pub wait_ms: i64,
    /// Not probed before this moment.
    pub probe_at: Timestamp,
    /// The real task that was let through last.
    pub probe: Option<AttemptId>,
}

impl Cordon {
    /// Nobody waits for longer than was said, whatever was done to the clock meanwhile.
    fn is_over(&self, now: Timestamp) -> bool {
        self.probe_at <= now || self.probe_at - now > TimeDelta::milliseconds(self.wait_ms)
    }
}

/// What the end of an attempt says about its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A process ran there and ended by itself: the node does its work.
    Works,
    Fails,
    /// Nothing: it was cancelled, stopped on purpose, lost with its whole node, or the task's own preparation failed.
    None,
}

impl Evidence {
    pub fn of(ending: &Ending) -> Self {
        match ending.failure {
            None => Self::Works,
            // A whole node that went down is no node that fails everything.
            Some(FailureKind::NodeLost) => Self::None,
            Some(_) if ending.planned_stop => Self::None,
            Some(kind) => match kind.class() {
                FailureClass::Infrastructure => Self::Fails,
                FailureClass::User if ending.exit.is_some() => Self::Works,
                FailureClass::User | FailureClass::Final => Self::None,
            },
        }
    }
}

/// The record after an attempt has ended there. None: nothing is to be kept, the node is well.
pub fn after_end(
    record: Option<NodeFaults>,
    rule: &Rule,
    (attempt, task): (AttemptId, TaskId),
    ending: &Ending,
    now: Timestamp,
) -> Option<NodeFaults> {
    let evidence = Evidence::of(ending);
    let mut record = match (record, evidence) {
        (None, Evidence::Works | Evidence::None) => return None,
        (None, Evidence::Fails) => NodeFaults::default(),
        (Some(record), _) => record,
    };
    if let Some(cordon) = &mut record.cordon {
        // What was running there before says nothing about what begins there now.
        if cordon.probe != Some(attempt) {
            return Some(record);
        }
        cordon.probe = None;
        match evidence {
            Evidence::Works => return None,
            Evidence::None => cordon.probe_at = now,
            Evidence::Fails => {
                cordon.wait_ms = (cordon.wait_ms * 2).min(rule.longest_wait_ms);
                cordon.probe_at = now + TimeDelta::milliseconds(cordon.wait_ms);
                record.last_words = ending.message.clone();
                cordon.because = format!("a probe failed, too: {}", first_line(&ending.message));
            }
        }
        return Some(record);
    }
    match evidence {
        Evidence::Works => None,
        Evidence::None => Some(record),
        Evidence::Fails => {
            let from = now - TimeDelta::milliseconds(rule.within_ms);
            record.failures.retain(|failure| failure.at > from);
            record.failures.push(NodeFault { at: now, task });
            record.last_words = ending.message.clone();
            let tasks: BTreeSet<TaskId> = record.failures.iter().map(|failure| failure.task).collect();
            if record.failures.len() >= rule.failures && tasks.len() >= rule.tasks {
                record.cordon = Some(Cordon {
                    since: now,
                    because: format!(
                        "{} attempts of {} tasks failed there in a row, the last one: {}",
                        record.failures.len(),
                        tasks.len(),
                        first_line(&ending.message)
                    ),
                    wait_ms: rule.first_wait_ms,
                    probe_at: now + TimeDelta::milliseconds(rule.first_wait_ms),
                    probe: None,
                });
            }
            // Many failures of two tasks must not grow without bound; the oldest say the least.
            let surplus = record.failures.len().saturating_sub(4 * rule.failures);
            record.failures.drain(..surplus);
            Some(record)
        }
    }
}

impl NodeFaults {
    pub fn is_cordoned(&self) -> bool {
        self.cordon.is_some()
    }

    /// Whether one real task may be let through now. `probe_is_under_way`: the last one that was has not ended.
    pub fn may_probe(&self, probe_is_under_way: bool, now: Timestamp) -> bool {
        self.cordon
            .as_ref()
            .is_some_and(|cordon| cordon.is_over(now) && !(cordon.probe.is_some() && probe_is_under_way))
    }

    /// This attempt is let through. Should it vanish with its node, the next one waits as long as this one did.
    pub fn probe_with(&mut self, attempt: AttemptId, now: Timestamp) {
        if let Some(cordon) = &mut self.cordon {
            cordon.probe = Some(attempt);
            cordon.probe_at = now + TimeDelta::milliseconds(cordon.wait_ms);
        }
    }

    pub fn is_probe(&self, attempt: AttemptId) -> bool {
        self.cordon.as_ref().is_some_and(|cordon| cordon.probe == Some(attempt))
    }
}

/// Short enough for a table.
fn first_line(message: &str) -> String {
    const MOST: usize = 120;
    let line = message.lines().next().unwrap_or("").trim().trim_end_matches('.');
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None if line.is_empty() => "it said nothing".to_owned(),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
