//! Brings one commit into one bare repository: by its id, or, where a host refuses that, with all branches and tags.

use super::{
    Role,
    askpass::{Asked, Askpass},
    git::{Git, Output},
    policy::{Secret, SourcePolicy},
    presence,
    verdict::{self, Trouble},
};
use crate::executor::Failure;
use domain::{quantity::show_bytes, source::Pinned};
use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

/// How often a long fetch says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// For questions whose answer is only recorded.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(20);

/// What brought the commit, for provenance.
pub(super) struct Brought {
    /// Size of the packs that were added.
    pub(super) bytes: u64,
    pub(super) held_by: Option<String>,
}

/// Everything that one fetch needs to know.
pub(super) struct Fetch<'a> {
    pub(super) role: Role,
    pub(super) pinned: &'a Pinned,
    allow_http: bool,
    asked: Option<Asked>,
    secrets: Vec<String>,
}

impl<'a> Fetch<'a> {
    /// Errors: the node's credential for this host can't be read.
    pub(super) fn new(
        role: Role,
        pinned: &'a Pinned,
        policy: &SourcePolicy,
        askpass: &Askpass,
    ) -> Result<Self, Failure> {
        let credential = policy.credential(&pinned.url);
        let mut secrets = Vec::new();
        if let Some(Secret::TokenFile(file)) = credential.map(|credential| &credential.secret) {
            let text = fs::read_to_string(file).map_err(|error| {
                Failure::node(format!("this node's credential for {} can't be read: {error}", pinned.url.host()))
            })?;
            secrets.extend(text.lines().next().map(str::to_owned));
        }
        Ok(Self {
            role,
            pinned,
            allow_http: !pinned.url.is_https(),
            asked: credential.map(|credential| askpass.asked(&pinned.url, credential)),
            secrets,
        })
    }

    pub(super) fn failure(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(self.role, self.pinned, self.asked.is_some())
    }

    /// Makes an empty bare repository.
    pub(super) async fn init(&self, repository: &Path) -> Result<(), Trouble> {
        let git = Git::new(repository, false).args(["init", "--quiet", "--bare", "--template="]);
        self.checked(git).await.map(drop)
    }

    /// Fetches the commit and pins it. Safe to repeat. What is in the repository afterwards is for the caller to check.
    pub(super) async fn bring(
        &self,
        repository: &Path,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<Brought, Trouble> {
        clear_leftovers(repository).map_err(|error| Trouble::Unexplained(error.to_string()))?;
        let before = pack_bytes(repository);
        note(format!("fetching {} {} from {}", self.role, self.pinned.commit.short(), self.pinned.url));
        let held_by = match self.by_id(repository, note).await {
            Ok(()) => self.tip_that_is_it(repository).await,
            Err(Trouble::IdRefused(answer)) => {
                // Git's own upload-pack gives out every object it has, since version 2 of the protocol. Then this answer is
                // final, and a whole repository need not be fetched to learn the same.
                if answer == "not our ref" && self.speaks_version_2(repository).await {
                    return Err(Trouble::IdRefused(answer));
                }
                note(format!(
                    "the host hands out no commit by its id ({answer}); fetching all branches and tags instead"
                ));
                self.branches_and_tags(repository, note).await?;
                self.ref_that_contains_it(repository).await
            }
            Err(other) => return Err(other),
        };
        Ok(Brought { bytes: pack_bytes(repository).saturating_sub(before), held_by })
    }

    async fn by_id(&self, repository: &Path, note: &mut (dyn FnMut(String) + Send)) -> Result<(), Trouble> {
        let commit = &self.pinned.commit;
        let git = self.fetching(repository, &["--depth=1"], &[format!("+{commit}:refs/unidesk/{commit}")]);
        self.with_progress(repository, git, note).await
    }

    async fn branches_and_tags(&self, repository: &Path, note: &mut (dyn FnMut(String) + Send)) -> Result<(), Trouble> {
        // Earlier fetches by id may have cut the history just above the commit that is wanted now.
        let depth: &[&str] =
            if repository.join("shallow").exists() { &["--prune", "--unshallow"] } else { &["--prune"] };
        let refspecs = ["+refs/heads/*:refs/cache/heads/*".to_owned(), "+refs/tags/*:refs/cache/tags/*".to_owned()];
        self.with_progress(repository, self.fetching(repository, depth, &refspecs), note).await?;
        let commit = &self.pinned.commit;
        if !presence::holds_commit(repository, commit).await {
            let reason = "no branch or tag holds it, and the host hands out nothing else";
            return Err(Trouble::CommitMissing(reason.into()));
        }
        let pin = ["update-ref", "--end-of-options", &format!("refs/unidesk/{commit}"), commit.as_str()];
        self.checked(Git::new(repository, false).args(pin)).await.map(drop)
    }

    fn fetching(&self, repository: &Path, options: &[&str], refspecs: &[String]) -> Git {
        Git::new(repository, self.allow_http)
            .args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"])
            .args(["--no-write-fetch-head"])
            .args(options)
            .args(["--end-of-options", self.pinned.url.as_str()])
            .args(refspecs)
            .asking(self.asked.as_ref())
    }

    async fn with_progress(
        &self,
        repository: &Path,
        git: Git,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<(), Trouble> {
        let before = pack_bytes(repository);
        let mut run = pin!(self.checked(git));
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        loop {
            tokio::select! {
                ended = &mut run => return ended.map(drop),
                _ = tick.tick() => {
                    let bytes = pack_bytes(repository).saturating_sub(before);
                    note(format!("fetching {} from {}: {} so far", self.role, self.pinned.url, show_bytes(bytes)));
                }
            }
        }
    }

    /// The branch or tag whose newest commit this is. Best effort: none is found for an older commit, since its history was
    /// not fetched.
    async fn tip_that_is_it(&self, repository: &Path) -> Option<String> {
        let refs = self.ask_host(repository, &["--heads", "--tags"], None).await?;
        let held_by = |kind: &str| {
            refs.stdout.lines().filter_map(|line| line.split_once('\t')).find_map(|(id, name)| {
                let name = name.strip_suffix("^{}").unwrap_or(name);
                (id == self.pinned.commit.as_str() && name.starts_with(kind)).then(|| verdict::scrub(name, &[]))
            })
        };
        held_by("refs/heads/").or_else(|| held_by("refs/tags/"))
    }

    async fn speaks_version_2(&self, repository: &Path) -> bool {
        // A pattern that nothing matches keeps the answer small.
        let trace = self.ask_host(repository, &[], Some("refs/unidesk/none")).await;
        trace.is_some_and(|trace| trace.stderr.lines().any(|line| line.trim_end().ends_with("< version 2")))
    }

    async fn ask_host(&self, repository: &Path, options: &[&str], pattern: Option<&str>) -> Option<Output> {
        let mut git = Git::new(repository, self.allow_http)
            .args(["ls-remote", "--quiet"])
            .args(options)
            .args(["--end-of-options", self.pinned.url.as_str()])
            .args(pattern)
            .asking(self.asked.as_ref());
        if pattern.is_some() {
            git = git.tracing_packets();
        }
        let output = tokio::time::timeout(ASIDE_TIMEOUT, git.run()).await.ok()?.ok()?;
        output.status.success().then_some(output)
    }

    async fn ref_that_contains_it(&self, repository: &Path) -> Option<String> {
        let contains = format!("--contains={}", self.pinned.commit);
        let arguments =
            ["for-each-ref", "--count=1", "--format=%(refname)", &contains, "refs/cache/heads", "refs/cache/tags"];
        let output = self.checked(Git::new(repository, false).args(arguments)).await.ok()?;
        let name = output.stdout.lines().next()?.strip_prefix("refs/cache/")?;
        Some(format!("refs/{}", verdict::scrub(name, &[])))
    }

    async fn checked(&self, git: Git) -> Result<Output, Trouble> {
        match git.run().await {
            Ok(output) if output.status.success() => Ok(output),
            Ok(output) => Err(verdict::read(&verdict::scrub(&output.stderr, &self.secrets))),
            Err(error) => Err(Trouble::Unexplained(format!("git could not be run: {error}"))),
        }
    }
}

/// Bytes in packs, also in those that are being received.
fn pack_bytes(repository: &Path) -> u64 {
    let Ok(files) = fs::read_dir(repository.join("objects/pack")) else { return 0 };
    let is_pack = |name: &str| name.ends_with(".pack") || name.starts_with("tmp_pack");
    files
        .flatten()
        .filter(|file| file.file_name().to_str().is_some_and(is_pack))
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Removes what a killed git leaves: lock files, which would stop the next one, and half packs. The caller holds the
/// repository's lock.
fn clear_leftovers(repository: &Path) -> io::Result<()> {
    let mut folders: Vec<PathBuf> = vec![repository.to_owned(), repository.join("objects/pack")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if name == "refs" || folder.starts_with(repository.join("refs")) {
                    folders.push(entry.path());
                }
            } else if name.ends_with(".lock") || name.starts_with("tmp_") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
