//! What a person is told when a command can't do what was asked: what happened, why, and what to do. Pure, so that the words
//! are pinned by tests.

use crate::{connection::Connection, exit, text::clean};
use api_types::Problem;
use client::ClientError;
use serde_json::{Value, json};

/// Why a command ends before its work is done.
#[derive(Debug)]
pub enum Failure {
    /// The reader of stdout is gone. Not a fault, and nobody to tell.
    Closed,
    Told(Box<Told>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub exit: u8,
    /// One sentence, without `error:`.
    pub detail: String,
    /// Reasons and next steps, a line each.
    pub notes: Vec<String>,
    /// The problem object for `-o json`.
    pub json: Value,
}

impl Failure {
    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(exit::USAGE, detail)
    }
    pub fn new(exit: u8, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let json = json!({"type": "about:blank", "title": title_of(exit), "detail": detail, "errors": []});
        Self::Told(Box::new(Told { exit, detail: clean(&detail), notes: Vec::new(), json }))
    }
    pub fn note(mut self, note: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.notes.push(note.into());
        }
        self
    }
    /// The codes of `run` and `wait`, whose task may end with 5 itself.
    pub fn of_run(mut self) -> Self {
        if let Self::Told(told) = &mut self
            && told.exit == exit::UNREACHABLE
        {
            told.exit = exit::RUN_UNREACHABLE;
        }
        self
    }

    /// What went wrong with a request, with the settings that led there.
    pub fn of_client(error: &ClientError, connection: &Connection) -> Self {
        match error {
            ClientError::Problem(problem) => Self::of_problem(problem, connection),
            ClientError::Unreachable { .. } | ClientError::Protocol { .. } => {
                let failure = Self::new(exit::UNREACHABLE, error.to_string());
                connection.describe_url().into_iter().fold(failure, Self::note)
            }
        }
    }

    fn of_problem(problem: &Problem, connection: &Connection) -> Self {
        let exit = match problem.status {
            401 | 403 | 409 | 429 => exit::REFUSED,
            404 | 405 => exit::NOT_FOUND,
            500.. => exit::UNREACHABLE,
            _ => exit::USAGE,
        };
        let detail = match problem.word() {
            "not-authenticated" if connection.has_token() => {
                format!("{} does not accept the token: {}", connection.url, problem.detail)
            }
            "not-authenticated" => format!("not logged in to {}", connection.url),
            "internal" => match &problem.request_id {
                Some(id) => format!("{} (request {id})", problem.detail),
                None => problem.detail.clone(),
            },
            _ => problem.detail.clone(),
        };
        let mut notes = fault_lines(problem);
        if problem.status == 401 {
            notes.extend(connection.describe_token());
        }
        let json = serde_json::to_value(problem).unwrap_or_default();
        Self::Told(Box::new(Told { exit, detail: clean(&detail), notes, json }))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::new(exit::FAULT, error.to_string())
    }
}

fn title_of(exit: u8) -> &'static str {
    match exit {
        exit::USAGE => "The command can't be understood",
        exit::NOT_FOUND => "It was not found",
        exit::REFUSED => "It was refused",
        exit::UNREACHABLE | exit::RUN_UNREACHABLE => "The server can't be reached",
        _ => "It did not work",
    }
}

/// One line a fault, under the name of the flag that sets the field.
fn fault_lines(problem: &Problem) -> Vec<String> {
    let mut lines = Vec::new();
    for fault in &problem.errors {
        // The first fault's sentence is often the whole problem's: then its hint alone is news.
        let is_told = fault.detail == problem.detail;
        let said = match &fault.hint {
            Some(hint) if is_told => Some(hint.clone()),
            Some(hint) => Some(format!("{} ({hint})", fault.detail)),
            None if is_told => None,
            None => Some(fault.detail.clone()),
        };
        // What is no field of a body has no flag: its sentence says what it is about.
        let is_field = fault.parameter.is_none() && fault.header.is_none();
        let flag = is_field.then(|| flag_of(&fault.pointer));
        let line = match (flag, said) {
            (Some(flag), Some(said)) => format!("{flag}: {said}"),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => continue,
        };
        lines.push(clean(&line));
    }
    lines
}

/// The flag of `run` that sets this field; else the field as one would write it in YAML.
pub fn flag_of(pointer: &str) -> String {
    let path = pointer.trim_start_matches('#').trim_start_matches('/').replace("~1", "/").replace("~0", "~");
    let mut parts = path.split('/');
    match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        ("", ..) => "task".to_owned(),
        ("source", Some("build_args"), _) => "--build-arg".into(),
        ("source", Some(name), None) => format!("--{}", name.replace('_', "-")),
        ("requirements", Some("cpu_cores"), None) => "--cpus".into(),
        ("requirements", Some("labels"), _) => "--label".into(),
        ("requirements", Some(name @ ("memory" | "disk" | "gpus" | "gpu_memory" | "node")), None) => {
            format!("--{}", name.replace('_', "-"))
        }
        ("retry", Some("max_retries"), None) => "--retries".into(),
        ("env", ..) => "--env".into(),
        ("command", ..) => "command".into(),
        (
            name @ ("name" | "project" | "executor" | "priority" | "timeout" | "queue_timeout" | "network" | "user"
            | "workdir" | "log_limit"),
            None,
            None,
        ) => format!("--{}", name.replace('_', "-")),
        _ => path.replace('/', "."),
    }
}

impl Told {
    /// `error:` and its notes, as lines. Off a terminal the first says whose words these are.
    pub fn lines(&self, style: &crate::style::Style, terminal: bool) -> Vec<String> {
        let who = if terminal { "" } else { "unidesk: " };
        let label = style.paint(crate::style::Tone::Bad, "error:");
        let mut lines = vec![format!("{who}{label} {}", self.detail)];
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines
    }
}
