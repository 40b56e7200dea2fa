//! Says what was lost. Pure: it is given what everybody saw, and compares.

use crate::ledger::Line;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A task as the client, the platform and the task itself saw it.
#[derive(Clone, Debug, Default)]
pub struct TaskEvidence {
    /// What the client calls it.
    pub name: String,
    /// The client was told that it is accepted.
    pub accepted: bool,
    pub id: String,
    /// What it should do; 0 steps: it writes no ledger.
    pub steps: u32,
    pub exit_code: i32,
    pub exclusive: bool,
    /// What the platform says of it; None: it knows nothing.
    pub state: Option<String>,
    pub shown_exit_code: Option<i32>,
    /// Entries of the history that end it.
    pub endings: u32,
    pub attempts: Vec<AttemptEvidence>,
    pub ledger: Vec<Line>,
}

#[derive(Clone, Debug, Default)]
pub struct AttemptEvidence {
    pub number: u32,
    pub fence: i64,
    pub succeeded_or_ended_by_itself: bool,
    pub log: Vec<u8>,
    /// Bytes that the log itself says are missing.
    pub gap_bytes: u64,
}

/// What a run came to. Anything but counts is a fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    pub accepted: u32,
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    pub log_bytes_missing: u64,
    /// Logs that are not what the task wrote.
    pub wrong_logs: Vec<String>,
    /// Exclusive attempts that were alive at one time.
    pub overlaps: Vec<String>,
    /// Containers, processes, directories, reservations.
    pub left: Vec<String>,
    /// What else is not as promised: audit, memory, descriptors, a promise of the scenario.
    pub broken: Vec<String>,
    /// Attempts beyond the first: work done again.
    pub again: u32,
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        let lists = [&self.lost, &self.doubled, &self.wrong_logs, &self.overlaps, &self.left, &self.broken];
        self.log_bytes_missing == 0 && lists.iter().all(|list| list.is_empty())
    }
}

/// Judges all tasks of a run.
pub fn judge(tasks: &[TaskEvidence]) -> Findings {
    let mut findings = Findings::default();
    for task in tasks {
        judge_task(task, &mut findings);
    }
    findings
}

fn judge_task(task: &TaskEvidence, findings: &mut Findings) {
    let name = &task.name;
    if task.accepted {
        findings.accepted += 1;
    }
    let wanted = if task.exit_code == 0 { "succeeded" } else { "failed" };
    match task.state.as_deref() {
        None if task.accepted => findings.lost.push(format!("{name}: accepted, and the platform does not know it")),
        // Never accepted, never there: as the client was told.
        None => return,
        Some(state) if state != wanted => {
            findings.lost.push(format!("{name}: {state} instead of {wanted}"));
        }
        Some(_) if task.shown_exit_code != Some(task.exit_code) => {
            findings.lost.push(format!("{name}: ended with {:?} instead of {}", task.shown_exit_code, task.exit_code));
        }
        Some(_) => {}
    }
    if task.endings > 1 {
        findings.doubled.push(format!("{name}: {} results", task.endings));
    }
    let winners: Vec<&AttemptEvidence> =
        task.attempts.iter().filter(|attempt| attempt.succeeded_or_ended_by_itself).collect();
    if winners.len() > 1 {
        findings.doubled.push(format!("{name}: {} attempts have a result", winners.len()));
    }
    findings.again += task.attempts.len().saturating_sub(1) as u32;
    if task.steps > 0 {
        judge_ledger(task, findings);
    }
}

fn judge_ledger(task: &TaskEvidence, findings: &mut Findings) {
    let name = &task.name;
    let mut by_attempt: BTreeMap<u32, Vec<&Line>> = BTreeMap::new();
    for line in &task.ledger {
        by_attempt.entry(line.attempt).or_default().push(line);
    }
    for (number, lines) in &by_attempt {
        let runs: BTreeSet<&str> = lines.iter().map(|line| line.run.as_str()).collect();
        if runs.len() > 1 {
            findings.doubled.push(format!("{name}: attempt {number} was started {} times", runs.len()));
        }
        let is_known =
            task.attempts.iter().any(|a| a.number == *number && lines.iter().all(|line| line.fence == a.fence));
        if !is_known {
            findings
                .doubled
                .push(format!("{name}: attempt {number} ran, and the platform knows no such attempt and fence"));
        }
    }
    for attempt in &task.attempts {
        let lines = by_attempt.get(&attempt.number).cloned().unwrap_or_default();
        let written: String = lines.iter().map(|line| line.text()).collect();
        judge_log(task, attempt, written.as_bytes(), findings);
        if attempt.succeeded_or_ended_by_itself && lines.len() != task.steps as usize {
            findings.lost.push(format!(
                "{name}: its result counts, and it did {} of {} steps",
                lines.len(),
                task.steps
            ));
        }
    }
    if task.exclusive {
        judge_overlaps(name, &by_attempt, findings);
    }
}

fn judge_log(task: &TaskEvidence, attempt: &AttemptEvidence, written: &[u8], findings: &mut Findings) {
    let number = attempt.number;
    let log = &attempt.log[..];
    if attempt.succeeded_or_ended_by_itself {
        let accounted = log.len() as u64 + attempt.gap_bytes;
        if log == written || (attempt.gap_bytes > 0 && accounted == written.len() as u64) {
            return;
        }
        let missing = (written.len() as u64).saturating_sub(accounted);
        findings.log_bytes_missing += missing;
        let said = if missing > 0 { "shorter than" } else { "not" };
        findings.wrong_logs.push(format!("{}: the log of attempt {number} is {said} what it wrote", task.name));
    // Of a lost attempt the end may never have left the node. A line is written down before it is said, so the log is behind.
    } else if attempt.gap_bytes == 0 && !written.starts_with(log) {
        findings.wrong_logs.push(format!("{}: the log of lost attempt {number} has what it did not write", task.name));
    }
}

fn judge_overlaps(name: &str, by_attempt: &BTreeMap<u32, Vec<&Line>>, findings: &mut Findings) {
    let spans: Vec<(u32, u64, u64)> = by_attempt
        .iter()
        .filter_map(|(number, lines)| {
            let times = || lines.iter().map(|line| line.at_ns).filter(|at| *at > 0);
            Some((*number, times().min()?, times().max()?))
        })
        .collect();
    for (at, (one, _, one_end)) in spans.iter().enumerate() {
        for (other, other_start, _) in &spans[at + 1..] {
            if other_start <= one_end {
                findings.overlaps.push(format!("{name}: attempts {one} and {other} were alive at one time"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(attempt: u32, step: u32) -> Line {
        let at_ns = u64::from(attempt * 1_000 + step);
        Line { at_ns, task: "t".into(), attempt, fence: i64::from(attempt), step, run: format!("run-{attempt}") }
    }

    fn attempt(number: u32, steps: u32, wins: bool) -> AttemptEvidence {
        let log = (1..=steps).map(|step| line(number, step).text()).collect::<String>().into_bytes();
        AttemptEvidence { number, fence: i64::from(number), succeeded_or_ended_by_itself: wins, log, gap_bytes: 0 }
    }

    /// Three steps; lost once after two of them, then done.
    fn well() -> TaskEvidence {
        TaskEvidence {
            name: "long-1".into(),
            accepted: true,
            id: "t".into(),
            steps: 3,
            state: Some("succeeded".into()),
            shown_exit_code: Some(0),
            endings: 1,
            attempts: vec![attempt(1, 1, false), attempt(2, 3, true)],
            ledger: vec![line(1, 1), line(1, 2), line(2, 1), line(2, 2), line(2, 3)],
            ..TaskEvidence::default()
        }
    }

    #[test]
    fn work_that_was_done_again_after_a_loss_is_no_fault() {
        let findings = judge(&[well()]);
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!((findings.accepted, findings.again), (1, 1));
    }

    /// Each way in which a run can go wrong, and where the oracle must name it.
    #[test]
    fn every_doctored_ledger_is_noticed() {
        type Doctor = fn(&mut TaskEvidence);
        type Noticed = fn(&Findings) -> bool;
        let cases: [(&str, Doctor, Noticed); 13] = [
            ("unknown", |task| task.state = None, |f| !f.lost.is_empty()),
            ("still running", |task| task.state = Some("running".into()), |f| !f.lost.is_empty()),
            ("another exit code", |task| task.shown_exit_code = Some(1), |f| !f.lost.is_empty()),
            (
                "a step that nobody did",
                |task| drop(task.ledger.pop()),
                |f| !f.lost.is_empty() || !f.wrong_logs.is_empty(),
            ),
            ("two results", |task| task.endings = 2, |f| !f.doubled.is_empty()),
            ("two winners", |task| task.attempts[0].succeeded_or_ended_by_itself = true, |f| !f.doubled.is_empty()),
            ("started twice", |task| task.ledger[4].run = "again".into(), |f| !f.doubled.is_empty()),
            ("a fence nobody gave", |task| task.ledger[4].fence = 9, |f| !f.doubled.is_empty()),
            ("a line missing", |task| task.attempts[1].log.truncate(20), |f| f.log_bytes_missing > 0),
            ("a line twice", |task| task.attempts[1].log.extend_from_within(..), |f| !f.wrong_logs.is_empty()),
            ("another byte", |task| task.attempts[1].log[3] ^= 1, |f| !f.wrong_logs.is_empty()),
            (
                "a lost attempt's log with foreign bytes",
                |task| task.attempts[0].log[0] ^= 1,
                |f| !f.wrong_logs.is_empty(),
            ),
            (
                "two at once",
                |task| {
                    task.exclusive = true;
                    task.ledger[1].at_ns = 5_000;
                },
                |f| !f.overlaps.is_empty(),
            ),
        ];
        for (what, doctor, noticed) in cases {
            let mut task = well();
            doctor(&mut task);
            let findings = judge(&[task]);
            assert!(!findings.is_clean() && noticed(&findings), "{what}: {findings:?}");
        }
    }

    #[test]
    fn a_gap_that_the_log_admits_is_not_missing_in_silence() {
        let mut task = well();
        let cut = task.attempts[1].log.len() - 10;
        task.attempts[1].log.truncate(cut);
        task.attempts[1].gap_bytes = 10;
        assert!(judge(&[task.clone()]).is_clean());
        task.attempts[1].gap_bytes = 9;
        assert_eq!(judge(&[task]).log_bytes_missing, 1);
    }

    #[test]
    fn a_submission_that_nobody_answered_and_nobody_knows_is_not_lost() {
        let task = TaskEvidence { name: "short-1".into(), ..TaskEvidence::default() };
        let findings = judge(&[task]);
        assert!(findings.is_clean() && findings.accepted == 0);
    }
}
