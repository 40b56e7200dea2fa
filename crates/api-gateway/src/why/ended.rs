//! An ended task: the cause, and the evidence for it in the order of time.

use super::{Known, chain, hints, waiting};
use api_types::why::{Ended, Why};
use domain::{outcome::FailureKind, quantity::show_duration_ms, task::TaskState};
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
        evidence: chain::evidence(known),
        last_lines: if is_told_by_log(view.failure) { last_lines(known.log_tail) } else { Vec::new() },
    });
}

/// Code is fetched beside the build: where it could not be had, the last lines are those of a build that went well, and
/// would point at the wrong place.
fn is_told_by_log(failure: Option<FailureKind>) -> bool {
    !matches!(failure, Some(FailureKind::SourceUnavailable | FailureKind::InputUnavailable))
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
        TaskState::Succeeded => format!("{} succeeded{place}{ran}{message}.", view.name),
        TaskState::Cancelled => format!("{} was cancelled{place}{ran}{message}.", view.name),
        _ => format!("{} failed: {outcome}{place}{ran}{message}.", view.name),
    }
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
            | FailureKind::Rejected,
        ) => vec![again],
        Some(FailureKind::Poison) => {
            let mut hints = vec![format!("unidesk logs {id}")];
            let nodes = chain::went_down(known);
            if !nodes.is_empty() {
                hints.push(format!("what the kernel's log of {} says of that moment", nodes.join(" and ")));
            }
            hints.push(format!("{again} once it can do no harm"));
            hints
        }
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
