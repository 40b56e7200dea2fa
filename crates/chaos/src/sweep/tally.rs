//! What a sweep came to, for people and as JSON.

use crate::{
    oracle::Findings,
    sweep::plan::{Kind, Strike},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// A kill that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    #[serde(flatten)]
    pub strike: Strike,
    /// The call that was never done.
    pub at: String,
}

/// A promise that was not kept, with all kills since the last time that all was well.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// The part of the run's directory that has its logs.
    pub world: String,
    pub kills: Vec<Kill>,
    pub findings: Findings,
    /// How to make the same kills again.
    pub replay: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub seed: u64,
    pub first: u32,
    /// Done.
    pub kills: u32,
    /// The call did not come in time, and the victim lived on.
    pub spared: u32,
    pub by_target: BTreeMap<&'static str, BTreeMap<String, u32>>,
    pub audits: u32,
    pub accepted: u32,
    pub lost: u32,
    pub doubled: u32,
    pub log_bytes_missing: u64,
    /// Attempts beyond the first, which cost work but lose nothing.
    pub again: u32,
    /// Seconds from a death until the replacement was ready, the longest by target, and after which kill.
    pub slowest_recovery: BTreeMap<&'static str, (f64, String)>,
    /// The longest time in which no task ended while tasks were being asked for.
    pub longest_pause_s: f64,
    pub took_s: f64,
    pub faults: Vec<Fault>,
}

impl Tally {
    pub(super) fn count(&mut self, strike: &Strike) {
        self.kills += 1;
        let when = if strike.from_birth { " (starting)" } else { "" };
        *self.by_target.entry(strike.kind.name()).or_default().entry(format!("{}{when}", strike.call)).or_default() +=
            1;
    }

    pub(super) fn add(&mut self, findings: &Findings) {
        self.accepted += findings.accepted;
        self.lost += findings.lost.len() as u32;
        self.doubled += findings.doubled.len() as u32;
        self.log_bytes_missing += findings.log_bytes_missing;
        self.again += findings.again;
    }

    pub(super) fn recovered(&mut self, slowest: &BTreeMap<Kind, (Duration, String)>) {
        for (kind, (took, kill)) in slowest {
            let known = self.slowest_recovery.entry(kind.name()).or_default();
            if took.as_secs_f64() > known.0 {
                *known = (took.as_secs_f64(), kill.clone());
            }
        }
    }

    pub(super) fn progress(&self) -> String {
        format!(
            "{:>6} kills {:>4} spared {:>6} accepted {:>3} lost {:>3} doubled {:>4} log bytes missing {:>4} again {:>7.0} s",
            self.kills,
            self.spared,
            self.accepted,
            self.lost,
            self.doubled,
            self.log_bytes_missing,
            self.again,
            self.took_s
        )
    }

    pub fn summary(&self) -> String {
        let mut text = format!("{}, {} audits, seed {}\n", self.progress().trim_start(), self.audits, self.seed);
        for (target, calls) in &self.by_target {
            let total: u32 = calls.values().sum();
            let calls: Vec<String> = calls.iter().map(|(call, count)| format!("{call} {count}")).collect();
            let _ = writeln!(text, "  {target:<10} {total:>5}: {}", calls.join(", "));
        }
        for (target, (took, kill)) in &self.slowest_recovery {
            let _ = writeln!(text, "  slowest return of a {target}: {took:.2} s after {kill}");
        }
        let _ = writeln!(text, "  longest time without a task's end: {:.2} s", self.longest_pause_s);
        text
    }
}

impl Fault {
    pub(super) fn lines(&self) -> String {
        let found = &self.findings;
        let groups = [
            ("lost", &found.lost),
            ("doubled", &found.doubled),
            ("log", &found.wrong_logs),
            ("overlap", &found.overlaps),
            ("left", &found.left),
            ("broken", &found.broken),
        ];
        let mut text = format!("FAULT in {} ({} log bytes missing)\n", self.world, found.log_bytes_missing);
        for (kind, fault) in groups.into_iter().flat_map(|(kind, all)| all.iter().map(move |fault| (kind, fault))) {
            let _ = writeln!(text, "  {kind}: {fault}");
        }
        text += "  after these kills:\n";
        for kill in &self.kills {
            let _ = writeln!(text, "    {}: {}", kill.strike, kill.at);
        }
        let _ = writeln!(text, "  the same kills again: {}", self.replay);
        text
    }
}
