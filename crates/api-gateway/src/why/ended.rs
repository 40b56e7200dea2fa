//! An ended task: the cause, and the evidence for it in the order of time.

use super::{Known, counted, hints, waiting};
use api_types::why::{Ended, Evidence, Why};
use domain::{
    attempt::AttemptState,
    lifecycle::Event,
    outcome::{ExitFacts, FailureKind},
    quantity::{show_bytes, show_duration_ms},
    task::TaskState,
};
use store::AttemptView;

const LAST_LINES: usize = 10;
const LINE_CHARS: usize = 400;

pub(super) fn explain(known: &Known<'_>, why: &mut Why) {
    let view = &known.task.view;
    let last = known.task.attempts.last();
    let outcome = match view.state {
        TaskState::Succeeded => "succeeded".to_owned(),
        TaskState::Cancelled => "cancelled".to_owned(),
        _ => view.failure.map_or("failed", FailureKind::as_str).to_owned(),
    };
    why.summary = summary(known, last, &outcome);
    why.hints = hints_for(known);
    why.ended = Some(Ended {
        outcome,
        node: view.node.clone(),
        attempt: view.attempts,
        exit: last.and_then(|attempt| attempt.row.exit.clone()),
        evidence: evidence(known),
        last_lines: last_lines(known.log_tail),
    });
}

fn summary(known: &Known<'_>, last: Option<&AttemptView>, outcome: &str) -> String {
    let view = &known.task.view;
    let place = match last {
        Some(attempt) => format!(", attempt {}, on {}", attempt.row.number, attempt.node_name),
        None => String::new(),
    };
    let ran = last
        .and_then(|attempt| attempt.row.exit.as_ref())
        .map_or_else(String::new, |exit| format!(" after {}", show_duration_ms(exit.duration_ms)));
    let message = match view.message.trim().trim_end_matches('.') {
        "" => String::new(),
        message => format!(": {message}"),
    };
    match view.state {
        TaskState::Succeeded => format!("{} succeeded{place}{ran}.", view.name),
        TaskState::Cancelled => format!("{} was cancelled{place}{ran}{message}.", view.name),
        _ => format!("{} failed: {outcome}{place}{ran}{message}.", view.name),
    }
}

/// From the history, with what the last attempt's exit says.
fn evidence(known: &Known<'_>) -> Vec<Evidence> {
    let of = |id| known.task.attempts.iter().find(|attempt| attempt.row.id == id);
    let mut evidence = Vec::new();
    let mut exited = Vec::new();
    for entry in known.history {
        for event in &entry.events {
            let what = match event {
                Event::Submitted => Some("submitted".to_owned()),
                Event::Placed { attempt, number, .. } => {
                    let node = of(*attempt).map_or("a node", |attempt| &attempt.node_name);
                    Some(if *number > 1 {
                        format!("attempt {number} placed on {node}")
                    } else {
                        format!("placed on {node}")
                    })
                }
                Event::Started { .. } => Some("its process started".to_owned()),
                Event::Exited { attempt, code } => {
                    exited.push(*attempt);
                    Some(of(*attempt).and_then(|attempt| attempt.row.exit.as_ref()).map_or_else(
                        || code.map_or_else(|| "its process ended".to_owned(), |code| format!("exit {code}")),
                        |exit| exit_text(exit, known),
                    ))
                }
                Event::Ended { attempt, state, failure, message } => {
                    Some(ending(of(*attempt), *state, *failure, message, exited.contains(attempt), known))
                }
                Event::Requeued { because, .. } => Some(format!("queued again: {because}")),
                Event::CancelRequested => Some("its end was asked for".to_owned()),
                Event::RetryAsked => Some("asked to run once more".to_owned()),
                Event::Finished { .. } if known.task.attempts.is_empty() => Some(known.task.view.message.clone()),
                Event::Accepted { .. }
                | Event::Preparing { .. }
                | Event::Prepared { .. }
                | Event::Released { .. }
                | Event::Finished { .. } => None,
            };
            evidence.extend(what.filter(|what| !what.is_empty()).map(|what| Evidence { at: entry.at, what }));
        }
    }
    evidence
}

fn exit_text(exit: &ExitFacts, known: &Known<'_>) -> String {
    let limit = show_bytes(known.task.spec.requirements.amounts.memory_bytes);
    let mut parts = Vec::new();
    if exit.oom {
        parts.push(format!("killed at its memory limit of {limit}"));
    }
    if exit.timed_out {
        parts.push("stopped since its timeout had passed".to_owned());
    }
    if exit.cancelled {
        parts.push("stopped as it was asked for".to_owned());
    }
    parts.extend(exit.code.map(|code| format!("exit {code}")));
    parts.extend(exit.signal.map(|signal| format!("signal {signal}")));
    parts.extend(exit.peak_memory_bytes.map(|peak| format!("peak {} of {limit}", show_bytes(peak))));
    parts.join(", ")
}

fn ending(
    attempt: Option<&AttemptView>,
    state: AttemptState,
    failure: Option<FailureKind>,
    message: &str,
    exit_is_told: bool,
    known: &Known<'_>,
) -> String {
    let number = attempt
        .filter(|_| known.task.attempts.len() > 1)
        .map_or_else(String::new, |attempt| format!("attempt {} ", attempt.row.number));
    let how = match failure {
        Some(kind) => format!("{number}{state}: {kind}"),
        None => format!("{number}{state}"),
    };
    let message = if message.is_empty() { String::new() } else { format!(", {}", message.trim_end_matches('.')) };
    let exit = match attempt.and_then(|attempt| attempt.row.exit.as_ref()) {
        Some(exit) if !exit_is_told => format!("; {}", exit_text(exit, known)),
        _ => String::new(),
    };
    let log = match attempt.and_then(|attempt| attempt.row.ending.as_ref()).map(|ending| ending.log) {
        Some(log) if state != AttemptState::Lost => {
            let whole = if log.complete { "is complete" } else { "is not complete" };
            format!("; the log {whole} ({} bytes)", counted(log.bytes))
        }
        _ => String::new(),
    };
    format!("{how}{message}{exit}{log}")
}

fn hints_for(known: &Known<'_>) -> Vec<String> {
    let view = &known.task.view;
    let id = view.id.short();
    let again = format!("unidesk retry {id}");
    match view.failure {
        None | Some(FailureKind::Cancelled) => Vec::new(),
        Some(FailureKind::OutOfMemory) => {
            hints::more_memory(known.nodes, &known.task.spec.needs()).into_iter().collect()
        }
        Some(FailureKind::Timeout) => {
            let timeout =
                known.task.spec.timeout_ms.map_or_else(String::new, |ms| format!(" (it was {})", show_duration_ms(ms)));
            vec![format!("a longer timeout{timeout}"), format!("unidesk logs {id}")]
        }
        Some(FailureKind::BuildFailed) => vec![format!("unidesk logs {id} --stream build")],
        Some(FailureKind::QueueTimeout) => {
            let mut hints = vec!["a longer queue_timeout".to_owned()];
            let (waiting, _) = waiting::verdicts(known);
            hints
                .extend(waiting.verdicts.iter().map(|verdict| format!("{} {}", verdict.count, verdict.reason)).take(2));
            hints.push(again);
            hints
        }
        Some(FailureKind::ExitNonzero) => vec![format!("unidesk logs {id}"), again],
        // What to mend of a source differs too much (a push, credentials, a link in the tree): its message says it.
        Some(
            FailureKind::SourceUnavailable
            | FailureKind::InputUnavailable
            | FailureKind::OutputFailed
            | FailureKind::NodeLost
            | FailureKind::NodeError
            | FailureKind::Rejected
            | FailureKind::Poison,
        ) => vec![again],
    }
}

/// The log as text that can't move a terminal's cursor.
fn last_lines(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines[from..].iter().map(|line| line.chars().take(LINE_CHARS).map(shown).collect()).collect()
}

fn shown(c: char) -> String {
    if c == '\t' || !is_hidden(c) { c.to_string() } else { c.escape_default().to_string() }
}

/// Control characters, and those that turn the direction of what follows.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_without_what_moves_a_terminal() {
        let lines = last_lines(b"a\tb\r\n\x1b[2Jred\xff\n\xe2\x80\xae evil");
        assert_eq!(lines, ["a\tb", "\\u{1b}[2Jred\u{fffd}", "\\u{202e} evil"]);
        assert_eq!(last_lines(&b"x\n".repeat(50)).len(), LAST_LINES);
        assert_eq!(last_lines(&[b'x'; 5_000])[0].len(), LINE_CHARS);
    }
}
