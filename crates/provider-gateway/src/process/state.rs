//! The state file of an attempt: what this agent keeps of it, and what its supervisor has said. The crate `shim` tells what stands where.
//!
//! One file, since making files is what costs most about a short task. Attempts of an earlier version have a file for each thing; they are
//! read as they are.

use super::{exit::ExitFile, pidfd::Process};
use crate::executor::Failure;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Its name in the attempt's directory.
pub const STATE: &str = "process";
const SUPERVISOR_AT: usize = 4_096;
const STARTED_AT: usize = 4_224;
const EXIT_AT: usize = 4_352;
const LOG_AT: usize = 8_192;

/// A record that is too long for its place stands here; so did all of an earlier version.
const LONG_RECORD: &str = "process.json";
/// Stands in the place of a record that is too long for it.
const ELSEWHERE: &[u8] = b"elsewhere\n";
/// Where the shim of an earlier version kept its files.
const OLD_SHIM: &str = "shim";

/// What the agent keeps of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Process ids and start times mean nothing after a reboot.
    pub(super) boot_id: String,
    /// The attempt's own user and group; None: the agent's.
    pub(super) uid: Option<u32>,
    /// Holds `work` and `tmp`.
    pub(super) scratch: PathBuf,
    /// Set when all is ready.
    pub(super) provenance: Option<serde_json::Map<String, serde_json::Value>>,
}

/// All that the file says.
#[derive(Debug, Default)]
pub(super) struct State {
    /// None: nothing was prepared here, or it is unreadable, which a crash in its first milliseconds can cause.
    pub(super) record: Option<Record>,
    pub(super) supervisor: Option<Process>,
    pub(super) started: Option<Process>,
    pub(super) exit: Option<ExitFile>,
}

impl State {
    pub(super) fn read(job_dir: &Path) -> Self {
        let Some(head) = read_head(job_dir) else { return Self::read_old(job_dir) };
        Self {
            record: Record::find(&head, job_dir),
            supervisor: process(text_at(&head, SUPERVISOR_AT..STARTED_AT)),
            started: process(text_at(&head, STARTED_AT..EXIT_AT)),
            // Cut short by a power loss, it says nothing.
            exit: Some(text_at(&head, EXIT_AT..LOG_AT)).filter(|text| text.ends_with("\nend\n")).map(ExitFile::parse),
        }
    }

    fn read_old(job_dir: &Path) -> Self {
        let file = |name: &str| fs::read_to_string(job_dir.join(OLD_SHIM).join(name)).ok();
        Self {
            record: Record::read_long(job_dir),
            supervisor: file("supervisor").as_deref().and_then(process),
            started: file("started").as_deref().and_then(process),
            exit: file("exit").as_deref().map(ExitFile::parse),
        }
    }
}

impl Record {
    pub(super) fn read(job_dir: &Path) -> Option<Self> {
        match read_head(job_dir) {
            Some(head) => Self::find(&head, job_dir),
            None => Self::read_long(job_dir),
        }
    }

    fn find(head: &[u8], job_dir: &Path) -> Option<Self> {
        // An earlier version left none here.
        if head.starts_with(ELSEWHERE) || head.starts_with(b"\0") {
            return Self::read_long(job_dir);
        }
        let line = head[..SUPERVISOR_AT.min(head.len())].split(|byte| *byte == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }

    fn read_long(job_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(job_dir.join(LONG_RECORD)).ok()?).ok()
    }

    pub(super) fn write(&self, job_dir: &Path) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let mut json = serde_json::to_vec(self)?;
            json.push(b'\n');
            if json.len() > SUPERVISOR_AT {
                let unfinished = job_dir.join("process.json.new");
                fs::write(&unfinished, json)?;
                fs::rename(unfinished, job_dir.join(LONG_RECORD))?;
                json = ELSEWHERE.to_vec();
            }
            // All in one page, so a kill leaves the one or the other.
            open(job_dir)?.write_all_at(&json, 0)
        };
        write().map_err(|error| Failure::node(format!("{} can't be written: {error}.", job_dir.join(STATE).display())))
    }

    pub(super) fn work(&self) -> PathBuf {
        self.scratch.join("work")
    }
    pub(super) fn tmp(&self) -> PathBuf {
        self.scratch.join("tmp")
    }
}

/// Forgets all that was said, and keeps the empty file for the next attempt: unless a shim still has it, which may go on writing.
pub(super) fn clear(job_dir: &Path) -> io::Result<()> {
    super::remove_tree(&job_dir.join(OLD_SHIM))?;
    super::remove_tree(&job_dir.join(LONG_RECORD))?;
    let path = job_dir.join(STATE);
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) if file.try_lock().is_ok() => file.set_len(0),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file that the shim's output is in, and where it begins.
pub(super) fn output(job_dir: &Path) -> (PathBuf, u64) {
    let (state, old) = (job_dir.join(STATE), job_dir.join(OLD_SHIM));
    // Both are there where the earlier version was killed on its way to a start.
    if old.is_dir() && !state.exists() { (old.join("log"), 0) } else { (state, LOG_AT as u64) }
}

fn open(job_dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(job_dir.join(STATE))
}

/// All before the output. None: nothing is there.
fn read_head(job_dir: &Path) -> Option<Vec<u8>> {
    let file = File::open(job_dir.join(STATE)).ok()?;
    let mut head = vec![0; LOG_AT];
    let mut there = 0;
    while there < LOG_AT
        && let Ok(count @ 1..) = file.read_at(&mut head[there..], there as u64)
    {
        there += count;
    }
    (there > 0).then_some(head)
}

/// Up to the first NUL: nothing was written from there on.
fn text_at(head: &[u8], range: std::ops::Range<usize>) -> &str {
    let place = head.get(range).unwrap_or_default();
    let text = place.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).unwrap_or_default()
}

/// None also while it is being written.
fn process(text: &str) -> Option<Process> {
    let text = text.strip_suffix('\n')?;
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(Process { pid: field("pid")?.parse().ok()?, start: field("pid_start")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(note: &str) -> Record {
        let provenance = json!({ "note": note }).as_object().cloned();
        Record { boot_id: "b".into(), uid: Some(7), scratch: "/s".into(), provenance }
    }

    #[test]
    fn a_record_of_any_length_is_read_as_it_was_written_and_a_later_shorter_one_too() {
        let dir = tempfile::tempdir().expect("a directory");
        for length in [10, 5_000, 3, 3_900, 4_096, 0] {
            let written = record(&"x".repeat(length));
            written.write(dir.path()).expect("written");
            assert_eq!(Record::read(dir.path()), Some(written), "{length}");
        }
        clear(dir.path()).expect("cleared");
        assert_eq!(Record::read(dir.path()), None);
        let left: Vec<_> = fs::read_dir(dir.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, [STATE]);
    }

    #[test]
    fn an_exit_that_was_cut_short_says_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        record("").write(dir.path()).expect("written");
        let exit = "pid=4\ncode=3\nkernel_kills=0\nend\n";
        for length in 0..=exit.len() {
            let file = open(dir.path()).expect("opened");
            file.write_all_at(&exit.as_bytes()[..length], EXIT_AT as u64).expect("written");
            let read = State::read(dir.path()).exit;
            assert_eq!(read.and_then(|exit| exit.code), (length == exit.len()).then_some(3), "{length} bytes");
        }
    }

    #[test]
    fn what_an_earlier_version_left_is_understood() {
        let dir = tempfile::tempdir().expect("a directory");
        let written = record("old");
        fs::write(dir.path().join("process.json"), serde_json::to_vec(&written).expect("json")).expect("written");
        fs::create_dir(dir.path().join("shim")).expect("made");
        for (name, text) in [
            ("supervisor", "pid=11\npid_start=12\n"),
            ("started", "pid=13\npid_start=14\n"),
            ("exit", "pid=13\ncode=9\nalive=0\n"),
        ] {
            fs::write(dir.path().join("shim").join(name), text).expect("written");
        }
        let state = State::read(dir.path());
        assert_eq!(state.record, Some(written));
        assert_eq!(state.supervisor, Some(Process { pid: 11, start: 12 }));
        assert_eq!(state.started, Some(Process { pid: 13, start: 14 }));
        assert_eq!(state.exit.and_then(|exit| exit.code), Some(9));
        assert_eq!(output(dir.path()), (dir.path().join("shim/log"), 0));
        // Begun by this version after all, its output is where this version's shim puts it.
        open(dir.path()).expect("made");
        assert_eq!(output(dir.path()), (dir.path().join(STATE), LOG_AT as u64));
    }

    #[test]
    fn a_file_that_a_shim_still_has_is_not_left_for_the_next_attempt() {
        let dir = tempfile::tempdir().expect("a directory");
        record("").write(dir.path()).expect("written");
        let stuck = open(dir.path()).expect("opened");
        stuck.lock().expect("locked");
        clear(dir.path()).expect("cleared");
        assert!(!dir.path().join(STATE).exists());
        stuck.write_all_at(b"pid=1\npid_start=2\n", SUPERVISOR_AT as u64).expect("written");
        assert_eq!(State::read(dir.path()).supervisor, None, "it speaks to nobody");
    }

    #[test]
    fn a_process_that_is_half_written_down_is_none_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = open(dir.path()).expect("opened");
        let said = "pid=123\npid_start=4567\n";
        for length in 0..=said.len() {
            file.write_all_at(&said.as_bytes()[..length], SUPERVISOR_AT as u64).expect("written");
            let seen = State::read(dir.path()).supervisor;
            assert_eq!(seen, (length == said.len()).then_some(Process { pid: 123, start: 4567 }), "{length} bytes");
        }
    }
}
