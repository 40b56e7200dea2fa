//! Docker's disk: above a high mark what is ours and least recently used is removed, above a full mark work is refused.
//! Images, containers and volumes of others are never touched.

use super::{
    ContainerExecutor,
    docker::{DockerError, QUICK, SLOW},
    image::{INSTANCE_LABEL, KEY_LABEL, KIND, KIND_LABEL},
};
use crate::{executor::Failure, log::AttemptLog};
use bollard::{
    models::ImageSummary,
    query_parameters::{
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, PruneBuildOptionsBuilder, PruneVolumesOptionsBuilder,
        RemoveImageOptionsBuilder,
    },
};
use domain::{node::Condition, quantity::show_bytes};
use nix::sys::statvfs::statvfs;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

const HEALTH: Duration = Duration::from_secs(8);

/// How full Docker's disk may get, in percent of its bytes or of its inodes, whichever is higher.
#[derive(Clone, Debug)]
pub struct Watermarks {
    /// Docker's data root as this agent sees it; None: where Docker says. Measured only when it is there, which it is not for an
    /// agent inside a container that has no view of it.
    pub data_root: Option<PathBuf>,
    /// From here on garbage is collected,
    pub high_percent: u8,
    /// down to here.
    pub low_percent: u8,
    /// From here on work is refused.
    pub full_percent: u8,
    /// Images used more recently stay.
    pub image_min_age: Duration,
    /// The build cache can't be told apart by owner: pruning takes all of it that is unused.
    pub prune_build_cache: bool,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self {
            data_root: None,
            high_percent: 85,
            low_percent: 75,
            full_percent: 92,
            image_min_age: Duration::from_secs(600),
            prune_build_cache: true,
        }
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Percent used before and after; None where it can't be measured.
    pub used_before: Option<u8>,
    pub used_after: Option<u8>,
    pub removed_images: Vec<String>,
    /// Of the build cache and volumes, by Docker's own account.
    pub pruned_bytes: u64,
}

/// Percent of bytes or inodes in use as an ordinary user sees it, whichever is higher.
fn used_percent(path: &Path) -> Option<u8> {
    let disk = statvfs(path).ok()?;
    let percent = |all: u64, free: u64, available: u64| {
        let used = all.saturating_sub(free);
        let usable = used + available;
        // Rounded up, as `df` does: 92 means that no more than 8 are left.
        if usable == 0 { 0 } else { (used * 100).div_ceil(usable) }
    };
    let bytes = percent(disk.blocks(), disk.blocks_free(), disk.blocks_available());
    let inodes = percent(disk.files(), disk.files_free(), disk.files_available());
    u8::try_from(bytes.max(inodes)).ok()
}

impl ContainerExecutor {
    fn disk_used(&self, data_root: &Path) -> Option<u8> {
        used_percent(self.settings.disk.data_root.as_deref().unwrap_or(data_root))
    }

    pub(super) fn refuse_when_full(&self, data_root: &Path) -> Result<(), Failure> {
        match self.disk_used(data_root) {
            Some(used) if used >= self.settings.disk.full_percent => Err(Failure::node(format!(
                "disk full: {used} % of Docker's disk is used, and work is refused from {} % on.",
                self.settings.disk.full_percent
            ))),
            _ => Ok(()),
        }
    }

    /// Before a build: collects when it is time, and refuses when that was not enough.
    pub(super) async fn make_room(&self, log: &AttemptLog) -> Result<(), Failure> {
        let report = self.collect_garbage().await;
        if !report.removed_images.is_empty() || report.pruned_bytes > 0 {
            let images = report.removed_images.len();
            log.note(&format!("disk: {images} unused images removed, {} pruned", show_bytes(report.pruned_bytes)))
                .await;
        }
        let facts = self.engine.facts().await.map_err(|error| error.into_failure("making room"))?;
        self.refuse_when_full(&facts.data_root)
    }

    /// Answers within 8 s.
    pub(super) async fn check_health(&self) -> Option<Condition> {
        let checked = tokio::time::timeout(HEALTH, async {
            self.engine.ping().await?;
            let facts = self.engine.facts().await?;
            // Images may have gone while this agent was down: once, what the disk remembers is held against what Docker has.
            if !self.has_compared.load(Ordering::Relaxed) {
                self.environment_images().await?;
                self.has_compared.store(true, Ordering::Relaxed);
            }
            Ok::<_, DockerError>(self.refuse_when_full(&facts.data_root).is_err())
        });
        match checked.await {
            Ok(Ok(is_full)) => is_full.then_some(Condition::DiskFull),
            Ok(Err(error)) => {
                tracing::debug!(%error, "Docker does not answer");
                Some(Condition::DockerUnavailable)
            }
            Err(_) => Some(Condition::DockerUnavailable),
        }
    }

    /// Collects down to the low mark when Docker's disk is above the high one, and makes the record of images true. Called now and
    /// then and before a build; two at once are one. What can't be removed now is left for the next time.
    pub async fn collect_garbage(&self) -> Report {
        let _one = self.collecting_garbage.lock().await;
        match self.collect_once().await {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(%error, "garbage could not be collected");
                Report::default()
            }
        }
    }

    async fn collect_once(&self) -> Result<Report, DockerError> {
        let facts = self.engine.facts().await?;
        let marks = &self.settings.disk;
        let images = self.environment_images().await?;
        let used_before = self.disk_used(&facts.data_root);
        let mut report = Report { used_before, used_after: used_before, ..Report::default() };
        if used_before.is_none_or(|used| used < marks.high_percent) {
            return Ok(report);
        }
        let is_enough = || self.disk_used(&facts.data_root).is_none_or(|used| used < marks.low_percent);
        // The cache first: an image whose layers the cache keeps too frees nothing.
        report.pruned_bytes += self.prune_volumes().await? + self.prune_cache().await?;
        for tag in self.evictable(&images).await? {
            if is_enough() {
                break;
            }
            let options = RemoveImageOptionsBuilder::default().force(false).build();
            let name = tag.clone();
            let removed = self
                .engine
                .call(SLOW, |docker| async move { docker.remove_image(&name, Some(options), None).await })
                .await;
            match removed {
                Ok(_) => {
                    self.records.forget(&tag);
                    report.removed_images.push(tag);
                }
                // In use by now, or gone.
                Err(error) if error.is_conflict() || error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        if !is_enough() && !report.removed_images.is_empty() {
            report.pruned_bytes += self.prune_cache().await?;
        }
        report.used_after = self.disk_used(&facts.data_root);
        tracing::info!(?report, "garbage collected");
        Ok(report)
    }

    /// All environment images that Docker has, by tag; the record is made to agree.
    async fn environment_images(&self) -> Result<BTreeMap<String, ImageSummary>, DockerError> {
        let filter = HashMap::from([("label", vec![format!("{KIND_LABEL}={KIND}")])]);
        let options = ListImagesOptionsBuilder::default().filters(&filter).build();
        let images = self.engine.call(QUICK, |docker| async move { docker.list_images(Some(options)).await }).await?;
        let by_tag: BTreeMap<String, ImageSummary> = images
            .into_iter()
            .flat_map(|image| image.repo_tags.clone().into_iter().map(move |tag| (tag, image.clone())))
            .filter(|(tag, _)| tag.starts_with("unidesk/env:"))
            .collect();
        let own = self.settings.instance.to_string();
        let own_keys = by_tag
            .iter()
            .filter(|(_, image)| image.labels.get(INSTANCE_LABEL) == Some(&own))
            .filter_map(|(tag, image)| Some((tag.clone(), image.labels.get(KEY_LABEL)?.clone())))
            .collect();
        self.records.agree_with(|tag| by_tag.contains_key(tag), own_keys);
        Ok(by_tag)
    }

    /// Tags that may go, least recently used first.
    async fn evictable(&self, images: &BTreeMap<String, ImageSummary>) -> Result<Vec<String>, DockerError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let containers =
            self.engine.call(QUICK, |docker| async move { docker.list_containers(Some(options)).await }).await?;
        let in_use: HashSet<String> = containers.into_iter().filter_map(|container| container.image_id).collect();
        let own = self.settings.instance.to_string();
        let min_age_ms = i64::try_from(self.settings.disk.image_min_age.as_millis()).unwrap_or(i64::MAX);
        let youngest = super::records::now_ms().saturating_sub(min_age_ms);
        let mut candidates: Vec<(i64, String)> = images
            .iter()
            .filter(|(tag, image)| {
                image.labels.get(INSTANCE_LABEL) == Some(&own)
                    && !in_use.contains(&image.id)
                    && !self.pins.contains(tag)
            })
            .filter_map(|(tag, _)| Some((self.records.get(tag)?.last_used_ms, tag.clone())))
            .filter(|(last_used, _)| *last_used <= youngest)
            .collect();
        candidates.sort();
        Ok(candidates.into_iter().map(|(_, tag)| tag).collect())
    }

    async fn prune_cache(&self) -> Result<u64, DockerError> {
        let facts = self.engine.facts().await?;
        if !self.settings.disk.prune_build_cache || !facts.has_buildkit {
            return Ok(0);
        }
        let options = PruneBuildOptionsBuilder::default().all(true).build();
        let pruned = self.engine.call(SLOW, |docker| async move { docker.prune_build(Some(options)).await }).await?;
        Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }

    async fn prune_volumes(&self) -> Result<u64, DockerError> {
        let filter = HashMap::from([("label", vec![format!("{INSTANCE_LABEL}={}", self.settings.instance)])]);
        let options = PruneVolumesOptionsBuilder::default().filters(&filter).build();
        let pruned = self.engine.call(SLOW, |docker| async move { docker.prune_volumes(Some(options)).await }).await?;
        Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }
}
