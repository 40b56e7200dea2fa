//! Pinned commits over real HTTP from a real Git server.

mod cache;
mod credentials;
mod refusals;
mod trees;

use domain::{
    outcome::FailureKind,
    source::{CommitId, Pinned, RepoUrl},
};
use provider_gateway::{
    executor::Failure,
    source::{Fetched, Role, SourceCache, SourcePolicy},
};
use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use test_kit::git_host::GitHost;

/// A Git host, and a node's cache with its policy.
struct Scene {
    host: GitHost,
    cache: SourceCache,
    policy: SourcePolicy,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = SourceCache::open(&dir.path().join("git")).expect("a cache");
        Self { host: GitHost::start(), cache, policy: SourcePolicy::default(), dir }
    }

    async fn ensure(&self, pinned: &Pinned) -> Result<Fetched, Failure> {
        self.cache.ensure(Role::Code, pinned, &self.policy, &mut |_| {}).await
    }

    /// The kind and the sentence of a failure, with the host's port taken out.
    async fn failure(&self, pinned: &Pinned) -> (FailureKind, String) {
        let failure = self.ensure(pinned).await.map(|_| ()).expect_err("this can't be fetched");
        (failure.kind, failure.message.replace(&self.host.address().port().to_string(), "PORT"))
    }

    /// The cached repositories on disk.
    fn repositories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("git")).expect("the cache");
        entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().contains(".git"))
            .collect()
    }

    fn repository(&self) -> PathBuf {
        let [one] = self.repositories().try_into().expect("one repository");
        one
    }
}

fn pinned(url: &str, commit: &str) -> Pinned {
    Pinned { url: RepoUrl::parse(url).expect("a URL"), commit: CommitId::parse(commit).expect("a commit") }
}

async fn file(fetched: &Fetched, path: &'static str) -> String {
    let path = domain::source::DockerfilePath::parse(path).expect("a path");
    let bytes = fetched.tree().read(move |tree| tree.dockerfile(&path)).await.expect("the file is in the tree");
    String::from_utf8(bytes).expect("text")
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come true within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Command lines of all processes that mention `word`.
fn command_lines_with(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(word))
        .collect()
}
