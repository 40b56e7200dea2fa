//! An attempt's log on its way to the server: appended to a spool on disk first, sent from there, forgotten when acknowledged.

mod spool;

pub use spool::{Cursor, Spool};

use bytes::Bytes;
use domain::{ids::Held, outcome::LogTotals, quantity::show_bytes};
use protocol::{LogFrame, LogPayload, MAX_LOG_BYTES, Stream};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes of one attempt's log that may wait on disk for the server. A writer over it waits.
const MAX_UNACKNOWLEDGED_BYTES: u64 = 64 << 20;

/// Handle to append to one attempt's log. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {
    shared: Arc<Shared>,
}

struct Shared {
    held: Held,
    limit_bytes: u64,
    spool: Mutex<Spool>,
    /// Rings when something was appended: shared by all attempts of an agent, heard by its connection.
    appended: Arc<Notify>,
    /// Rings when something was acknowledged.
    acknowledged: Notify,
}

impl AttemptLog {
    /// Opens the log of an attempt in its directory, as far as it is there already.
    pub fn open(dir: &Path, held: Held, limit_bytes: u64, appended: Arc<Notify>) -> std::io::Result<Self> {
        let spool = Mutex::new(Spool::open(dir)?);
        Ok(Self { shared: Arc::new(Shared { held, limit_bytes, spool, appended, acknowledged: Notify::new() }) })
    }

    /// Appends bytes as they were written. Returns when they are in the spool; waits while the spool is full. Over the attempt's
    /// log limit bytes are dropped, and one marker says so. A full disk ends the log with a marker too: the process goes on.
    pub async fn append(&self, stream: Stream, bytes: Bytes) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_LOG_BYTES));
            self.wait_for_room().await;
            self.append_piece(stream, piece);
        }
        self.shared.appended.notify_one();
    }

    async fn wait_for_room(&self) {
        loop {
            let acknowledged = self.shared.acknowledged.notified();
            if self.lock().unacknowledged_bytes() < MAX_UNACKNOWLEDGED_BYTES {
                return;
            }
            acknowledged.await;
        }
    }

    fn append_piece(&self, stream: Stream, mut piece: Bytes) {
        let mut spool = self.lock();
        // The agent's own lines are few and explain the rest: they have no limit.
        if stream != Stream::System {
            let room = self.shared.limit_bytes.saturating_sub(spool.output_bytes());
            if piece.len() as u64 > room {
                piece.truncate(room as usize);
                self.write(&mut spool, stream, piece);
                if !spool.is_limited() {
                    spool.set_limited();
                    let line = format!(
                        "log limit of {} reached: further output is discarded\n",
                        show_bytes(self.shared.limit_bytes)
                    );
                    self.write(&mut spool, Stream::System, line.into());
                }
                return;
            }
        }
        self.write(&mut spool, stream, piece);
    }

    fn write(&self, spool: &mut Spool, stream: Stream, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if let Err(error) = spool.append(stream, LogPayload::Bytes(piece)) {
            // Output that can't be kept must not stop the work; the reader is told by `complete: false` and the marker.
            tracing::error!(attempt.id = %self.shared.held.attempt, %error, "a piece of the log could not be written to the spool");
            spool.set_limited();
        }
    }

    /// Bytes of this stream that are kept so far, also before an agent restart. A reader that begins again from the start of a
    /// container's log skips so many bytes.
    pub fn offset(&self, stream: Stream) -> u64 {
        self.lock().next_offset(stream)
    }

    /// A line of the agent's own, in the `system` stream: what was fetched, what was left out.
    pub async fn note(&self, line: &str) {
        self.append(Stream::System, Bytes::from(format!("{line}\n"))).await;
    }

    pub fn totals(&self) -> LogTotals {
        let spool = self.lock();
        LogTotals { bytes: spool.output_bytes(), complete: !spool.is_limited() }
    }

    /// The next piece to send after `cursor`, which moves on.
    pub fn read_next(&self, cursor: &mut Cursor) -> std::io::Result<Option<LogFrame>> {
        Ok(self.lock().read_next(cursor)?.map(|record| LogFrame {
            held: self.shared.held,
            stream: record.stream,
            ordinal: record.ordinal,
            offset: record.offset,
            payload: record.payload,
        }))
    }

    /// The server has committed every byte of `stream` before `next_offset`.
    pub fn acknowledge(&self, stream: Stream, next_offset: u64) {
        self.lock().acknowledge(stream, next_offset);
        self.shared.acknowledged.notify_waiters();
    }

    /// Returns when the server has committed every byte.
    pub async fn acknowledged(&self) {
        loop {
            let acknowledged = self.shared.acknowledged.notified();
            if self.is_acknowledged() {
                return;
            }
            acknowledged.await;
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.lock().unacknowledged_bytes() == 0
    }

    /// Makes what is appended survive a power loss.
    pub fn sync(&self) -> std::io::Result<()> {
        self.lock().sync()
    }

    fn lock(&self) -> MutexGuard<'_, Spool> {
        // A panic in the middle of a write leaves at worst a torn record, which the next open cuts off.
        self.shared.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log of its own in the temporary directory, for tests of executors.
    pub fn capture() -> (Self, Captured) {
        use domain::ids::{AttemptId, Fence};
        let attempt = AttemptId::from_uuid(uuid::Uuid::new_v4());
        let dir = std::env::temp_dir().join(format!("unidesk-log-{attempt}"));
        let held = Held { attempt, fence: Fence::from_i64(1) };
        let log =
            Self::open(&dir, held, 1 << 40, Arc::new(Notify::new())).expect("the temporary directory is writable");
        (log.clone(), Captured { log, dir })
    }
}

/// What was appended to a log from [`AttemptLog::capture`]. Deletes it when dropped.
pub struct Captured {
    log: AttemptLog,
    dir: PathBuf,
}

impl Captured {
    pub fn bytes(&self, stream: Stream) -> Vec<u8> {
        self.pieces().into_iter().filter(|(of, _)| *of == stream).flat_map(|(_, bytes)| bytes).collect()
    }
    /// All pieces in the order of reading.
    pub fn pieces(&self) -> Vec<(Stream, Bytes)> {
        let mut cursor = Cursor::default();
        let mut pieces = Vec::new();
        while let Ok(Some(frame)) = self.log.read_next(&mut cursor) {
            if let LogPayload::Bytes(bytes) = frame.payload {
                pieces.push((frame.stream, bytes));
            }
        }
        pieces
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests;
