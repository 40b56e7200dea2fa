//! Which contents lie whole on this node, who wants them, and which goes first: on disk, so that a restart neither takes a half for a whole nor
//! forgets what was used last.

use domain::ids::AttemptId;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::Mutex as AsyncMutex;

/// Contents by key, in one place of storage. What an attempt holds is never taken.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
    flights: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    whole: BTreeMap<String, Content>,
    held: HashMap<AttemptId, BTreeSet<String>>,
}

/// A content that is there, whole and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// By which it was fetched first: `imagenet@3`.
    pub(crate) name: String,
    /// On disk.
    pub(crate) bytes: u64,
    /// By the node's clock, milliseconds since 1970. Only compared with itself.
    last_used_ms: i64,
}

impl Shelf {
    /// `limit_bytes`: of what nobody uses, no more than this stays together with what is used. Errors: the record can't be read.
    pub fn open(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        let whole = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                // What it does not name is fetched again.
                tracing::warn!(%error, "the record of inputs can't be read and is begun anew");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let state = Mutex::new(State { whole, held: HashMap::new() });
        Ok(Self { path: path.to_owned(), limit_bytes, state, flights: Mutex::default() })
    }

    /// From now until [`Shelf::release`] an attempt wants it.
    pub(crate) fn hold(&self, attempt: AttemptId, key: &str) {
        self.state().held.entry(attempt).or_default().insert(key.to_owned());
    }
    pub(crate) fn release(&self, attempt: AttemptId) {
        self.state().held.remove(&attempt);
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        self.state().whole.contains_key(key)
    }
    /// Bytes of all.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.state().whole.values().map(|content| content.bytes).sum()
    }
    /// Whether so many more are more than are to stay.
    pub(crate) fn is_over(&self, more_bytes: u64) -> bool {
        self.used_bytes().saturating_add(more_bytes) > self.limit_bytes
    }

    /// It was used now. What a crash loses of that is an order.
    pub(crate) fn touch(&self, key: &str) {
        let mut state = self.state();
        if let Some(content) = state.whole.get_mut(key) {
            content.last_used_ms = now_ms();
            self.save_or_warn(&state.whole, false);
        }
    }

    /// It is whole, and on disk. Returns once that is on disk too. Blocks.
    pub(crate) fn add(&self, key: &str, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        let content = Content { name: name.to_owned(), bytes, last_used_ms: now_ms() };
        state.whole.insert(key.to_owned(), content);
        self.save(&state.whole, true)
    }

    /// It is not there, whoever took it.
    pub(crate) fn forget(&self, key: &str) {
        let mut state = self.state();
        if state.whole.remove(key).is_some() {
            self.save_or_warn(&state.whole, true);
        }
    }

    /// Takes the one off that was not used for longest and that nobody wants: before its bytes go, so that no half of it is ever taken for
    /// a whole. What was used within `unless_used_within` stays.
    pub(crate) fn take_idle(&self, unless_used_within: Duration) -> Option<(String, Content)> {
        let mut state = self.state();
        let spared_from = now_ms() - unless_used_within.as_millis() as i64;
        let is_held = |key: &String| state.held.values().any(|keys| keys.contains(key));
        let is_recent = |content: &Content| !unless_used_within.is_zero() && content.last_used_ms > spared_from;
        let idle = state.whole.iter().filter(|(key, content)| !is_held(key) && !is_recent(content));
        let key = idle.min_by_key(|(key, content)| (content.last_used_ms, *key)).map(|(key, _)| key.clone())?;
        let content = state.whole.remove(&key)?;
        if let Err(error) = self.save(&state.whole, true) {
            tracing::warn!(%error, "the record of inputs could not be written, so none of them goes");
            state.whole.insert(key, content);
            return None;
        }
        Some((key, content))
    }

    /// Whoever fetches or deletes this content holds it.
    pub(crate) fn flight(&self, key: &str) -> Arc<AsyncMutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::default();
        flights.insert(key.to_owned(), Arc::downgrade(&flight));
        flight
    }

    fn save_or_warn(&self, whole: &BTreeMap<String, Content>, is_synced: bool) {
        if let Err(error) = self.save(whole, is_synced) {
            tracing::warn!(%error, "the record of inputs could not be written");
        }
    }

    fn save(&self, whole: &BTreeMap<String, Content>, is_synced: bool) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(whole)?)?;
        if is_synced {
            file.sync_all()?;
        }
        std::fs::rename(new, &self.path)?;
        match self.path.parent().filter(|_| is_synced) {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_was_unused_for_longest_goes_first_and_what_an_attempt_wants_never() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inputs.json");
        let shelf = Shelf::open(&path, 25).expect("opened");
        for key in ["a", "b", "c"] {
            shelf.add(key, key, 10).expect("kept");
            std::thread::sleep(Duration::from_millis(2));
        }
        shelf.touch("a");
        let attempt = AttemptId::from_uuid(Uuid::from_u128(1));
        shelf.hold(attempt, "b");
        assert!(shelf.is_over(0) && shelf.used_bytes() == 30);

        let next = Shelf::open(&path, 25).expect("opened");
        next.hold(attempt, "b");
        assert_eq!(next.take_idle(Duration::from_secs(600)), None, "all were used just now");
        let taken = |shelf: &Shelf| shelf.take_idle(Duration::ZERO).map(|(key, _)| key);
        assert_eq!([taken(&next), taken(&next), taken(&next)], [Some("c".to_owned()), Some("a".to_owned()), None]);
        assert!(!next.is_over(15) && next.is_over(16));
        next.release(attempt);
        assert_eq!(taken(&next).as_deref(), Some("b"));
        assert!(Shelf::open(&path, 25).expect("opened").used_bytes() == 0, "what is about to go is whole no more");
    }

    #[test]
    fn a_record_that_can_not_be_read_is_begun_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inputs.json");
        std::fs::write(&path, "{\"a\": {\"na").expect("written");
        assert!(Shelf::open(&path, 1).expect("opened").used_bytes() == 0);
    }
}
