//! Where words go: data to stdout, people's text to stderr, and only where somebody reads it.

use crate::{
    cli::{ColourChoice, Format, Globals, ProgressChoice},
    failure::{Failure, Told},
    style::{Glyph, Style},
    text::{clean, cut},
};
use chrono::{DateTime, FixedOffset, Local};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How a running thing is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Lines that are redrawn in place, then replaced by the finished phase.
    Live,
    /// Finished phases only, one line each.
    Plain,
    /// The same, with the whole output of the build.
    Build,
    Off,
}

#[derive(Clone, Debug)]
pub struct Output {
    pub format: Format,
    pub stdout_is_terminal: bool,
    pub stderr_is_terminal: bool,
    pub stdin_is_terminal: bool,
    /// For stdout.
    pub style: Style,
    /// For stderr.
    pub people: Style,
    pub progress: Progress,
    /// `ACCESSIBLE`: nothing is redrawn.
    pub accessible: bool,
}

impl Output {
    pub fn new(globals: &Globals) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let (stdout, stderr) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let colour = |terminal: bool| match globals.color {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto => terminal && !dumb && !set("NO_COLOR"),
        };
        let accessible = set("ACCESSIBLE");
        let unicode = !accessible && speaks_utf8();
        let progress = match globals.progress {
            ProgressChoice::Plain => Progress::Plain,
            ProgressChoice::Build => Progress::Build,
            ProgressChoice::Off => Progress::Off,
            ProgressChoice::Auto if !stderr => Progress::Off,
            ProgressChoice::Auto if dumb || accessible => Progress::Plain,
            ProgressChoice::Auto => Progress::Live,
        };
        Self {
            format: globals.output,
            stdout_is_terminal: stdout,
            stderr_is_terminal: stderr,
            stdin_is_terminal: std::io::stdin().is_terminal(),
            style: Style { colour: colour(stdout), unicode },
            people: Style { colour: colour(stderr), unicode },
            progress,
            accessible,
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Somebody sits at the other end and can be asked.
    pub fn can_ask(&self) -> bool {
        self.stdin_is_terminal && self.stderr_is_terminal
    }

    /// Writes data. Errors: `Closed` when its reader is gone.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// One JSON value on a line of its own.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.data(&(json_line(value) + "\n"))
    }

    /// A line for people, seen on a terminal only.
    pub fn hint(&self, line: &str) {
        if self.stderr_is_terminal {
            self.eprint_line(line);
        }
    }

    /// A line that matters everywhere. Off a terminal it has no glyph and says whose it is.
    pub fn tell(&self, glyph: Glyph, word: &str, rest: &str) {
        self.eprint_line(&if self.stderr_is_terminal {
            self.people.phase(glyph, word, rest)
        } else {
            format!("unidesk: {word}: {rest}")
        });
    }

    /// A line to stderr as it is.
    pub fn line(&self, line: &str) {
        self.eprint_line(line);
    }

    pub fn error(&self, told: &Told) {
        if self.is_json() {
            self.eprint_line(&json_line(&told.json));
            return;
        }
        for line in told.lines(&self.people, self.stderr_is_terminal) {
            self.eprint_line(&line);
        }
    }

    /// Columns of stdout's terminal.
    pub fn width(&self) -> usize {
        columns(std::io::stdout())
    }

    /// In place of the redrawn line, if one stands there.
    fn eprint_line(&self, line: &str) {
        let clear = if self.progress == Progress::Live { "\r\x1b[2K" } else { "" };
        let _ = writeln!(std::io::stderr().lock(), "{clear}{line}");
    }

    /// Redraws the one line at the bottom; an empty one removes it.
    pub fn redraw(&self, line: &str) {
        if self.progress == Progress::Live {
            let line = cut(line, columns(std::io::stderr()).saturating_sub(1));
            let mut stderr = std::io::stderr().lock();
            // The line goes to people only: when it can't be written, nobody is there to tell.
            let _ = write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush());
        }
    }
}

fn columns(terminal: impl std::os::fd::AsFd) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 100,
    }
}

/// By the locale, as every program of this system does it.
fn speaks_utf8() -> bool {
    let value = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .unwrap_or_default()
        .to_ascii_lowercase();
    value.contains("utf-8") || value.contains("utf8")
}

/// JSON on one line. C1 controls and DEL, which JSON allows raw, are escaped, so that it can be looked at on a terminal.
pub fn json_line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|error| format!("{:?}", clean(&error.to_string())));
    if !json.contains(|c: char| c.is_control()) {
        return json;
    }
    json.chars().map(|c| if c.is_control() { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect()
}

/// The local time, which rendering gets as a value.
pub fn local_now() -> DateTime<FixedOffset> {
    Local::now().fixed_offset()
}
