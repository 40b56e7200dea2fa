//! The end of a task in one line, and what to do next.

use crate::{
    style::{Glyph, Style, Tone},
    text::{clean, clean_lines, split_not_retried},
};
use api_types::task::{Attempt, Task};
use domain::{
    attempt::AttemptState,
    outcome::FailureKind,
    quantity::{show_bytes, show_duration_ms},
    task::TaskState,
};
use std::collections::BTreeSet;

/// What `run` and `wait` say at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub glyph: Glyph,
    pub word: &'static str,
    /// The rest of the line.
    pub rest: String,
    /// Evidence, indented below.
    pub more: Vec<String>,
    /// What to do: shown on a terminal only.
    pub next: Option<String>,
}

impl Ending {
    /// All of it, as a terminal shows it.
    pub fn for_people(&self, style: &Style) -> String {
        let mut text = style.phase(self.glyph, self.word, &self.rest) + "\n";
        for line in &self.more {
            text += &format!("  {line}\n");
        }
        if let Some(next) = &self.next {
            text += &format!("{}\n", style.paint(Tone::Faint, &format!("  {next}")));
        }
        text
    }

    /// Off a terminal: no glyph, whose words these are, and no advice.
    pub fn for_programs(&self) -> Vec<String> {
        let first = format!("unidesk: {}: {}", self.word, self.rest);
        std::iter::once(first).chain(self.more.iter().map(|line| format!("  {line}"))).collect()
    }
}

pub fn ending(task: &Task) -> Ending {
    match task.state {
        TaskState::Succeeded => succeeded(task),
        TaskState::Cancelled => cancelled(task),
        _ => failed(task),
    }
}

fn succeeded(task: &Task) -> Ending {
    let mut rest = format!("in {}{}, exit {}", ran(task), on_node(task), task.exit_code.unwrap_or(0));
    if task.attempt > 1 {
        rest += &format!(", attempt {}{}", task.attempt, earlier(task));
    }
    if let Some(ms) = prepared_ms(task).filter(|ms| *ms >= 1_000) {
        rest += &format!("; {} preparing", show_duration_ms(ms));
    }
    if let Some(peak) = peak(task) {
        rest += &format!("; peak {peak}");
    }
    if !task.artifacts.is_empty() {
        rest += &format!("; -> {}", artifacts(task).join(" "));
    }
    let next = (!task.artifacts.is_empty()).then(|| format!("fetch them  unidesk get {}", task.id.short()));
    Ending { glyph: Glyph::Done, word: "succeeded", rest, more: Vec::new(), next }
}

/// What the task has left, of each name the newest: `resnet@7`.
fn artifacts(task: &Task) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let newest = task.artifacts.iter().filter(|artifact| seen.insert(&artifact.name));
    newest.map(|artifact| clean(&format!("{}@{}", artifact.name, artifact.version))).collect()
}

fn cancelled(task: &Task) -> Ending {
    let rest = if task.duration_ms.is_some() {
        format!("after {}{}", ran(task), on_node(task))
    } else {
        "before it ran".into()
    };
    Ending { glyph: Glyph::Warning, word: "cancelled", rest, more: Vec::new(), next: None }
}

fn failed(task: &Task) -> Ending {
    let kind = task.outcome.as_deref().and_then(|outcome| outcome.parse::<FailureKind>().ok());
    let word = clean(task.outcome.as_deref().unwrap_or("unknown"));
    let (message, not_retried) = split_not_retried(&task.message);
    let mut lines = clean_lines(message);
    lines.retain(|line| !line.trim().is_empty());
    let id = task.id.short();
    let (mut rest, next) = match kind {
        Some(FailureKind::ExitNonzero) => {
            let signal = task.signal.map_or_else(String::new, |signal| format!(" (signal {signal})"));
            let code = task.exit_code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit {code}"));
            // What the message would add is in the log already, unless the program never began (126 and 127).
            let is_news = matches!(task.exit_code, None | Some(126 | 127)) && *message != *code;
            if !is_news {
                lines.clear();
            }
            (
                format!("{code}{signal} after {}{}", ran(task), on_node(task)),
                format!("look  unidesk logs {id}      again  unidesk retry {id}"),
            )
        }
        Some(FailureKind::BuildFailed) => {
            (format!("{word}{}", on_node(task)), format!("all of it  unidesk logs {id} --stream build"))
        }
        Some(FailureKind::OutOfMemory | FailureKind::Timeout) => (
            format!("{word} after {}{}", ran(task), on_node(task)),
            format!("look  unidesk logs {id}      why  unidesk why {id}"),
        ),
        Some(FailureKind::SourceUnavailable | FailureKind::InputUnavailable) => {
            (word, format!("then  unidesk retry {id}"))
        }
        _ => (word, format!("why  unidesk why {id}      again  unidesk retry {id}")),
    };
    if !lines.is_empty() {
        rest += &format!(": {}", lines.remove(0).trim_end_matches('.'));
    }
    if task.attempt > 1 {
        rest += &format!(", attempt {}{}", task.attempt, earlier(task));
    }
    if let Some(reason) = not_retried {
        rest += &format!(" (not retried: {})", clean(reason));
    }
    Ending { glyph: Glyph::Failed, word: "failed", rest, more: lines, next: Some(next) }
}

fn ran(task: &Task) -> String {
    show_duration_ms(task.duration_ms.unwrap_or(0))
}

fn on_node(task: &Task) -> String {
    task.node.as_ref().map_or_else(String::new, |node| format!(" on {}", clean(node)))
}

fn last_attempt(task: &Task) -> Option<&Attempt> {
    task.attempts.as_deref()?.iter().max_by_key(|attempt| attempt.number)
}

/// From the lease to the first moment of the process.
fn prepared_ms(task: &Task) -> Option<u64> {
    let attempt = last_attempt(task)?;
    u64::try_from((attempt.started_at? - attempt.placed_at).num_milliseconds()).ok()
}

/// `9.2 of 16 GiB`, the unit once when both share it.
fn peak(task: &Task) -> Option<String> {
    let peak = show_bytes(task.peak_memory_bytes.filter(|bytes| *bytes > 0)?);
    let Some(limit) = task.spec.as_ref().map(|spec| show_bytes(spec.requirements.amounts.memory_bytes)) else {
        return Some(peak);
    };
    Some(match (peak.split_once(' '), limit.split_once(' ')) {
        (Some((figure, unit)), Some((_, limit_unit))) if unit == limit_unit => format!("{figure} of {limit}"),
        _ => format!("{peak} of {limit}"),
    })
}

/// What became of the attempt before the last.
fn earlier(task: &Task) -> String {
    let before = task.attempts.as_deref().unwrap_or_default().iter().find(|attempt| attempt.number + 1 == task.attempt);
    let Some(before) = before else { return String::new() };
    let number = before.number;
    let ran = before.exit.as_ref().map(|exit| exit.duration_ms).or_else(|| {
        let span = before.ended_at? - before.started_at?;
        u64::try_from(span.num_milliseconds()).ok()
    });
    let after = ran.map_or_else(String::new, |ms| format!(" after {}", show_duration_ms(ms)));
    match (before.state, before.failure) {
        (AttemptState::Lost, _) => format!(" (attempt {number} lost with its node{after})"),
        (_, Some(failure)) => format!(" (attempt {number}: {failure}{after})"),
        _ => String::new(),
    }
}
