//! The node's git cache: one bare repository per URL, keyed by the URL, since a host may hand out commits of one repository
//! through the address of another. What is whole here needs no network.

use super::{
    Role,
    askpass::Askpass,
    fetch::{Brought, Fetch},
    policy::SourcePolicy,
    presence::{self, Presence},
    tree::Tree,
    verdict::Trouble,
};
use crate::executor::Failure;
use domain::source::{Pinned, RepoUrl};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

/// Beside the repository's own files: `url`, `last-use`, `broken`, and by which ref a commit was held when it came.
const OURS: &str = "unidesk";
/// Of a directory in which somebody may still finish a file.
const REMOVE_TRIES: u32 = 10;

/// All cached repositories of this node. One agent per directory; share it behind an `Arc`.
pub struct SourceCache {
    root: PathBuf,
    askpass: Askpass,
    slots: Mutex<HashMap<RepoUrl, Arc<Slot>>>,
    set_aside: AtomicU64,
}

#[derive(Default)]
struct Slot {
    /// Attempts that fetch or read. Also held while the repository is moved away, so that nobody begins in between.
    users: Mutex<usize>,
    fetching: tokio::sync::Mutex<()>,
}

/// Keeps a repository from being evicted.
pub(super) struct InUse {
    slot: Arc<Slot>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.slot.users.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

/// A commit that is here with all its files. Holding it keeps the repository in the cache.
pub struct Fetched {
    /// Size of what came over the network for it; 0 from the cache.
    pub bytes_fetched: u64,
    pub was_cached: bool,
    /// The id of the commit's tree, which names the files themselves.
    pub tree_id: String,
    /// A branch or tag that held the commit when it was fetched (`refs/heads/main`). None: not known. A host hands out a
    /// commit by its id also when no branch holds it.
    pub held_by: Option<String>,
    tree: Tree,
}

impl Fetched {
    /// The files. A handle, cheap to clone; each keeps the repository in the cache.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

/// One repository, for whoever makes room on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedRepository {
    pub url: RepoUrl,
    pub bytes: u64,
    /// By this node's clock.
    pub last_used: SystemTime,
    pub is_in_use: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Removed,
    InUse,
    NotCached,
}

impl SourceCache {
    /// Opens the cache, makes its directory if need be, and clears what an earlier run left half done.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let root = root.canonicalize()?;
        for entry in fs::read_dir(&root)?.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().contains(".git.")
                && let Err(error) = remove_leftover(&root, &entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "what an earlier agent left in the git cache stays until the next start");
            }
        }
        let askpass = Askpass::install(&root)?;
        Ok(Self { root, askpass, slots: Mutex::default(), set_aside: AtomicU64::new(0) })
    }

    /// Makes sure that the commit and all its files are here. Asks nobody when they are; else fetches exactly this commit,
    /// within the policy's time limit. `note` gets lines for the attempt's log. Safe to repeat and to call at once for the same
    /// repository; dropping the future kills git.
    ///
    /// Errors: `SourceUnavailable` when no node could do better (no such repository or commit, no access), `NodeError` when
    /// another node or a later moment may (host or network down, disk full, a stale credential).
    pub async fn ensure(
        &self,
        role: Role,
        pinned: &Pinned,
        policy: &SourcePolicy,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<Fetched, Failure> {
        policy.check(&pinned.url)?;
        let in_use = Arc::new(self.enter(&pinned.url));
        let slot = Arc::clone(&in_use.slot);
        let repository = self.repository(&pinned.url);
        if let Presence::Whole { tree_id } = presence(&repository, pinned).await {
            return Ok(self.cached(role, pinned, repository, tree_id, in_use));
        }
        let _fetching = slot.fetching.lock().await;
        // Whoever had the lock before may have brought it.
        let presence = presence(&repository, pinned).await;
        if let Presence::Whole { tree_id } = presence {
            return Ok(self.cached(role, pinned, repository, tree_id, in_use));
        }
        let fetch = Fetch::new(role, pinned, policy, &self.askpass)?;
        let update = self.update(&fetch, &repository, presence, note);
        let (brought, tree_id) = tokio::time::timeout(policy.fetch_timeout(), update).await.map_err(|_| {
            Failure::node(format!(
                "{role} repository {} was not fetched within {} s, which is this node's limit",
                pinned.url, policy.fetch_timeout_s
            ))
        })??;
        record_use(&repository, pinned, brought.held_by.as_deref());
        Ok(Fetched {
            bytes_fetched: brought.bytes,
            was_cached: false,
            tree_id,
            held_by: brought.held_by,
            tree: Tree::new(role, pinned.clone(), repository, Some(in_use)),
        })
    }

    /// Fetches into the repository that is here, and when that is damaged or absent into a new one, once.
    async fn update(
        &self,
        fetch: &Fetch<'_>,
        repository: &Path,
        presence: Presence,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<(Brought, String), Failure> {
        let url = &fetch.pinned.url;
        if repository.exists() {
            if presence != Presence::Damaged {
                match self.bring_into(fetch, repository, note).await {
                    Ok(Some(fetched)) => return Ok(fetched),
                    Ok(None) => {}
                    Err(Trouble::Unexplained(words)) => {
                        tracing::warn!(repository.url = %url, reason = words, "git does not work with a cached repository");
                    }
                    Err(trouble) => return Err(fetch.failure(trouble)),
                }
            }
            note(format!("this node's copy of {url} is damaged; it is fetched anew"));
        }
        let draft = sibling(repository, "new");
        remove_tree(&draft).await?;
        fetch.init(&draft).await.map_err(|trouble| fetch.failure(trouble))?;
        describe(&draft, url).map_err(|error| Failure::node(format!("the git cache can't be written: {error}")))?;
        let failure = match self.bring_into(fetch, &draft, note).await {
            Ok(Some(fetched)) => {
                self.put_in_place(&draft, repository).await?;
                return Ok(fetched);
            }
            Ok(None) => {
                Failure::node(format!("{} of {url} came without all its files; see this node's disk", fetch.pinned))
            }
            Err(trouble) => fetch.failure(trouble),
        };
        remove_tree(&draft).await?;
        Err(failure)
    }

    /// None when git is content and the commit is still not whole.
    async fn bring_into(
        &self,
        fetch: &Fetch<'_>,
        repository: &Path,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<Option<(Brought, String)>, Trouble> {
        let brought = fetch.bring(repository, note).await?;
        match presence(repository, fetch.pinned).await {
            Presence::Whole { tree_id } => Ok(Some((brought, tree_id))),
            Presence::NotACommit { kind } => Err(Trouble::NotACommit(kind)),
            Presence::Damaged | Presence::Absent => Ok(None),
        }
    }

    async fn put_in_place(&self, draft: &Path, repository: &Path) -> Result<(), Failure> {
        let broken = sibling(repository, &format!("broken-{}", self.set_aside.fetch_add(1, Ordering::Relaxed)));
        let moved = match fs::rename(repository, &broken) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(draft, repository),
        };
        moved.map_err(|error| Failure::node(format!("the git cache can't be written: {error}")))?;
        remove_tree(&broken).await
    }

    fn cached(&self, role: Role, pinned: &Pinned, repository: PathBuf, tree_id: String, in_use: Arc<InUse>) -> Fetched {
        let held_by = fs::read_to_string(repository.join(OURS).join("held-by").join(pinned.commit.as_str())).ok();
        record_use(&repository, pinned, None);
        let tree = Tree::new(role, pinned.clone(), repository, Some(in_use));
        Fetched { bytes_fetched: 0, was_cached: true, tree_id, held_by, tree }
    }

    /// Every cached repository, with its size on disk. Walks the disk: for a blocking thread.
    pub fn list(&self) -> io::Result<Vec<CachedRepository>> {
        let mut found = Vec::new();
        for repository in self.repositories()? {
            let Some(url) = url_of(&repository) else { continue };
            // An evicted repository may go while it is being measured; then it is no longer cached.
            let Ok(last_used) = fs::metadata(repository.join(OURS).join("last-use")).and_then(|file| file.modified())
            else {
                continue;
            };
            let slot = self.slot(&url);
            let is_in_use = *slot.users.lock().unwrap_or_else(PoisonError::into_inner) > 0;
            found.push(CachedRepository { bytes: disk_bytes(&repository), last_used, is_in_use, url });
        }
        Ok(found)
    }

    /// Removes a repository from the disk, unless somebody uses it. For a blocking thread.
    pub fn evict(&self, url: &RepoUrl) -> io::Result<Eviction> {
        let slot = self.slot(url);
        let gone = {
            let users = slot.users.lock().unwrap_or_else(PoisonError::into_inner);
            if *users > 0 {
                return Ok(Eviction::InUse);
            }
            let repository = self.repository(url);
            let gone = sibling(&repository, &format!("evicted-{}", self.set_aside.fetch_add(1, Ordering::Relaxed)));
            match fs::rename(&repository, &gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Eviction::NotCached),
                renamed => renamed?,
            }
            gone
        };
        fs::remove_dir_all(gone)?;
        Ok(Eviction::Removed)
    }

    /// The keys under which placement knows what is here.
    pub fn warm_keys(&self) -> BTreeSet<String> {
        let repositories = self.repositories().unwrap_or_default();
        repositories.iter().filter_map(|dir| url_of(dir)).map(|url| domain::warm::repository_key(&url)).collect()
    }

    fn repositories(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.root)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|x| x == "git"))
            .collect())
    }

    fn repository(&self, url: &RepoUrl) -> PathBuf {
        self.root.join(format!("{}.git", hex::encode(Sha256::digest(url.as_str()))))
    }

    fn slot(&self, url: &RepoUrl) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(url.clone()).or_default())
    }

    fn enter(&self, url: &RepoUrl) -> InUse {
        let slot = self.slot(url);
        *slot.users.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        InUse { slot }
    }
}

async fn presence(repository: &Path, pinned: &Pinned) -> Presence {
    if repository.join(OURS).join("broken").exists() {
        return Presence::Damaged;
    }
    presence::look(repository, &pinned.commit).await
}

/// Has the next `ensure` fetch the repository anew: a reader met an object that can't be read.
pub(super) fn mark_broken(repository: &Path) {
    // When this fails too, the next reader will say the same again.
    let _ = fs::write(repository.join(OURS).join("broken"), "");
}

fn describe(repository: &Path, url: &RepoUrl) -> io::Result<()> {
    let ours = repository.join(OURS);
    fs::create_dir_all(ours.join("held-by"))?;
    fs::write(ours.join("url"), url.as_str())?;
    fs::write(ours.join("last-use"), "\n")
}

/// Notes the use by the file's time. What can't be noted makes the repository look unused, no more.
fn record_use(repository: &Path, pinned: &Pinned, held_by: Option<&str>) {
    let ours = repository.join(OURS);
    let _ = fs::write(ours.join("last-use"), "\n");
    if let Some(held_by) = held_by {
        let _ = fs::write(ours.join("held-by").join(pinned.commit.as_str()), held_by);
    }
}

fn url_of(repository: &Path) -> Option<RepoUrl> {
    RepoUrl::parse(&fs::read_to_string(repository.join(OURS).join("url")).ok()?).ok()
}

fn sibling(repository: &Path, suffix: &str) -> PathBuf {
    let mut name = repository.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Removes what a killed agent was at. Its git may have outlived it and still write there: it loses its way when the directory moves.
fn remove_leftover(root: &Path, leftover: &Path) -> io::Result<()> {
    let free = (0..).map(|number: u64| root.join(format!("left-{number}.git.old"))).find(|path| !path.exists());
    let moved = free.unwrap_or_else(|| leftover.to_owned());
    fs::rename(leftover, &moved)?;
    // One that had begun to write a file finishes it.
    let mut tries = 1;
    loop {
        match fs::remove_dir_all(&moved) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < REMOVE_TRIES => tries += 1,
            done => return done,
        }
    }
}

async fn remove_tree(path: &Path) -> Result<(), Failure> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::node(format!("the git cache can't be cleared: {error}")))
        }
        _ => Ok(()),
    }
}

fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { disk_bytes(&path) } else { metadata.len() })
        .sum()
}
