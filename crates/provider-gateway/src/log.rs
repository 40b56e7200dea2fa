//! An attempt's log on its way to the server: appended to a spool on disk first, sent from there, forgotten when acknowledged.

mod room;
mod spool;

pub use room::{Room, SpoolLimits};
pub use spool::{Cursor, Spool};

use bytes::Bytes;
use domain::{ids::Held, outcome::LogTotals, quantity::show_bytes};
use protocol::{LogFrame, LogPayload, MAX_LOG_BYTES, Stream};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// Handle to append to one attempt's log. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {
    shared: Arc<Shared>,
}

struct Shared {
    held: Held,
    limit_bytes: u64,
    spool: Mutex<Spool>,
    room: Arc<Room>,
    /// Nothing is appended any more.
    is_closed: AtomicBool,
    /// Rings when something was appended: shared by all attempts of an agent, heard by its connection.
    appended: Arc<Notify>,
    /// Rings when something was acknowledged.
    acknowledged: Notify,
}

impl AttemptLog {
    /// Opens the log of an attempt in its directory, as far as it is there already.
    pub fn open(dir: &Path, held: Held, limit_bytes: u64, appended: Arc<Notify>) -> std::io::Result<Self> {
        Self::open_in(dir, held, limit_bytes, appended, Arc::default())
    }

    /// As [`AttemptLog::open`], sharing the node's room with the logs of other attempts.
    pub fn open_in(
        dir: &Path,
        held: Held,
        limit_bytes: u64,
        appended: Arc<Notify>,
        room: Arc<Room>,
    ) -> std::io::Result<Self> {
        let mut spool = Spool::open(dir)?;
        spool.set_segment_bytes(room.limits().attempt_bytes / 8);
        room.take(spool.stored_bytes());
        let shared = Shared {
            held,
            limit_bytes,
            spool: Mutex::new(spool),
            room,
            is_closed: AtomicBool::new(false),
            appended,
            acknowledged: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Appends bytes as they were written. Returns when they are in the spool. A spool that is full holds the writer for a moment
    /// while a server is there that may catch up; then, and at once while there is none, bytes between the beginning and the newest
    /// end go, and a gap says how many. So does a full disk: the process goes on. Over the attempt's log limit bytes are dropped, and
    /// one marker says so.
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
        if !self.is_full() || !self.shared.room.is_connected() {
            return;
        }
        let has_room = async {
            loop {
                let acknowledged = self.shared.acknowledged.notified();
                if !self.is_full() || !self.shared.room.is_connected() {
                    return;
                }
                acknowledged.await;
            }
        };
        let _ = tokio::time::timeout(self.shared.room.limits().patience, has_room).await;
    }

    fn is_full(&self) -> bool {
        self.shared.room.is_full(self.lock().stored_bytes())
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
        let (room, length) = (&self.shared.room, piece.len() as u64);
        let before = spool.stored_bytes();
        let is_full = |spool: &Spool| room.is_full_with(spool.stored_bytes(), before);
        while is_full(spool) && (spool.reuse_acknowledged() || spool.drop_middle()) {}
        // The last of the disk is for results.
        let kept = if is_full(spool) || !room.has_disk(spool.dir(), length) {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            spool.append(stream, LogPayload::Bytes(piece.clone()))
        };
        // Output that can't be kept must not stop the work.
        let kept = kept.or_else(|error| {
            let has_made_room = spool.reuse_acknowledged() || spool.drop_middle();
            if has_made_room && room.has_disk(spool.dir(), length) {
                spool.append(stream, LogPayload::Bytes(piece))
            } else {
                Err(error)
            }
        });
        if let Err(error) = kept {
            if !spool.is_gapped() {
                tracing::error!(attempt.id = %self.shared.held.attempt, %error, "a log can't be kept whole; a gap says what is missing");
            }
            spool.skip(stream, length);
        }
        room.changed(before, spool.stored_bytes());
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
        LogTotals { bytes: spool.output_bytes(), complete: !spool.is_limited() && !spool.is_gapped() }
    }

    /// The next piece to send after `cursor`, which moves on.
    pub fn read_next(&self, cursor: &mut Cursor) -> std::io::Result<Option<LogFrame>> {
        let is_closed = self.shared.is_closed.load(Ordering::Relaxed);
        Ok(self.lock().read_next(cursor, is_closed)?.map(|record| LogFrame {
            held: self.shared.held,
            stream: record.stream,
            ordinal: record.ordinal,
            offset: record.offset,
            payload: record.payload,
        }))
    }

    /// The server has committed every byte of `stream` before `next_offset`.
    pub fn acknowledge(&self, stream: Stream, next_offset: u64) {
        self.change(|spool| spool.acknowledge(stream, next_offset));
    }

    /// The server said in its welcome that it has every byte of `stream` before `next_offset`, and no other.
    pub fn resume(&self, stream: Stream, next_offset: u64) {
        self.change(|spool| spool.resume(stream, next_offset));
    }

    fn change(&self, change: impl FnOnce(&mut Spool)) {
        let mut spool = self.lock();
        let before = spool.stored_bytes();
        change(&mut spool);
        self.shared.room.changed(before, spool.stored_bytes());
        drop(spool);
        self.shared.acknowledged.notify_waiters();
    }

    /// Nothing is appended from here on. Returns when the server has committed every byte, and every gap.
    pub async fn acknowledged(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        self.shared.appended.notify_one();
        loop {
            let acknowledged = self.shared.acknowledged.notified();
            if self.is_acknowledged() {
                return;
            }
            acknowledged.await;
        }
    }

    /// As [`AttemptLog::acknowledged`] where it would return at once; None: it would wait.
    pub fn settled(&self) -> Option<LogTotals> {
        if !self.is_acknowledged() {
            return None;
        }
        self.shared.is_closed.store(true, Ordering::Relaxed);
        Some(self.totals())
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

impl Drop for Shared {
    fn drop(&mut self) {
        let stored = self.spool.get_mut().unwrap_or_else(PoisonError::into_inner).stored_bytes();
        self.room.changed(stored, 0);
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests;
