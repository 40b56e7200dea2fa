//! Reads a commit's tree out of a bare repository. Only the object store is opened: no configuration, no refs, no
//! attributes, so nothing that lies beside the objects has a say.

use super::{
    Role,
    cache::{InUse, mark_broken},
    scan::{self, Listing},
};
use crate::executor::Failure;
use domain::{outcome::FailureKind, source::Pinned};
use git2::{Oid, Repository};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(super) const GITLINK: i32 = 0o160_000;
const SYMLINK: i32 = 0o120_000;
const EXECUTABLE: i32 = 0o100_755;

/// The files of one commit. A handle, cheap to clone.
#[derive(Clone)]
pub struct Tree {
    role: Role,
    pinned: Pinned,
    repository: PathBuf,
    _in_use: Option<Arc<InUse>>,
}

/// What a path of a tree names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File { executable: bool, bytes: u64 },
    Directory,
    Symlink,
    Submodule,
}

impl Tree {
    pub(super) fn new(role: Role, pinned: Pinned, repository: PathBuf, in_use: Option<Arc<InUse>>) -> Self {
        Self { role, pinned, repository, _in_use: in_use }
    }

    /// A commit of a bare repository outside of the cache.
    pub fn of_repository(role: Role, pinned: Pinned, repository: &Path) -> Self {
        Self::new(role, pinned, repository.to_owned(), None)
    }

    /// Runs `work` on a blocking thread. Dropping the future makes it end at its next file; what it has written so far stays.
    pub async fn read<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    {
        let tree = self.clone();
        let cancel = CancelOnDrop(Arc::default());
        let cancelled = Arc::clone(&cancel.0);
        let ended = tokio::task::spawn_blocking(move || work(&Reader::open(tree, cancelled)?)).await;
        ended.unwrap_or_else(|error| Err(Failure::node(format!("reading {} broke down: {error}", self.pinned))))
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An open tree. Everything here blocks.
pub struct Reader {
    pub(super) repository: Repository,
    tree: Tree,
    commit: Oid,
    cancelled: Arc<AtomicBool>,
}

impl Reader {
    fn open(tree: Tree, cancelled: Arc<AtomicBool>) -> Result<Self, Failure> {
        let opened =
            open(&tree.repository).and_then(|repository| Ok((Oid::from_str(tree.pinned.commit.as_str())?, repository)));
        match opened {
            Ok((commit, repository)) => Ok(Self { repository, tree, commit, cancelled }),
            Err(error) => Err(damaged(&tree, &error)),
        }
    }

    pub fn tree_id(&self) -> Result<String, Failure> {
        Ok(self.root()?.id().to_string())
    }

    /// Seconds since 1970 at which the commit says it was made; never negative.
    pub fn commit_time(&self) -> Result<u64, Failure> {
        let commit = self.git(self.repository.find_commit(self.commit))?;
        Ok(u64::try_from(commit.time().seconds()).unwrap_or(0))
    }

    /// What lies at `path` (plain parts with `/` between); None when nothing does, or a part before it is no directory.
    pub fn entry(&self, path: &str) -> Result<Option<EntryKind>, Failure> {
        let mut tree = self.root()?;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let Some((oid, mode)) = tree.iter().find(|entry| entry.name_bytes() == part.as_bytes()).map(named) else {
                return Ok(None);
            };
            let kind = self.kind(oid, mode)?;
            if parts.peek().is_none() {
                return Ok(Some(kind));
            }
            if kind != EntryKind::Directory {
                return Ok(None);
            }
            tree = self.git(self.repository.find_tree(oid))?;
        }
        Ok(None)
    }

    /// What a tree of this commit leaves out (submodules, pointers of Git LFS), or why the commit is refused.
    pub fn notes(&self) -> Result<Vec<String>, Failure> {
        Ok(self.listing()?.notes)
    }

    /// All paths of the tree, or why it is refused, and notes about what is left out.
    pub(super) fn listing(&self) -> Result<Listing, Failure> {
        scan::list(self)
    }

    pub(super) fn root(&self) -> Result<git2::Tree<'_>, Failure> {
        self.git(self.repository.find_commit(self.commit).and_then(|commit| commit.tree()))
    }

    pub(super) fn blob(&self, oid: Oid) -> Result<git2::Blob<'_>, Failure> {
        self.git(self.repository.find_blob(oid))
    }

    pub(super) fn kind(&self, oid: Oid, mode: i32) -> Result<EntryKind, Failure> {
        Ok(match mode & 0o170_000 {
            GITLINK => EntryKind::Submodule,
            SYMLINK => EntryKind::Symlink,
            0o040_000 => EntryKind::Directory,
            _ => {
                let (bytes, _) = self.git(self.repository.odb().and_then(|odb| odb.read_header(oid)))?;
                EntryKind::File { executable: mode & EXECUTABLE & 0o111 != 0, bytes: bytes as u64 }
            }
        })
    }

    /// Errors when whoever waited for this work has gone.
    pub(super) fn still_wanted(&self) -> Result<(), Failure> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Failure::node("no longer wanted")) } else { Ok(()) }
    }

    pub(super) fn refused(&self, why: &str) -> Failure {
        Failure::new(FailureKind::SourceUnavailable, format!("{} is refused: {why}", self.what()))
    }

    pub(super) fn what(&self) -> String {
        format!("{} commit {} of {}", self.tree.role, self.tree.pinned.commit.short(), self.tree.pinned.url)
    }

    pub(super) fn git<T>(&self, result: Result<T, git2::Error>) -> Result<T, Failure> {
        result.map_err(|error| damaged(&self.tree, &error))
    }
}

pub(super) fn named(entry: git2::TreeEntry<'_>) -> (Oid, i32) {
    (entry.id(), entry.filemode_raw())
}

/// The commit was whole when it was handed out, so that whatever can't be read now is the disk's doing.
fn damaged(tree: &Tree, error: &git2::Error) -> Failure {
    mark_broken(&tree.repository);
    Failure::node(format!(
        "this node's copy of {} can't be read ({}); the next attempt here fetches it anew",
        tree.pinned.url,
        error.message()
    ))
}

pub(super) fn open(repository: &Path) -> Result<Repository, git2::Error> {
    let odb = git2::Odb::new()?;
    let objects = repository.join("objects");
    odb.add_disk_alternate(objects.to_str().ok_or_else(|| git2::Error::from_str("the cache's path is not UTF-8"))?)?;
    Repository::from_odb(odb)
}
