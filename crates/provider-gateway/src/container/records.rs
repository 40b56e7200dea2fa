//! Which images this installation made and when each was used last: on disk, so that eviction is fair across restarts.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ImageRecord {
    /// As placement knows the environment.
    pub(super) key: String,
    /// By the node's clock, milliseconds since 1970. Only compared with itself.
    pub(super) last_used_ms: i64,
    pub(super) build_ms: u64,
    pub(super) steps: usize,
    pub(super) builder: String,
    /// Base image -> its id or digest, where known.
    pub(super) bases: BTreeMap<String, String>,
    /// Pulled by a build here, under a name of others.
    pub(super) is_base: bool,
}

pub(super) struct ImageRecords {
    path: PathBuf,
    by_tag: Mutex<BTreeMap<String, ImageRecord>>,
}

impl ImageRecords {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("images.json");
        let by_tag = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                // Docker's own labels say what is there; only the order of eviction is lost.
                tracing::warn!(%error, "the record of images can't be read and is begun anew");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, by_tag: Mutex::new(by_tag) })
    }

    pub(super) fn get(&self, tag: &str) -> Option<ImageRecord> {
        self.lock().get(tag).cloned()
    }
    pub(super) fn keys(&self) -> Vec<String> {
        let keys: BTreeSet<String> =
            self.lock().values().filter(|record| !record.is_base).map(|record| record.key.clone()).collect();
        keys.into_iter().collect()
    }
    pub(super) fn insert(&self, tag: &str, record: ImageRecord) {
        self.change(|records| {
            records.insert(tag.to_owned(), record);
        });
    }
    /// It was used now.
    pub(super) fn touch(&self, tag: &str, key: &str) {
        self.change(|records| {
            let record = records.entry(tag.to_owned()).or_default();
            record.key = key.to_owned();
            record.last_used_ms = now_ms();
        });
    }
    /// A base was pulled, or used again.
    pub(super) fn touch_base(&self, name: &str) {
        self.change(|records| {
            let record = records.entry(name.to_owned()).or_default();
            record.is_base = true;
            record.last_used_ms = now_ms();
        });
    }
    /// Names of the bases that builds here have pulled.
    pub(super) fn bases(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, record)| record.is_base).map(|(name, _)| name.clone()).collect()
    }
    pub(super) fn forget(&self, tag: &str) {
        self.change(|records| {
            records.remove(tag);
        });
    }
    /// Forgets what Docker has no more, and adds what it has of ours: tag -> key. Another installation's image is known from its
    /// first use on.
    pub(super) fn agree_with(&self, is_present: impl Fn(&str) -> bool, own_keys: BTreeMap<String, String>) {
        self.change(|records| {
            records.retain(|tag, record| record.is_base || is_present(tag));
            for (tag, key) in own_keys {
                records.entry(tag).or_insert_with(|| ImageRecord {
                    key,
                    last_used_ms: now_ms(),
                    ..ImageRecord::default()
                });
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, ImageRecord>)) {
        let mut records = self.lock();
        let before = records.clone();
        change(&mut records);
        if *records == before {
            return;
        }
        // A few kilobytes; written under the lock, so that an older state never overwrites a newer one.
        if let Err(error) = self.save(&records) {
            tracing::warn!(%error, "the record of images could not be written");
        }
    }

    fn save(&self, records: &BTreeMap<String, ImageRecord>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(records)?)?;
        std::fs::rename(new, &self.path)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ImageRecord>> {
        self.by_tag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
