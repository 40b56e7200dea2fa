//! `status`: one task on one screen.

use super::{
    View,
    list::run_time,
    provenance::{Provenance, repository, short_digest},
};
use crate::{
    style::tone_of_state,
    table::{Cell, Table},
    text::{clean, clean_lines, show_clock, show_limit, show_needs, show_span, split_not_retried},
};
use api_types::{
    artifact::TaskArtifact,
    task::{Attempt, Task},
};
use chrono::{DateTime, FixedOffset};
use domain::{
    quantity::{show_bytes, show_duration_ms},
    spec::{Input, TaskSpec},
    task::TaskState,
};

pub fn for_people(task: &Task, view: &View) -> String {
    let mut lines = vec![headline(task, view)];
    let (message, not_retried) = split_not_retried(&task.message);
    lines.extend(clean_lines(message).into_iter().take(20).map(|line| format!("           {line}")));
    lines.extend(not_retried.map(|reason| format!("           not retried: {}", clean(reason))));
    lines.extend(offline(task, view.now).map(|text| format!("waits      {text}")));
    let what = task.spec.as_ref().map(|spec| spec.command.display()).filter(|command| !command.is_empty());
    let what = what.map_or_else(String::new, |command| format!(": {}", clean(&command)));
    let when = show_clock(task.created_at, view.now);
    lines.push(format!("task       {} by {} {when}{what}", task.id, clean(&task.created_by)));
    if let Some(spec) = &task.spec {
        lines.extend(source(task, spec));
        lines.push(format!("needs      {}{}", show_needs(&spec.requirements.amounts), limits(task, spec, view)));
    }
    lines.extend(inputs(task));
    lines.extend(outputs(task));
    lines.extend(checkpoint(task, view));
    lines.extend(uses(task));
    let mut text = lines.join("\n") + "\n";
    if let Some(attempts) = task.attempts.as_deref().filter(|attempts| !attempts.is_empty()) {
        text += &attempt_table(task, attempts, view).for_people(&view.style, view.width);
    }
    text
}

/// What a task waits for whose node is offline: to come back, or to be replaced. None: it is not, or waits for a node like others.
pub fn offline(task: &Task, now: DateTime<FixedOffset>) -> Option<String> {
    let until = task.replaceable_at.filter(|_| task.condition.as_deref() == Some("node_offline"))?;
    let node = clean(task.node.as_deref().unwrap_or("its node"));
    Some(if until > now.to_utc() {
        format!("for {node}, which is offline, until {}; then for any node that fits", show_clock(until, now))
    } else {
        format!("for {node}, which is offline, or for any node that fits")
    })
}

fn headline(task: &Task, view: &View) -> String {
    let state = task.state.as_str();
    let state = view.style.paint(tone_of_state(state), state);
    let on = task.node.as_ref().map_or_else(String::new, |node| format!(" on {}", clean(node)));
    let run = run_time(task, view);
    let rest = match task.state {
        TaskState::Pending => format!(" for {}", show_span(task.created_at, view.now.to_utc())),
        TaskState::Assigned | TaskState::Preparing => on,
        TaskState::Running | TaskState::Finishing => on + &run.map_or_else(String::new, |run| format!(" for {run}")),
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
            let outcome = task.outcome.as_deref().filter(|outcome| *outcome != state_word(task.state));
            let outcome = outcome.map_or_else(String::new, |outcome| format!(": {}", clean(outcome)));
            let after = run.map_or_else(String::new, |run| format!(" after {run}"));
            let code = task.exit_code.map_or_else(String::new, |code| format!(", exit {code}"));
            let at = task.ended_at.map_or_else(String::new, |at| format!(", {}", show_clock(at, view.now)));
            format!("{outcome}{after}{on}{code}{at}")
        }
    };
    let attempt = if task.attempt > 1 { format!(", attempt {}", task.attempt) } else { String::new() };
    let condition =
        task.condition.as_ref().map_or_else(String::new, |what| format!("; {}", clean(&what.replace('_', " "))));
    let cancel = if task.cancel_requested && !task.state.is_terminal() { "; being cancelled" } else { "" };
    format!("{}  {state}{rest}{attempt}{condition}{cancel}", clean(&task.name))
}

fn state_word(state: TaskState) -> &'static str {
    state.as_str()
}

fn source(task: &Task, spec: &TaskSpec) -> Option<String> {
    let mut parts = Vec::new();
    let name =
        |url: &str, commit: &str| clean(&format!("{}@{}", repository(url), commit.chars().take(8).collect::<String>()));
    if let Some(code) = &spec.source.code {
        parts.push(format!("code {}", name(code.url.as_str(), code.commit.as_str())));
    }
    if let Some(environment) = &spec.source.environment {
        let repo = &environment.repo;
        let pinned = name(repo.url.as_str(), repo.commit.as_str());
        parts.push(format!("env {pinned} {}", clean(environment.dockerfile_path.as_str())));
    }
    if let Some(image) = &task.image {
        parts.push(format!("image {}", short_digest(image.digest.as_deref().unwrap_or(&image.tag))));
    }
    (!parts.is_empty()).then(|| format!("source     {}", parts.join("   ")))
}

fn inputs(task: &Task) -> Vec<String> {
    let spec = task.spec.iter().flat_map(|spec| &spec.inputs);
    let line = |input: &Input| match &input.pinned {
        Some(pinned) => format!("{}@{} at {} ({})", pinned.name, pinned.version, input.path, show_bytes(pinned.size)),
        None => format!("{} at {}", input.artifact, input.path),
    };
    headed("inputs", spec.map(line))
}

/// What it has left, and what is declared and was not stored.
fn outputs(task: &Task) -> Vec<String> {
    let stored = |artifact: &TaskArtifact| {
        let of = task.attempts.iter().flatten().find(|attempt| attempt.id == artifact.attempt);
        // Of the attempt that counts it need not be said.
        let earlier = of.filter(|of| of.number != task.attempt).map(|of| format!(", of attempt {}", of.number));
        let size = show_bytes(artifact.size);
        format!("{}@{} {size}{}", artifact.name, artifact.version, earlier.unwrap_or_default())
    };
    let declared = task.spec.iter().flat_map(|spec| &spec.outputs);
    let missing = declared.filter(|output| task.artifacts.iter().all(|artifact| artifact.name != output.name));
    let missing = missing.map(|output| {
        let how = if task.state.is_terminal() { "not stored" } else { "not stored yet" };
        format!("{} of {}: {how}", output.name, output.path)
    });
    headed("outputs", task.artifacts.iter().map(stored).chain(missing))
}

/// Where the next attempt would go on, or that there is nothing yet.
fn checkpoint(task: &Task, view: &View) -> Option<String> {
    let every = show_limit(task.spec.as_ref()?.checkpoints.as_ref()?.every_ms);
    Some(match &task.checkpoint {
        Some(stored) => {
            let of = task.attempts.iter().flatten().find(|attempt| attempt.id == stored.attempt);
            let of = of.map_or_else(String::new, |of| format!(" of attempt {}", of.number));
            let (size, when) = (show_bytes(stored.size), show_clock(stored.stored_at, view.now));
            format!("checkpoint number {}{of}, {size}, {when}; every {every}", stored.version)
        }
        None if task.state.is_terminal() => "checkpoint none is kept".to_owned(),
        None => format!("checkpoint none yet; every {every}"),
    })
}

/// A word before the first of them.
fn headed(word: &str, lines: impl Iterator<Item = String>) -> Vec<String> {
    let head = |at: usize| if at == 0 { word } else { "" };
    lines.enumerate().map(|(at, line)| format!("{:<11}{}", head(at), clean(&line))).collect()
}

fn limits(task: &Task, spec: &TaskSpec, view: &View) -> String {
    let Some(timeout) = spec.timeout_ms else { return String::new() };
    let left = match (task.state, task.started_at) {
        (TaskState::Running, Some(started)) => {
            let ran = (view.now.to_utc() - started).num_milliseconds().max(0) as u64;
            format!(", {} left", show_duration_ms(timeout.saturating_sub(ran)))
        }
        _ => String::new(),
    };
    format!("; timeout {}{left}", show_limit(timeout))
}

fn uses(task: &Task) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(task.cpu_ms.map(|ms| format!("{} of cpu", show_duration_ms(ms))));
    parts.extend(task.peak_memory_bytes.map(|bytes| format!("peak {}", show_bytes(bytes))));
    if task.log.bytes > 0 || task.state.is_terminal() {
        let whole = if task.state.is_terminal() && !task.log.complete { ", not complete" } else { "" };
        parts.push(format!("log {}{whole}", show_bytes(task.log.bytes)));
    }
    (!parts.is_empty()).then(|| format!("uses       {}", parts.join(", ")))
}

fn attempt_table(task: &Task, attempts: &[Attempt], view: &View) -> Table {
    let mut table = Table::new(["ATTEMPT", "NODE", "STATE", "WAITED", "PREPARED", "IMAGE", "RAN", "END"]);
    let mut waits_since = task.created_at;
    for attempt in attempts {
        let state = attempt.state.as_str();
        let prepared = attempt.started_at.map(|started| show_span(attempt.placed_at, started));
        let image = attempt.provenance.as_ref().and_then(|provenance| Provenance::read(provenance).image);
        let ran = match (&attempt.exit, attempt.started_at) {
            (Some(exit), _) => Some(show_duration_ms(exit.duration_ms)),
            (None, Some(started)) => Some(show_span(started, attempt.ended_at.unwrap_or(view.now.to_utc()))),
            (None, None) => None,
        };
        let end = attempt.ended_at.map(|at| {
            let word = attempt.failure.map_or_else(|| "ok".to_owned(), |failure| failure.to_string());
            format!("{word} {}", show_clock(at, view.now))
        });
        table.row([
            attempt.number.to_string().into(),
            attempt.node.as_str().into(),
            Cell::toned(state, tone_of_state(state)),
            show_span(waits_since, attempt.placed_at).into(),
            prepared.unwrap_or_else(|| "-".into()).into(),
            image.map_or("-", |image| if image.warm { "warm" } else { "built" }).into(),
            ran.unwrap_or_else(|| "-".into()).into(),
            end.unwrap_or_else(|| "-".into()).into(),
        ]);
        waits_since = attempt.ended_at.unwrap_or(attempt.placed_at);
    }
    table
}
