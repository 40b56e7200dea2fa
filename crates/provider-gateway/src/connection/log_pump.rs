//! Sends logs from the spools: in turn, and never more at once than the server has shown it can take.

use crate::{log::Cursor, runtime::Logs};
use domain::ids::AttemptId;
use protocol::{LogFrame, Stream};
use std::{collections::BTreeMap, io, time::Instant};

const MIN_WINDOW_BYTES: u64 = 64 * 1024;
const MAX_WINDOW_BYTES: u64 = 1 << 20;

pub(super) struct LogPump {
    logs: Logs,
    cursors: BTreeMap<AttemptId, Cursor>,
    /// (sent up to, acknowledged up to) of each stream in this session.
    streams: BTreeMap<(AttemptId, Stream), (u64, u64)>,
    in_flight_bytes: u64,
    rate: Rate,
    /// Whose turn it was last.
    last: Option<AttemptId>,
}

impl LogPump {
    pub(super) fn new(logs: Logs) -> Self {
        Self {
            logs,
            cursors: BTreeMap::new(),
            streams: BTreeMap::new(),
            in_flight_bytes: 0,
            rate: Rate::new(),
            last: None,
        }
    }

    /// The next piece, as soon as there is one and room for it. Cancel-safe: a piece is taken and given in one step.
    pub(super) async fn next(&mut self) -> io::Result<LogFrame> {
        loop {
            if self.in_flight_bytes < self.rate.window_bytes()
                && let Some(frame) = self.read_in_turn()?
            {
                let (sent, _) =
                    self.streams.entry((frame.held.attempt, frame.stream)).or_insert((frame.offset, frame.offset));
                *sent = frame.next_offset();
                self.in_flight_bytes += frame.payload.len();
                return Ok(frame);
            }
            if self.in_flight_bytes >= self.rate.window_bytes() {
                // Only an acknowledgement helps, and it comes in through the session's other arm.
                std::future::pending::<()>().await;
            }
            let appended = self.logs.appended.clone();
            appended.notified().await;
        }
    }

    fn read_in_turn(&mut self) -> io::Result<Option<LogFrame>> {
        let logs = self.logs.all();
        self.cursors.retain(|attempt, _| logs.iter().any(|(id, _)| id == attempt));
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
        let Some((sent, acknowledged)) = self.streams.get_mut(&(attempt, stream)) else { return };
        let upto = next_offset.min(*sent);
        let bytes = upto.saturating_sub(*acknowledged);
        *acknowledged = (*acknowledged).max(upto);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
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
