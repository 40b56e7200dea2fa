//! The log's part of following: bytes go on as they are, the build's lines become a step of the phase.

use super::Follow;
use crate::{
    output::Progress,
    style::{Glyph, Tone},
    text::{clean_lines, plural, show_count},
};
use bytes::Bytes;
use client::{Followed, LogItem, Piece};
use std::time::Instant;

impl Follow<'_> {
    pub(super) fn on_log(&mut self, item: Followed<LogItem>) {
        self.log_seen = Instant::now();
        match item {
            Followed::Event(LogItem::Piece(piece)) => self.on_piece(piece),
            Followed::Event(LogItem::Attempt(number)) => self.attempt = number,
            Followed::Event(LogItem::End(_)) => self.log_done = true,
            Followed::Disconnected { since, why } => self.cuts.lost(since, why),
            Followed::Resumed { after } => {
                if let Some(text) = self.cuts.back(after, self.seen_bytes)
                    && self.screen.out.stderr_is_terminal
                {
                    self.screen.say(Glyph::Done, "back", &text);
                }
            }
        }
    }

    fn on_piece(&mut self, piece: Piece) {
        match piece.stream.as_str() {
            "build" => self.on_build(&piece.bytes),
            "system" if repeats_a_phase(&piece.bytes) => {}
            _ => self.held = Some((piece, Instant::now())),
        }
    }

    fn on_build(&mut self, bytes: &Bytes) {
        if self.screen.out.progress == Progress::Build {
            self.screen.erase();
            self.screen.pass_on(bytes.clone());
            return;
        }
        for byte in bytes.iter() {
            if *byte == b'\n' {
                self.story.on_build_line(&String::from_utf8_lossy(&self.build_line));
                self.build_line.clear();
            } else if self.build_line.len() < 4_096 {
                self.build_line.push(*byte);
            }
        }
    }

    pub(super) fn write(&mut self, piece: &Piece) {
        self.screen.erase();
        if piece.attempt != self.attempt {
            self.attempt = piece.attempt;
            self.seen_bytes = 0;
        }
        if let Some(bytes) = piece.gap {
            let next = show_count(piece.offset + bytes);
            self.screen.say(
                Glyph::Warning,
                "gap",
                &format!("{} are missing here; the log goes on at byte {next}", plural(bytes, "byte")),
            );
        }
        let bytes = piece.bytes.clone();
        if bytes.is_empty() {
            return;
        }
        match piece.stream.as_str() {
            "system" => {
                if self.screen.out.stderr_is_terminal {
                    for line in clean_lines(&String::from_utf8_lossy(&bytes)) {
                        self.screen.line(&self.screen.out.people.paint(Tone::Faint, &format!("  {line}")));
                    }
                }
            }
            "stdout" if !self.screen.out.is_json() => {
                self.seen_bytes += bytes.len() as u64;
                self.screen.data(bytes);
            }
            // With -o json, stdout is for the one object.
            _ => {
                self.seen_bytes += bytes.len() as u64;
                self.screen.pass_on(bytes);
            }
        }
    }
}

/// Notes of the agent about what the phases tell better.
fn repeats_a_phase(line: &[u8]) -> bool {
    line.starts_with(b"source ") || line.starts_with(b"image ")
}
