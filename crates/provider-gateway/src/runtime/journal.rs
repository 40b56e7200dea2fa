//! What the agent knows of its attempts, on disk: one file that only grows, and is written anew when most of it is history.
//!
//! A record of an attempt changes half a dozen times, and a node has hundreds of attempts at once. Each change is an entry at the end of the
//! file; all changes that are known at one time are one write and one sync. An entry is its length (4 bytes, little endian), the
//! CRC-32 of its text (4 bytes) and JSON. What a kill or a power loss cut off at the end was not answered for, and goes when the file is
//! opened again. Nothing but [`Journal`] touches the file.

use crate::agent::Record;
use domain::ids::AttemptId;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const HEADER_BYTES: usize = 8;
/// Below this, history is not worth a new file.
const COMPACT_FROM_BYTES: u64 = 4 << 20;
/// A longer entry was not written by us.
const MAX_ENTRY_BYTES: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Put(Box<Kept>),
    Gone(AttemptId),
}

/// A record, and what the shell adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(super) record: Record,
    /// The run of the machine in which it was got ready. Afterwards its files may tell less than the truth: they are not synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prepared_in: Option<String>,
}

impl Kept {
    fn attempt(&self) -> AttemptId {
        self.record.assign.held.attempt
    }
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Whole entries. What a failed write left behind them is overwritten.
    len: u64,
    /// The newest entry of each attempt, as it is in the file.
    live: BTreeMap<AttemptId, Live>,
    /// Whole entries that this version does not understand, as a later one may have written: kept for it, in every new file.
    foreign: Vec<u8>,
    /// What a new file would hold.
    live_bytes: u64,
    /// Entries that may wait for the next write.
    waiting: Vec<u8>,
    compact_from: u64,
    boot: String,
    /// A sync failed: what is in the file now, or whether it has its name, is uncertain, so the next write makes a new one.
    is_doubtful: bool,
}

#[derive(Debug)]
struct Live {
    entry: Vec<u8>,
    prepared_in: Option<String>,
}

/// What was found when it was opened.
pub(crate) struct Opened {
    pub(super) journal: Journal,
    pub(super) kept: Vec<Kept>,
    /// Bytes at the end that were no whole entries, and are gone.
    pub(super) cut_bytes: u64,
    /// Bytes of whole entries that are not understood, and stay.
    pub(super) foreign_bytes: u64,
    /// What an earlier version kept is in the journal now. False: there was no room for it.
    pub(super) took_over: bool,
}

impl Journal {
    /// Opens the journal, with `older` added, which an earlier version kept elsewhere. `boot`: the machine's present run.
    pub(super) fn open(path: &Path, boot: String, older: Vec<Record>) -> io::Result<Opened> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let Replayed { mut kept, foreign, whole } = replay(&bytes);
        let has_older = !older.is_empty();
        for record in older {
            let one = Kept { record, prepared_in: None };
            kept.entry(one.attempt()).or_insert(one);
        }
        let file = open_file(path)?;
        // Whole entries behind a torn one must not come to life when it is overwritten.
        file.set_len(whole as u64)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            len: whole as u64,
            live: BTreeMap::new(),
            live_bytes: foreign.len() as u64,
            foreign,
            waiting: Vec::new(),
            compact_from: COMPACT_FROM_BYTES,
            boot,
            is_doubtful: false,
        };
        for one in kept.values() {
            let entry = encode(&Entry::Put(Box::new(one.clone())))?;
            journal.keep(one.attempt(), entry, one.prepared_in.clone());
        }
        // On a disk so full that there is no room for it, the old file goes on.
        let is_fresh = journal
            .compact()
            .inspect_err(|error| tracing::warn!(%error, "the journal could not be written anew"))
            .is_ok();
        // Its end may never have been synced, and what it says is about to be said to the server.
        journal.is_doubtful = !is_fresh && journal.file.sync_all().and_then(|()| journal.sync_name()).is_err();
        let (cut_bytes, foreign_bytes) = ((bytes.len() - whole) as u64, journal.foreign.len() as u64);
        let took_over = is_fresh || !has_older;
        Ok(Opened { journal, kept: kept.into_values().collect(), cut_bytes, foreign_bytes, took_over })
    }

    /// Writes all of it and makes it survive a power loss: all or, as far as anybody is told, nothing.
    pub(super) fn commit(&mut self, records: &[Record]) -> io::Result<()> {
        if self.is_doubtful {
            // The kernel has forgotten which pages it could not write: only a new file tells the truth.
            self.compact()?;
        }
        let (mut fresh, mut entries) = (Vec::with_capacity(records.len()), Vec::new());
        for record in records {
            let attempt = record.assign.held.attempt;
            let before = self.live.get(&attempt).and_then(|live| live.prepared_in.clone());
            let prepared_in = before.or_else(|| record.provenance.is_some().then(|| self.boot.clone()));
            let entry =
                encode(&Entry::Put(Box::new(Kept { record: record.clone(), prepared_in: prepared_in.clone() })))?;
            entries.extend_from_slice(&entry);
            fresh.push((attempt, entry, prepared_in));
        }
        self.waiting.append(&mut entries);
        let before = self.len;
        if let Err(error) = self.write().and_then(|()| self.sync()) {
            // Not answered for, so it must not come back.
            self.len = before;
            let _ = self.file.set_len(before);
            return Err(error);
        }
        for (attempt, entry, prepared_in) in fresh {
            self.keep(attempt, entry, prepared_in);
        }
        self.compact_if_due();
        Ok(())
    }

    /// An attempt is no more. Written with what comes next: if that is lost, its last record says once more that it is released.
    pub(super) fn forget(&mut self, attempt: AttemptId) {
        if let Some(old) = self.live.remove(&attempt) {
            self.live_bytes -= old.entry.len() as u64;
            if let Ok(entry) = encode(&Entry::Gone(attempt)) {
                self.waiting.extend_from_slice(&entry);
            }
        }
    }

    /// Writes what waits, without a sync.
    pub(super) fn flush(&mut self) {
        if !self.waiting.is_empty() && self.write().is_err() {
            // It says only what may be forgotten.
            let _ = self.file.set_len(self.len);
        }
        self.compact_if_due();
    }

    fn keep(&mut self, attempt: AttemptId, entry: Vec<u8>, prepared_in: Option<String>) {
        self.live_bytes += entry.len() as u64;
        if let Some(old) = self.live.insert(attempt, Live { entry, prepared_in }) {
            self.live_bytes -= old.entry.len() as u64;
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.file.write_all_at(&waiting, self.len)?;
        self.len += waiting.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.is_doubtful |= synced.is_err();
        synced
    }

    fn compact_if_due(&mut self) {
        if self.len < self.compact_from || self.len < 4 * self.live_bytes {
            return;
        }
        let done = self.compact();
        // A full disk is not asked again at every step.
        self.compact_from = if done.is_ok() { COMPACT_FROM_BYTES } else { self.len + COMPACT_FROM_BYTES };
        if let Err(error) = done {
            tracing::warn!(%error, "the journal of attempts could not be written anew; it goes on growing");
        }
    }

    /// Puts a file with what is live in the place of this one. Killed at any moment, one of the two is there, whole.
    fn compact(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let made = self.write_anew(&fresh).and_then(|file| fs::rename(&fresh, &self.path).map(|()| file));
        match made {
            Ok(file) => {
                (self.file, self.len) = (file, self.live_bytes);
                // Until then a power loss brings the old file back, without what is synced in this one.
                self.is_doubtful = true;
                self.sync_name()?;
                self.is_doubtful = false;
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(fresh);
                Err(error)
            }
        }
    }

    fn sync_name(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    fn write_anew(&self, path: &Path) -> io::Result<File> {
        let _ = fs::remove_file(path);
        let mut file = open_file(path)?;
        let mut all = Vec::with_capacity(self.live_bytes as usize);
        all.extend_from_slice(&self.foreign);
        self.live.values().for_each(|live| all.extend_from_slice(&live.entry));
        file.write_all(&all)?;
        file.sync_data()?;
        Ok(file)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, entry).map_err(io::Error::other)?;
    let text = &bytes[HEADER_BYTES..];
    let (len, crc) = ((text.len() as u32).to_le_bytes(), crc32fast::hash(text).to_le_bytes());
    bytes[..4].copy_from_slice(&len);
    bytes[4..HEADER_BYTES].copy_from_slice(&crc);
    Ok(bytes)
}

/// What whole entries say.
struct Replayed {
    kept: BTreeMap<AttemptId, Kept>,
    foreign: Vec<u8>,
    /// How many bytes they are. What follows is torn.
    whole: usize,
}

fn replay(bytes: &[u8]) -> Replayed {
    let (mut kept, mut foreign, mut at) = (BTreeMap::new(), Vec::new(), 0);
    while let Some((text, next)) = read_entry(bytes, at) {
        match serde_json::from_slice::<Entry>(text) {
            Ok(Entry::Put(one)) => drop(kept.insert(one.attempt(), *one)),
            Ok(Entry::Gone(attempt)) => drop(kept.remove(&attempt)),
            Err(error) => {
                tracing::error!(%error, "an entry in the journal of attempts is whole, and not understood; it stays");
                foreign.extend_from_slice(&bytes[at..next]);
            }
        }
        at = next;
    }
    Replayed { kept, foreign, whole: at }
}

/// The text of the whole entry that begins there, and where the next one does.
fn read_entry(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (header, rest) = bytes.get(at..)?.split_at_checked(HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let len = word(0) as usize;
    let text = rest.get(..len).filter(|_| (1..=MAX_ENTRY_BYTES).contains(&len))?;
    (crc32fast::hash(text) == word(4)).then_some((text, at + HEADER_BYTES + len))
}

#[cfg(test)]
pub(super) mod tests;
