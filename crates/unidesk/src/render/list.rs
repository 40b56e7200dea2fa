//! `list`: a window on the server's tasks.

use super::View;
use crate::{
    style::tone_of_state,
    table::{Cell, Table},
    text::{show_age, show_count, show_span, split_not_retried},
};
use api_types::task::{Task, TaskPage};
use domain::{quantity::show_duration_ms, task::TaskState};

pub fn for_people(tasks: &[Task], view: &View) -> String {
    table(tasks, view, |task| task.id.short()).for_people(&view.style, view.width)
}

pub fn for_programs(tasks: &[Task], view: &View) -> String {
    table(tasks, view, |task| task.id.to_string()).for_programs()
}

fn table(tasks: &[Task], view: &View, id: impl Fn(&Task) -> String) -> Table {
    let mut table = Table::new(["ID", "NAME", "STATE", "NODE", "AGE", "RUN", "NOTE"]);
    for task in tasks {
        let state = task.state.as_str();
        table.row([
            id(task).into(),
            task.name.as_str().into(),
            Cell::toned(state, tone_of_state(state)),
            task.node.as_deref().unwrap_or("-").into(),
            show_age(view.now.to_utc() - task.created_at).into(),
            run_time(task, view).unwrap_or_else(|| "-".into()).into(),
            note(task).into(),
        ]);
    }
    table
}

/// How long it ran, or runs.
pub fn run_time(task: &Task, view: &View) -> Option<String> {
    match (task.state, task.duration_ms, task.started_at) {
        (TaskState::Running | TaskState::Finishing, _, Some(started)) => Some(show_span(started, view.now.to_utc())),
        (_, Some(ms), _) => Some(show_duration_ms(ms)),
        _ => None,
    }
}

/// The one thing that its state does not say.
fn note(task: &Task) -> String {
    if let Some(condition) = &task.condition {
        return condition.replace('_', " ");
    }
    match task.state {
        TaskState::Failed => match (task.outcome.as_deref(), task.exit_code) {
            (Some("exit_nonzero"), Some(code)) => format!("exit {code}"),
            (outcome, _) => outcome.unwrap_or_default().to_owned(),
        },
        TaskState::Pending => split_not_retried(&task.message).0.to_owned(),
        _ if task.cancel_requested && !task.state.is_terminal() => "being cancelled".into(),
        _ if task.attempt > 1 => format!("attempt {}", task.attempt),
        _ => String::new(),
    }
}

/// The line below: how much of how much this is.
pub fn footer(shown: usize, page: &TaskPage) -> String {
    let TaskPage { found, live, counts_are_minimum, .. } = *page;
    let at_least = if counts_are_minimum { "at least " } else { "" };
    match (shown as u64, found) {
        (0, _) => "No tasks here. Submit one: unidesk run \"ls -la /tmp\"".into(),
        (shown, found) if shown >= found && !counts_are_minimum => {
            format!("{} ({} live)", crate::text::plural(found, "task"), show_count(live))
        }
        (shown, found) => format!(
            "{} of {at_least}{} ({at_least}{} live). Others: --state failed, --limit 50",
            show_count(shown),
            show_count(found),
            show_count(live)
        ),
    }
}
