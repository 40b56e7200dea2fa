use crate::small_disk::SmallDisk;
use domain::{
    ids::InstanceId,
    node::Condition,
    source::{CommitId, Pinned, RepoUrl},
};
use provider_gateway::{
    Sources,
    collector::AgentDisk,
    container::{self, ContainerExecutor},
    disk::Watermarks,
    executor::Executor,
    process::{self, ProcessExecutor},
    source::{Fetched, Role, SourceCache, SourcePolicy},
};
use std::sync::Arc;
use test_kit::git_host::{Content, GitHost};
use uuid::Uuid;

const REPOSITORIES: usize = 8;

/// Four megabytes that don't compress.
fn noise() -> Vec<u8> {
    std::iter::repeat_with(|| Uuid::new_v4().into_bytes()).take(1 << 18).flatten().collect()
}

async fn ensure(cache: &SourceCache, pinned: &Pinned) -> Fetched {
    cache.ensure(Role::Code, pinned, &SourcePolicy::default(), &mut |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_filling_disk_costs_the_repositories_that_were_unused_the_longest_and_none_in_use() {
    let host = GitHost::start();
    let small = SmallDisk::new("100M");
    let attempts = small.path().join("attempts");
    std::fs::create_dir(&attempts).unwrap();
    let cache = Arc::new(SourceCache::open(&small.path().join("git")).unwrap());
    let mut all = Vec::new();
    for number in 0..REPOSITORIES {
        let repository = host.repository(&format!("r{number}"));
        let commit = repository.commit(&[("noise", Content::File(noise()))], "one");
        let url = RepoUrl::parse(repository.url()).unwrap();
        all.push(Pinned { url, commit: CommitId::parse(&commit).unwrap() });
        ensure(&cache, &all[number]).await;
    }
    // The oldest is being used; the second was used again just now.
    let in_use = ensure(&cache, &all[0]).await;
    ensure(&cache, &all[1]).await;

    let mut disk =
        AgentDisk { data_dir: small.path().to_owned(), attempts, cache: cache.clone(), marks: Watermarks::default() };
    let make_room = async |disk: &AgentDisk| {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || disk.make_room()).await.unwrap()
    };
    small.fill_to(80);
    assert_eq!(make_room(&disk).await.evicted, []);
    small.fill_to(89);
    assert_eq!(make_room(&disk).await.evicted, [], "all were used a moment ago");

    disk.marks.recent_s = 0;
    let report = make_room(&disk).await;
    let evicted = report.evicted.len();
    assert_eq!(report.evicted, all[2..2 + evicted].iter().map(|one| one.url.clone()).collect::<Vec<_>>());
    assert!((2..6).contains(&evicted), "as many as needed: {report:?}");
    assert!(report.used_before >= Some(89) && report.used_after <= Some(75), "{report:?}");
    for kept in [0, 1, 7] {
        assert!(ensure(&cache, &all[kept]).await.was_cached, "repository {kept}");
    }

    // Filled by others up to the last mark: what was used a moment ago goes too, and no executor takes work any more.
    disk.marks.recent_s = 600;
    small.fill_to(99);
    let sources = Arc::new(Sources::new(cache.clone(), SourcePolicy::default()));
    let processes = ProcessExecutor::new(process::Settings::new(small.path()), sources.clone());
    let settings = container::Settings::new(small.path().join("images"), InstanceId::from_uuid(Uuid::new_v4()));
    let containers = ContainerExecutor::new(settings, sources).unwrap();
    assert_eq!(processes.health().await, Some(Condition::DiskFull));
    assert_eq!(containers.health().await, Some(Condition::DiskFull));
    let report = make_room(&disk).await;
    assert_eq!(report.evicted.len(), REPOSITORIES - evicted - 1, "{report:?}");
    assert!(ensure(&cache, &all[0]).await.was_cached, "it is in use");
    drop(in_use);

    small.clear_filler();
    assert_eq!(processes.health().await, None);
    assert_eq!(containers.health().await, None);
    assert!(!ensure(&cache, &all[2]).await.was_cached);
}
