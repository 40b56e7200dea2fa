//! Makes room on this node, now and then: for containers where Docker keeps its data, and for sources and scratch on the agent's
//! own disk. Everything that goes can be had again, and nothing that is in use goes.

use crate::{
    container::{self, ContainerExecutor},
    disk::{Idle, Watermarks, used_percent},
    process::{self, ProcessExecutor},
    source::{CachedRepository, Eviction, SourceCache},
};
use domain::{Timestamp, source::RepoUrl};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// After what an earlier agent left was adopted: that is not garbage.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(60);

/// What is on the agent's own disk and may go.
#[derive(Clone)]
pub struct AgentDisk {
    /// The disk that is watched is the one that holds this.
    pub data_dir: PathBuf,
    /// One directory an attempt, for as long as the agent knows it.
    pub attempts: PathBuf,
    pub cache: Arc<SourceCache>,
    pub marks: Watermarks,
}

/// What a pass over the agent's disk did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Percent used before and after; None where it can't be measured.
    pub used_before: Option<u8>,
    pub used_after: Option<u8>,
    pub evicted: Vec<RepoUrl>,
    /// Left by attempts that are no more.
    pub removed_scratch: Vec<PathBuf>,
}

/// How often orphans are looked for.
const ORPHANS_EVERY: Duration = Duration::from_secs(20);

/// Looks after both disks, and after containers that nobody knows, for as long as it is polled.
pub async fn run(containers: Arc<ContainerExecutor>, processes: Arc<ProcessExecutor>, disk: AgentDisk) {
    let orphans = async {
        loop {
            tokio::time::sleep(ORPHANS_EVERY).await;
            containers.remove_orphans(&disk.attempts).await;
        }
    };
    futures::future::join(orphans, collect(&containers, &processes, &disk)).await;
}

async fn collect(containers: &ContainerExecutor, processes: &ProcessExecutor, disk: &AgentDisk) {
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        pass(containers, disk.clone()).await;
        // Last: what tasks read is most often larger than all else, and takes longest to be had again.
        processes.relieve_disk().await;
        tokio::time::sleep(EVERY).await;
    }
}

/// One pass over both. Images first: they are large, and where one disk holds it all they may be enough.
pub async fn pass(containers: &ContainerExecutor, disk: AgentDisk) -> (container::Report, Report) {
    let images = containers.collect_garbage().await;
    let rest = tokio::task::spawn_blocking(move || disk.make_room()).await;
    (images, rest.unwrap_or_default())
}

impl AgentDisk {
    /// Deletes scratch that nobody owns any more, and above the high mark repositories, down to the low one. For a blocking
    /// thread. What can't be removed now is left for the next time.
    pub fn make_room(&self) -> Report {
        let scratch = process::remove_orphaned_scratch(Path::new(process::SHARED_SCRATCH), &self.attempts);
        let removed_scratch = scratch.unwrap_or_else(|error| {
            tracing::warn!(%error, "scratch of earlier attempts could not be looked through");
            Vec::new()
        });
        let used_before = used_percent(&self.data_dir);
        let evicted = match used_before.filter(|used| self.marks.is_high(*used)) {
            None => Vec::new(),
            Some(used) => self.evict(used).unwrap_or_else(|error| {
                tracing::warn!(%error, "the git cache could not be looked through");
                Vec::new()
            }),
        };
        let report = Report { used_before, used_after: used_percent(&self.data_dir), evicted, removed_scratch };
        if !report.evicted.is_empty() || !report.removed_scratch.is_empty() {
            tracing::info!(?report, "room was made on the agent's disk");
        }
        report
    }

    fn evict(&self, used: u8) -> io::Result<Vec<RepoUrl>> {
        let mut evicted = Vec::new();
        for url in evictable(&self.marks, used, chrono::Utc::now(), self.cache.list()?) {
            if used_percent(&self.data_dir).is_none_or(|used| self.marks.is_low(used)) {
                break;
            }
            match self.cache.evict(&url) {
                Ok(Eviction::Removed) => evicted.push(url),
                // Somebody was quicker, to use it or to remove it.
                Ok(Eviction::InUse | Eviction::NotCached) => {}
                Err(error) => tracing::warn!(repository.url = %url, %error, "a cached repository could not be evicted"),
            }
        }
        Ok(evicted)
    }
}

/// Which repositories may go, in this order.
fn evictable(marks: &Watermarks, used: u8, now: Timestamp, cached: Vec<CachedRepository>) -> Vec<RepoUrl> {
    let idle = cached.into_iter().filter(|repository| !repository.is_in_use);
    let idle = idle.map(|repository| Idle { last_used: repository.last_used.into(), item: repository.url });
    marks.eviction_order(used, now, idle.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn idle_repositories_go_by_their_last_use_and_one_in_use_stays() {
        let repository = |name: &str, minute: u64, is_in_use| CachedRepository {
            url: RepoUrl::parse(&format!("https://git.example/{name}.git")).expect("a URL"),
            bytes: 1,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(minute * 60),
            is_in_use,
        };
        let cached = || {
            [("late", 89, false), ("busy", 1, true), ("old", 2, false), ("older", 1, false)]
                .map(|(a, b, c)| repository(a, b, c))
                .into()
        };
        let now = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(90 * 60));
        let names = |used| {
            let order = evictable(&Watermarks::default(), used, now, cached());
            order.iter().map(|url| url.as_str().replace("https://git.example/", "")).collect::<Vec<_>>()
        };
        assert_eq!(names(84), Vec::<String>::new());
        assert_eq!(names(85), ["older.git", "old.git"]);
        assert_eq!(names(92), ["older.git", "old.git", "late.git"]);
    }
}
