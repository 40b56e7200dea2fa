//! Base images that BuildKit can't pull by itself: without a session it has no credentials, not even anonymous ones. Docker's
//! ordinary pull needs none for public images, and what was pulled BuildKit finds locally.

use super::{
    ContainerExecutor,
    docker::{DockerError, QUICK},
    flight::Turn,
};
use crate::log::AttemptLog;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// The image that a BuildKit step wanted: `[internal] load metadata for docker.io/library/debian:12`.
pub(super) fn wanted(step: &str) -> Option<&str> {
    step.strip_prefix("[internal] load metadata for ")
}

impl ContainerExecutor {
    /// Pulls an image as `docker pull` does. Errors: the registry's words.
    pub(super) async fn pull(&self, turn: &Turn, log: &AttemptLog, image: &str) -> Result<(), String> {
        turn.say(log, format!("=> pulling {image}\n").into_bytes()).await;
        let docker = self.engine.streaming().await.map_err(|error| error.to_string())?;
        let options = CreateImageOptionsBuilder::default().from_image(image).build();
        let mut progress = docker.create_image(Some(options), None, None);
        while let Some(item) = progress.next().await {
            let item = item.map_err(|error| match self.engine.explain(error, QUICK) {
                DockerError::Refused { message, .. } | DockerError::Garbled(message) => message,
                other => other.to_string(),
            })?;
            if let Some(error) = item.error_detail.and_then(|detail| detail.message) {
                return Err(error);
            }
            if let (Some(status), None) = (item.status, item.progress_detail) {
                turn.say(log, format!("{status}\n").into_bytes()).await;
            }
        }
        Ok(())
    }

    /// Bases that Docker has not: what a build brings of them is its own.
    pub(super) async fn absent_bases(&self, dockerfile: &[u8]) -> BTreeSet<String> {
        let there = self.base_ids(dockerfile).await;
        super::image::bases(dockerfile).into_iter().filter(|base| !there.contains_key(base)).collect()
    }

    /// Remembers which bases a build pulled, and that those of earlier builds were used again: they are collected like images that
    /// were built here. What others had pulled before is theirs.
    pub(super) async fn note_bases(&self, absent: BTreeSet<String>, dockerfile: &[u8]) {
        for base in self.base_ids(dockerfile).await.into_keys() {
            if absent.contains(&base) || self.records.get(&base).is_some_and(|record| record.is_base) {
                self.records.touch_base(&base);
            }
        }
    }

    /// Id or digest of those bases that Docker knows by name.
    pub(super) async fn base_ids(&self, dockerfile: &[u8]) -> BTreeMap<String, String> {
        let mut ids = BTreeMap::new();
        for base in super::image::bases(dockerfile) {
            let name = base.clone();
            let found = self.engine.call(QUICK, |docker| async move { docker.inspect_image(&name).await }).await;
            if let Ok(image) = found {
                let digest = image.repo_digests.unwrap_or_default().into_iter().next();
                if let Some(id) = digest.or(image.id) {
                    ids.insert(base, id);
                }
            }
        }
        ids
    }
}
