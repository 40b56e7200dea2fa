//! The chain of causes in the order of time: every attempt, how it ended, what followed, and which budgets that used.

use super::{Known, counted, lasted};
use api_types::why::Evidence;
use domain::{
    attempt::AttemptState,
    lifecycle::Event,
    outcome::{ExitFacts, FailureKind},
    quantity::{show_bytes, show_duration_ms},
    retry::MAX_NODE_LOSSES,
};
use store::AttemptView;

/// `infrastructure failures in a row 2 of 5, own failures 0 of 0, nodes lost or drained 1 of 100`. None while nothing went wrong.
pub(super) fn budgets(known: &Known<'_>) -> Option<String> {
    let (view, retry) = (&known.task.view, &known.task.spec.retry);
    if view.infra_failures + view.user_failures + view.node_losses == 0 {
        return None;
    }
    // The failure that was one too many is not a retry.
    let used = |count: u32, of: u32| format!("{} of {of}", count.min(of));
    let mut parts = vec![
        format!("infrastructure failures in a row {}", used(view.infra_failures, retry.max_infra_retries)),
        format!("own failures {}", used(view.user_failures, retry.max_retries)),
    ];
    if view.node_losses > 0 {
        parts.push(format!("nodes lost or drained {}", used(view.node_losses, MAX_NODE_LOSSES)));
    }
    Some(parts.join(", "))
}

/// Nodes that went down while it ran there, soon after its start.
pub(super) fn went_down(known: &Known<'_>) -> Vec<String> {
    let events = known.history.iter().flat_map(|entry| &entry.events);
    // What was before a person asked for another run is forgiven.
    let since_asked = events.collect::<Vec<_>>();
    let from = since_asked.iter().rposition(|event| **event == Event::RetryAsked).map_or(0, |place| place + 1);
    let mut names: Vec<String> = Vec::new();
    for event in &since_asked[from..] {
        let Event::NodeWentDown { attempt, .. } = event else { continue };
        let found = known.task.attempts.iter().find(|it| it.row.id == *attempt);
        if let Some(name) = found.map(|it| it.node_name.clone()).filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

/// From the history, with what the last attempt's exit says.
pub(super) fn evidence(known: &Known<'_>) -> Vec<Evidence> {
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
                Event::Requeued { not_before, because, silent_since } => {
                    let pause = not_before
                        .filter(|moment| *moment > entry.at)
                        .map_or_else(String::new, |moment| format!(" after a pause of {}", lasted(moment, entry.at)));
                    let silence = silent_since.map_or_else(String::new, |since| {
                        format!(", its last heartbeat came {} before", lasted(entry.at, since))
                    });
                    Some(format!("queued again{pause}: {}{silence}", because.trim_end_matches('.')))
                }
                Event::NodeWentDown { attempt, after_ms, .. } => {
                    let node = of(*attempt).map_or("its node", |attempt| &attempt.node_name);
                    Some(format!("{node} went down {} after the start there", show_duration_ms(*after_ms)))
                }
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
            let bytes =
                if log.complete || log.bytes > 0 { format!(" ({} bytes)", counted(log.bytes)) } else { String::new() };
            format!("; the log {whole}{bytes}")
        }
        _ => String::new(),
    };
    format!("{how}{message}{exit}{log}")
}
