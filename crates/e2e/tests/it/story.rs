//! What a user reads about a task's end or a refusal, written down with everything that varies taken out.

use api_types::{Problem, task::Task, why::Why};
use client::ClientError;
use std::fmt::Write;

/// What is no part of the words: ports, ids, times, commits, places on this machine.
const VARIES: &[(&str, &str)] = &[
    (r"/tmp/ud-[A-Za-z0-9]+", "[world]"),
    (r"127\.0\.0\.1:\d+", "[host]"),
    (r"\bport \d+", "port [port]"),
    // What Docker's build cache holds is not the test's doing.
    (r" \(cached\)", ""),
    (r"tini \(\d+\)", "tini (PID)"),
    (r"unidesk/env:[0-9a-f]+", "unidesk/env:[key]"),
    (r"succeeded (just now|\d+ s ago)", "succeeded [when]"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[id]"),
    (r"\b[0-9a-f]{40}\b", "[commit]"),
    (r"\b\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
    (r"\b(after|for|waits) (\d+ ms|\d+(\.\d+)? s|\d+m( ?\d+s)?|\d+ min( \d+ s)?)\b", "$1 [duration]"),
    (r"\bpeak [0-9.]+ [KMG]iB", "peak [bytes]"),
];

/// Compares with the stored snapshot `name` after taking out what varies.
pub(crate) fn assert_story(name: &str, story: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, instead) in VARIES {
        settings.add_filter(pattern, *instead);
    }
    settings.bind(|| insta::assert_snapshot!(name, story));
}

/// Several cases under one snapshot.
#[derive(Default)]
pub(crate) struct Stories(String);

impl Stories {
    pub(crate) fn tell(&mut self, title: &str, story: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = write!(self.0, "{gap}# {title}\n{}\n", story.trim_end());
    }

    pub(crate) fn assert(&self, name: &str) {
        assert_story(name, &self.0);
    }
}

/// An ended task: its state, its message, what `why` says and would do.
pub(crate) fn of_ended(task: &Task, why: &Why) -> String {
    let outcome = task.outcome.as_deref().unwrap_or("-");
    let exit = match (task.exit_code, task.signal) {
        (None, None) => String::new(),
        (code, signal) => {
            let code = code.map_or_else(|| "-".to_owned(), |code| code.to_string());
            let signal = signal.map_or_else(String::new, |signal| format!(", signal {signal}"));
            format!(", exit {code}{signal}")
        }
    };
    // What BuildKit says of its own steps is not ours, and not always the same.
    // (A base that two builds share is called by the one that came first; a step that took half a second says so.)
    let is_moody = |line: &str| {
        line.starts_with("=> [internal]")
            || line.starts_with("=> copy /context")
            || line.contains("] FROM ")
            || line.starts_with("=> ") && line.contains(" took ")
    };
    let is_ours = |line: &&String| !is_moody(line);
    let last_lines = why.ended.iter().flat_map(|ended| &ended.last_lines).filter(is_ours);
    let log: String = last_lines.map(|line| format!("\n  log: {line}")).collect();
    format!("{}: {outcome}{exit}\nmessage: {}\n{}{log}", task.state, task.message, of_why(why))
}

pub(crate) fn of_why(why: &Why) -> String {
    // A task's short id is the end of its id.
    let id = why.task.short();
    let hints = why.hints.iter().map(|hint| format!("\n  try: {}", hint.replace(&id, "ID")));
    format!("why: {}{}", why.summary, hints.collect::<String>())
}

/// A refusal as a client sees it: all that the body says but its ids.
pub(crate) fn of_problem(problem: &Problem) -> String {
    let mut shown = problem.clone();
    shown.request_id = None;
    serde_json::to_string_pretty(&shown).expect("a problem is JSON")
}

pub(crate) fn problem_of<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Problem(problem)) => *problem,
        other => panic!("a refusal was expected: {other:?}"),
    }
}
