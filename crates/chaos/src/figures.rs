//! What was measured, kept as a line of JSON for each fault and scale, so that one that is run again takes the place of its line.

use crate::report::Report;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::{fs, path::Path, process::Command};

/// The times at which a platform ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scale {
    #[serde(rename = "1/10")]
    Tenth,
    #[serde(rename = "real")]
    Real,
}

/// Where and from what a run was made.
#[derive(Clone, Debug)]
pub struct Origin {
    pub commit: String,
    pub scale: Scale,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub scenario: String,
    pub scale: Scale,
    pub what: String,
    /// When it was over, UTC.
    pub date: String,
    pub commit: String,
    pub machine: String,
    pub injected: String,
    pub detected_s: Option<f64>,
    pub recovered_s: Option<f64>,
    pub tasks: u32,
    pub lost: u32,
    pub doubled: u32,
    pub log_bytes_missing: u64,
    /// Attempts beyond the first.
    pub again: u32,
    pub verdict: String,
    pub notes: Vec<String>,
    /// What was not as promised.
    pub wrong: Vec<String>,
}

impl Figure {
    /// None: it was skipped, and nothing was measured.
    pub fn of(report: &Report, origin: &Origin) -> Option<Self> {
        if report.seen.skipped.is_some() {
            return None;
        }
        let hundredths = |seconds: f64| (seconds * 100.0).round() / 100.0;
        let found = &report.findings;
        Some(Self {
            scenario: report.id.clone(),
            scale: origin.scale,
            what: report.what.clone(),
            date: chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: origin.commit.clone(),
            machine: machine(),
            injected: report.seen.injected.clone(),
            detected_s: report.seen.detected.map(|it| hundredths(it.as_secs_f64())),
            recovered_s: report.seen.recovered.map(|it| hundredths(it.as_secs_f64())),
            tasks: found.accepted,
            lost: found.lost.len() as u32,
            doubled: found.doubled.len() as u32,
            log_bytes_missing: found.log_bytes_missing,
            again: found.again,
            verdict: report.verdict().to_owned(),
            notes: report.seen.notes.clone(),
            wrong: report.wrong().map(|(kind, fault)| format!("{kind}: {fault}")).collect(),
        })
    }
}

/// All lines of a file; none if there is no file.
pub fn read(file: &Path) -> anyhow::Result<Vec<Figure>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("reading {}", file.display()))?,
    };
    parse(&text).with_context(|| format!("reading {}", file.display()))
}

/// Keeps a figure in the place of an earlier one of the same fault and scale. Writes the file whole.
pub fn keep(file: &Path, figure: Figure) -> anyhow::Result<()> {
    let text = print(&replace(read(file)?, figure))?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<Figure>> {
    text.lines()
        .enumerate()
        .map(|(at, line)| serde_json::from_str(line).with_context(|| format!("line {}", at + 1)))
        .collect()
}

fn print(figures: &[Figure]) -> anyhow::Result<String> {
    figures.iter().map(|figure| Ok(serde_json::to_string(figure)? + "\n")).collect()
}

/// In the order of their names, so that a commit shows what was measured anew and nothing else.
fn replace(mut figures: Vec<Figure>, new: Figure) -> Vec<Figure> {
    figures.retain(|figure| (&figure.scenario, figure.scale) != (&new.scenario, new.scale));
    figures.push(new);
    figures.sort_by(|a, b| (&a.scenario, a.scale).cmp(&(&b.scenario, b.scale)));
    figures
}

/// What Git says of the directory in which this was started; `+` where something is not committed.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let said = Command::new("git").args(arguments).output().ok().filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=8", "HEAD"]) else { return "unknown".into() };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "crates", "migrations"])
        .is_none_or(|said| !said.is_empty());
    if is_changed { commit + "+" } else { commit }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{cores} cores, {} GiB, {build} build, load {load}", kib.unwrap_or(0) >> 20)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn figure(scenario: &str, scale: Scale, recovered_s: f64) -> Figure {
        Figure {
            scenario: scenario.into(),
            scale,
            what: "something breaks".into(),
            date: "2026-11-22T11:00:00Z".into(),
            commit: "0123abcd".into(),
            machine: "2 cores".into(),
            injected: "a | b".into(),
            detected_s: None,
            recovered_s: Some(recovered_s),
            tasks: 9,
            lost: 0,
            doubled: 0,
            log_bytes_missing: 0,
            again: 0,
            verdict: "ok".into(),
            notes: vec!["seen".into()],
            wrong: Vec::new(),
        }
    }

    #[test]
    fn a_fault_that_is_run_again_takes_the_place_of_its_line_and_of_no_other() {
        let first =
            [figure("F06", Scale::Real, 1.0), figure("F06", Scale::Tenth, 2.0), figure("F01", Scale::Tenth, 3.0)];
        let all = first.into_iter().fold(Vec::new(), replace);
        let text = print(&replace(all, figure("F06", Scale::Tenth, 9.0))).expect("printed");
        let lines = parse(&text).expect("the same again");
        let told: Vec<_> = lines.iter().map(|it| (it.scenario.as_str(), it.scale, it.recovered_s)).collect();
        assert_eq!(
            told,
            [("F01", Scale::Tenth, Some(3.0)), ("F06", Scale::Tenth, Some(9.0)), ("F06", Scale::Real, Some(1.0))]
        );
        assert_eq!(text.lines().count(), 3);
    }
}
