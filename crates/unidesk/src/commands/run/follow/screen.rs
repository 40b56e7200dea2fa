//! What is written and in which order: the task's bytes as they are, our lines at column 0 between them, the redrawn line below.

use crate::{
    output::Output,
    sink::{Chunk, Sink},
    style::Glyph,
};
use bytes::Bytes;
use std::collections::VecDeque;

pub(super) struct Screen<'a> {
    pub(super) out: &'a Output,
    /// Decided, but not yet handed to the sink.
    queue: VecDeque<Chunk>,
    /// A redrawn line stands on the screen.
    drawn: bool,
    /// The log's last byte on the terminal was a newline, or there was none.
    at_line_start: bool,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a Output) -> Self {
        Self { out, queue: VecDeque::new(), drawn: false, at_line_start: true }
    }

    /// Nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<Chunk> {
        self.queue.pop_front()
    }

    pub(super) fn draw(&mut self, line: &str) {
        self.out.redraw(line);
        self.drawn = true;
    }

    pub(super) fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.out.redraw("");
        }
    }

    /// Bytes of the task to stdout.
    pub(super) fn data(&mut self, bytes: Bytes) {
        if self.out.stdout_is_terminal {
            self.at_line_start = bytes.ends_with(b"\n");
        }
        self.queue.push_back(Chunk::Out(bytes));
    }

    /// Bytes of others to stderr.
    pub(super) fn pass_on(&mut self, bytes: Bytes) {
        if self.out.stderr_is_terminal {
            self.at_line_start = bytes.ends_with(b"\n");
        }
        self.queue.push_back(Chunk::Err(bytes));
    }

    /// A line of ours, at column 0 and in no colour of the task's.
    pub(super) fn line(&mut self, line: &str) {
        self.erase();
        let mut text = String::new();
        if self.out.stderr_is_terminal {
            text += "\x1b[0m";
            if !std::mem::replace(&mut self.at_line_start, true) {
                text += "\n";
            }
            if !self.out.people.colour {
                text = text.replace("\x1b[0m", "");
            }
        }
        self.queue.push_back(Chunk::Err((text + line + "\n").into()));
    }

    pub(super) fn say(&mut self, glyph: Glyph, word: &str, rest: &str) {
        let line = if self.out.stderr_is_terminal {
            self.out.people.phase(glyph, word, rest)
        } else {
            format!("unidesk: {word}: {rest}")
        };
        self.line(&line);
    }

    /// Hands over what is left, and waits until it is written.
    pub(super) async fn drain(&mut self, sink: Sink) {
        for chunk in std::mem::take(&mut self.queue) {
            if sink.send(chunk).await.is_err() {
                // Nobody is left to tell.
                return;
            }
        }
        let _ = sink.finish().await;
    }
}
