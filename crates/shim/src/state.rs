//! The one file in which agent and shim meet: who supervises, what was started, how it ended. Its output follows (see [`crate::log`]).

use crate::facts::Facts;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const SUPERVISOR_AT: u64 = 4_096;
const STARTED_AT: u64 = 4_224;
const EXIT_AT: u64 = 4_352;
const LOG_AT: u64 = 8_192;
const PAGE_BYTES: usize = 4_096;
const TRY_AGAIN: Duration = Duration::from_millis(200);

pub(crate) struct State {
    file: File,
    path: PathBuf,
}

impl State {
    /// None: another shim has this attempt, or had it.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut first = [0];
        if file.try_lock().is_err() || (file.read_at(&mut first, SUPERVISOR_AT)? == 1 && first != [0]) {
            return Ok(None);
        }
        Ok(Some(Self { file, path: path.to_owned() }))
    }

    /// Says who supervises. Takes the room for all that is to be said later, so that a disk which the process has filled can still hold
    /// how it ended.
    pub(crate) fn begin(&self, start: u64) -> io::Result<()> {
        let mut page = process(std::process::id() as i32, start).into_bytes();
        page.resize(PAGE_BYTES, 0);
        self.file.write_all_at(&page, SUPERVISOR_AT)
    }

    /// Nothing depends on it but how soon the start is seen: who supervises is known.
    pub(crate) fn started(&self, pid: i32, start: u64) {
        let _ = self.file.write_all_at(process(pid, start).as_bytes(), STARTED_AT);
    }

    /// Where output goes: which file, and from where on.
    pub(crate) fn log(&self) -> (&File, u64) {
        (&self.file, LOG_AT)
    }

    /// Tries until it is there. Ends without it only when the attempt's directory was deleted.
    pub(crate) fn publish(&self, facts: &Facts) {
        let text = facts.to_text();
        self.until_done(|| self.file.write_all_at(text.as_bytes(), EXIT_AT));
    }

    /// Makes all of it survive a power loss, its name included.
    pub(crate) fn sync(&self) {
        self.until_done(|| self.file.sync_all());
        // The attempt's directory, and the one that names it.
        for dir in self.path.ancestors().skip(1).take(2) {
            let _ = File::open(dir).and_then(|dir| dir.sync_all());
        }
    }

    fn until_done(&self, attempt: impl Fn() -> io::Result<()>) {
        while attempt().is_err()
            && self.file.metadata().is_ok_and(|meta| meta.nlink() > 0)
            && fs::exists(&self.path).unwrap_or(true)
        {
            thread::sleep(TRY_AGAIN);
        }
    }
}

fn process(pid: i32, start: u64) -> String {
    format!("pid={pid}\npid_start={start}\n")
}
