//! One line a scenario, and all figures for the documentation.

use crate::{
    oracle::Findings,
    scenario::{Scenario, Seen},
};
use serde::Serialize;
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub id: String,
    pub what: String,
    #[serde(flatten)]
    pub seen: Seen,
    #[serde(flatten)]
    pub findings: Findings,
    pub took_s: f64,
}

impl Report {
    /// The platform could not even be put up, or not be looked at.
    pub fn unplayed(scenario: &Scenario, error: &anyhow::Error) -> Self {
        let findings = Findings { broken: vec![format!("{error:#}")], ..Findings::default() };
        let (id, what, seen) = (scenario.id.into(), scenario.what.into(), Seen::of(scenario.what));
        Self { id, what, seen, findings, took_s: 0.0 }
    }

    pub fn verdict(&self) -> &'static str {
        match (&self.seen.skipped, self.is_clean()) {
            (Some(_), _) => "skipped",
            (None, true) => "ok",
            (None, false) => "FAILED",
        }
    }

    pub fn is_clean(&self) -> bool {
        self.findings.is_clean() && self.seen.broken.is_empty()
    }

    pub fn heading() -> String {
        format!(
            "{:<5} {:<52} {:>8} {:>8} {:>8} {:>5} {:>7} {:>9} {:>6}  verdict",
            "id", "injected", "detected", "recover", "accepted", "lost", "doubled", "log bytes", "again"
        )
    }

    /// The figures, then what is wrong, a line each.
    pub fn lines(&self) -> String {
        if let Some(why) = &self.seen.skipped {
            return format!("{:<5} {:<52} skipped: {why}", self.id, cut(&self.what));
        }
        let found = &self.findings;
        let mut text = format!(
            "{:<5} {:<52} {:>8} {:>8} {:>8} {:>5} {:>7} {:>9} {:>6}  {}",
            self.id,
            cut(&self.seen.injected),
            show(self.seen.detected),
            show(self.seen.recovered),
            found.accepted,
            found.lost.len(),
            found.doubled.len(),
            found.log_bytes_missing,
            found.again,
            self.verdict(),
        );
        for note in &self.seen.notes {
            text += &format!("\n      {note}");
        }
        for (kind, fault) in self.wrong() {
            text += &format!("\n      {kind}: {fault}");
        }
        text
    }

    /// All that is not as promised, with its kind.
    pub fn wrong(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let found = &self.findings;
        let groups = [
            ("lost", &found.lost),
            ("doubled", &found.doubled),
            ("log", &found.wrong_logs),
            ("overlap", &found.overlaps),
            ("left", &found.left),
            ("broken", &found.broken),
            ("broken", &self.seen.broken),
        ];
        groups.into_iter().flat_map(|(kind, faults)| faults.iter().map(move |fault| (kind, fault)))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(52).collect()
}

fn show(duration: Option<Duration>) -> String {
    duration.map_or("-".into(), |duration| format!("{:.2} s", duration.as_secs_f64()))
}
