//! Sends logs from the spools: in turn, and never more at once than the server has shown it can take.

use crate::{log::Cursor, runtime::Logs};
use domain::ids::AttemptId;
use protocol::{LogFrame, Stream, delivery::Window};
use std::{collections::BTreeMap, io, time::Instant};

const MIN_WINDOW_BYTES: u64 = 64 * 1024;
const MAX_WINDOW_BYTES: u64 = 1 << 20;

pub(super) struct LogPump {
    logs: Logs,
    cursors: BTreeMap<AttemptId, Cursor>,
    window: Window,
    rate: Rate,
    /// Whose turn it was last.
    last: Option<AttemptId>,
    /// No log had anything to send: they are asked again when the bell has rung, not at every frame of the session.
    has_all: bool,
}

impl LogPump {
    pub(super) fn new(logs: Logs) -> Self {
        Self {
            logs,
            cursors: BTreeMap::new(),
            window: Window::default(),
            rate: Rate::new(),
            last: None,
            has_all: false,
        }
    }

    /// The next piece, as soon as there is one and room for it. Cancel-safe: a piece is taken and given in one step.
    pub(super) async fn next(&mut self) -> io::Result<LogFrame> {
        loop {
            if self.window.in_flight_bytes() >= self.rate.window_bytes() {
                // Only an acknowledgement helps, and it comes in through the session's other arm.
                std::future::pending::<()>().await;
            }
            if !self.has_all {
                if let Some(frame) = self.read_in_turn()? {
                    self.window.sent(&frame);
                    return Ok(frame);
                }
                self.has_all = true;
            }
            let appended = self.logs.appended.clone();
            appended.notified().await;
            self.has_all = false;
        }
    }

    /// Pieces that were sent in this session.
    pub(super) fn pieces(&self) -> u64 {
        self.window.pieces()
    }

    fn read_in_turn(&mut self) -> io::Result<Option<LogFrame>> {
        let logs = self.logs.all();
        let is_there = |attempt: AttemptId| logs.binary_search_by_key(&attempt, |(id, _)| *id).is_ok();
        self.cursors.retain(|attempt, _| is_there(*attempt));
        self.window.forget_unless(is_there);
        let start = logs.iter().position(|(id, _)| Some(*id) > self.last).unwrap_or(0);
        for (attempt, log) in logs.iter().cycle().skip(start).take(logs.len()) {
            let cursor = self.cursors.entry(*attempt).or_default();
            if let Some(frame) = log.read_next(cursor)? {
                self.last = Some(*attempt);
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    pub(super) fn acknowledged(&mut self, attempt: AttemptId, stream: Stream, next_offset: u64) {
        let bytes = self.window.acknowledged(attempt, stream, next_offset);
        self.rate.add(bytes);
    }
}

/// What the server acknowledged lately: two seconds of it may be on the way.
struct Rate {
    since: Instant,
    bytes: u64,
    bytes_per_second: f64,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0, bytes_per_second: 0.0 }
    }
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        let elapsed = self.since.elapsed().as_secs_f64();
        if elapsed >= 0.1 {
            let measured = self.bytes as f64 / elapsed;
            self.bytes_per_second =
                if measured > self.bytes_per_second { measured } else { 0.7 * self.bytes_per_second + 0.3 * measured };
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }
    fn window_bytes(&self) -> u64 {
        ((2.0 * self.bytes_per_second) as u64).clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES)
    }
}
