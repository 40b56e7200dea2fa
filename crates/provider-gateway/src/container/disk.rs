//! Docker's disk: above a high mark what is ours and least recently used is removed, above a full mark work is refused.
//! Images, containers and volumes of others are never touched.

use super::{
    ContainerExecutor,
    builds::Prunable,
    docker::{DockerError, QUICK, SLOW},
    image::{INSTANCE_LABEL, KEY_LABEL, KIND, KIND_LABEL},
};
use crate::{
    artifacts::inputs::relieve,
    disk::{Idle, Watermarks, used_percent},
    executor::Failure,
    log::AttemptLog,
};
use bollard::{
    models::ImageSummary,
    query_parameters::{
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, PruneBuildOptionsBuilder, PruneVolumesOptionsBuilder,
        RemoveImageOptionsBuilder,
    },
};
use domain::{Timestamp, node::Condition, quantity::show_bytes};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

const HEALTH: Duration = Duration::from_secs(8);

/// What is watched and how room is made.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    pub marks: Watermarks,
    /// Docker's data root as this agent sees it; None: where Docker says. Measured only when it is there, which it is not for an
    /// agent inside a container that has no view of it.
    pub data_root: Option<PathBuf>,
    /// The build cache can't be told apart by owner: pruning takes all of it that is unused.
    pub prune_build_cache: bool,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { marks: Watermarks::default(), data_root: None, prune_build_cache: true }
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Percent used before and after; None where it can't be measured.
    pub used_before: Option<u8>,
    pub used_after: Option<u8>,
    pub removed_images: Vec<String>,
    /// Of the build cache and volumes, by Docker's own account, and of inputs that nobody uses.
    pub pruned_bytes: u64,
}

impl ContainerExecutor {
    fn watched<'a>(&'a self, data_root: &'a Path) -> &'a Path {
        self.settings.disk.data_root.as_deref().unwrap_or(data_root)
    }

    /// The sources and logs of containers go to the agent's own disk.
    pub(super) fn refuse_when_full(&self, data_root: &Path) -> Result<(), Failure> {
        let marks = &self.settings.disk.marks;
        marks.refuse_when_full(self.watched(data_root), "Docker's disk")?;
        marks.refuse_when_full(&self.settings.data_dir, "the agent's disk")
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

    pub(super) async fn make_room_when_full(&self) {
        if let Ok(facts) = self.engine.facts().await
            && self.refuse_when_full(&facts.data_root).is_err()
        {
            self.collect_garbage().await;
        }
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
            // Said once a minute otherwise on a machine that has no Docker; its health says it too.
            Err(error) if error.is_away() => {
                tracing::debug!(%error, "garbage could not be collected");
                Report::default()
            }
            Err(error) => {
                tracing::warn!(%error, "garbage could not be collected");
                Report::default()
            }
        }
    }

    async fn collect_once(&self) -> Result<Report, DockerError> {
        let facts = self.engine.facts().await?;
        let (marks, disk) = (&self.settings.disk.marks, self.watched(&facts.data_root));
        let images = self.environment_images().await?;
        let used_before = used_percent(disk);
        let mut report = Report { used_before, used_after: used_before, ..Report::default() };
        if let Err(failure) = self.clean_inputs().await {
            tracing::debug!(error = failure.message, "what is left of inputs could not be removed yet");
        }
        let Some(used) = used_before.filter(|used| marks.is_high(*used)) else { return Ok(report) };
        let is_enough = || used_percent(disk).is_none_or(|used| marks.is_low(used));
        // The cache first: an image whose layers the cache keeps too frees nothing.
        report.pruned_bytes += self.prune_volumes().await? + self.prune_cache().await?;
        for tag in self.evictable(used, &images).await? {
            if is_enough() {
                break;
            }
            // Wanted since the list was made. Who comes even later finds it gone and builds it again.
            if self.pins.contains(&tag) {
                continue;
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
        if let Some(inputs) = self.inputs.get().filter(|_| !is_enough()) {
            report.pruned_bytes += relieve(self, &inputs.shelf, disk, marks).await;
        }
        report.used_after = used_percent(disk);
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
    async fn evictable(&self, used: u8, images: &BTreeMap<String, ImageSummary>) -> Result<Vec<String>, DockerError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let containers =
            self.engine.call(QUICK, |docker| async move { docker.list_containers(Some(options)).await }).await?;
        let in_use: HashSet<String> = containers.into_iter().filter_map(|container| container.image_id).collect();
        let own = self.settings.instance.to_string();
        let environments = images
            .iter()
            .filter(|(tag, image)| {
                image.labels.get(INSTANCE_LABEL) == Some(&own)
                    && !in_use.contains(&image.id)
                    && !self.pins.contains(tag)
            })
            .map(|(tag, _)| tag.clone());
        // A build that needs a base while it goes pulls it again.
        let bases = self.idle_bases(&in_use).await?;
        let idle = environments.chain(bases).filter_map(|tag| {
            let last_used = Timestamp::from_timestamp_millis(self.records.get(&tag)?.last_used_ms)?;
            Some(Idle { item: tag, last_used })
        });
        Ok(self.settings.disk.marks.eviction_order(used, chrono::Utc::now(), idle.collect()))
    }

    /// Bases that builds here have pulled and no container is made of. Those that somebody removed are forgotten.
    async fn idle_bases(&self, in_use: &HashSet<String>) -> Result<Vec<String>, DockerError> {
        let mut idle = Vec::new();
        for base in self.records.bases() {
            let name = base.clone();
            match self.engine.call(QUICK, |docker| async move { docker.inspect_image(&name).await }).await {
                Ok(image) if image.id.as_ref().is_some_and(|id| in_use.contains(id)) => {}
                Ok(_) => idle.push(base),
                Err(error) if error.is_missing() => self.records.forget(&base),
                Err(error) => return Err(error),
            }
        }
        Ok(idle)
    }

    async fn prune_cache(&self) -> Result<u64, DockerError> {
        let facts = self.engine.facts().await?;
        if !self.settings.disk.prune_build_cache || !facts.has_buildkit {
            return Ok(0);
        }
        let prunable = self.builds.prunable();
        let mut options = PruneBuildOptionsBuilder::default().all(true);
        if let Prunable::UnusedFor(age) = &prunable {
            options = options.filters(&HashMap::from([("until", vec![format!("{}s", age.as_secs())])]));
        }
        let options = options.build();
        let pruned = self.engine.call(SLOW, |docker| async move { docker.prune_build(Some(options)).await }).await?;
        drop(prunable);
        Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }

    async fn prune_volumes(&self) -> Result<u64, DockerError> {
        let filter = HashMap::from([("label", vec![format!("{INSTANCE_LABEL}={}", self.settings.instance)])]);
        let options = PruneVolumesOptionsBuilder::default().filters(&filter).build();
        let pruned = self.engine.call(SLOW, |docker| async move { docker.prune_volumes(Some(options)).await }).await?;
        Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }
}
