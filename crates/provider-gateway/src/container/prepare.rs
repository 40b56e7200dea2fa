//! Everything before the user's process: sources, image, container.

use super::{
    ContainerExecutor, FetchedTree,
    build::{Ready, elapsed_ms},
    checkpoints::Fetched,
    docker::DockerError,
    image::Identity,
};
use crate::{
    artifacts::{checkpoints::beginning, inputs::bring_all},
    executor::{Failure, Job, Prepared},
};
use domain::{outcome::FailureKind, source::Pinned};
use serde_json::json;
use std::time::Instant;

impl ContainerExecutor {
    pub(super) async fn prepare_container(&self, job: &Job) -> Result<Prepared, Failure> {
        let environment = job.spec.source.environment.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::Rejected, "A container task names an environment, and this one does not.")
        })?;
        let facts = self.engine.facts().await.map_err(|error| error.into_failure("preparing a container"))?;
        if self.was_started_before(job).await? {
            return Ok(Prepared::default());
        }
        if self.refuse_when_full(&facts.data_root).is_err() {
            self.make_room(&job.log).await?;
        }
        let identity = Identity::of(environment, &facts.os, &facts.arch);
        let pin = self.pins.hold(&identity.tag);
        let code = self.fetch_code(job);
        let image = self.ensure_image(job, environment, &identity);
        let inputs = bring_all(self, self.inputs.get(), job);
        let fetched = Fetched::of(job);
        let checkpoint = beginning::bring(&fetched, self.inputs.get().map(|inputs| &inputs.artifacts), job);
        // The first failure ends the others: a build for code that can't be had is wasted.
        let (code, mut ready, inputs, checkpoint) = tokio::try_join!(code, image, inputs, checkpoint)?;

        let began = Instant::now();
        let is_empty = |ready: &Ready| {
            job.spec.command.is_blank() && ready.image.entrypoint.is_empty() && ready.image.cmd.is_empty()
        };
        let shim = if job.lease.is_some() {
            if is_empty(&ready) {
                return Err(nothing_to_run());
            }
            Some(self.shim_volume(&ready.image.id).await?)
        } else {
            None
        };
        if let Err(error) =
            self.create_container(job, &identity.tag, &ready, self.mounts(shim.as_deref(), &inputs)).await
        {
            if !is_image_missing(&error) {
                return Err(refusal(error));
            }
            // Somebody removed it in between.
            ready = self.ensure_image(job, environment, &identity).await?;
            self.create_container(job, &identity.tag, &ready, self.mounts(shim.as_deref(), &inputs))
                .await
                .map_err(refusal)?;
        }
        drop(pin);
        let user = self.copy_code(job, &ready, &inputs).await?;
        self.place_checkpoint(job, user, &fetched, checkpoint.is_some()).await?;

        let mut provenance = serde_json::Map::new();
        if let Some(code) = code {
            provenance.insert("code".into(), code);
        }
        if !inputs.is_empty() {
            let facts: Vec<_> = inputs.into_iter().map(|input| input.provenance).collect();
            provenance.insert("inputs".into(), facts.into());
        }
        provenance.extend(checkpoint.map(|facts| ("checkpoint".to_owned(), facts)));
        provenance.insert("environment".into(), ready.environment);
        provenance.insert("image".into(), ready.provenance);
        provenance.insert("container".into(), json!({ "name": super::create::name(job), "ms": elapsed_ms(began) }));
        provenance.insert("docker_version".into(), json!(facts.server_version));
        provenance.insert("agent_version".into(), json!(self.settings.agent_version));
        provenance.insert("gpu_ids".into(), json!(job.gpu_ids));
        Ok(Prepared { provenance })
    }

    async fn fetch_code(&self, job: &Job) -> Result<Option<serde_json::Value>, Failure> {
        let Some(code) = &job.spec.source.code else { return Ok(None) };
        let began = Instant::now();
        let tree = self.source.fetch("code", code, &job.log).await?;
        for note in &tree.notes {
            job.log.note(note).await;
        }
        Ok(Some(tree_facts(code, &tree, elapsed_ms(began))))
    }
}

fn tree_facts(pinned: &Pinned, tree: &FetchedTree, ms: u64) -> serde_json::Value {
    json!({
        "url": pinned.url.as_str(),
        "commit": tree.commit,
        "tree": tree.tree,
        "bytes_fetched": tree.bytes_fetched,
        "cached": tree.was_cached,
        "ref": tree.held_by_ref,
        "ms": ms,
    })
}

fn is_image_missing(error: &DockerError) -> bool {
    error.is_missing() && error.to_string().to_ascii_lowercase().contains("image")
}

fn nothing_to_run() -> Failure {
    Failure::new(
        FailureKind::ExitNonzero,
        "There is nothing to run: the task has no `command`, and the image neither ENTRYPOINT nor CMD.",
    )
}

/// A container that can't be created: what the spec or the image got wrong, or else the machine.
fn refusal(error: DockerError) -> Failure {
    let text = error.to_string().to_ascii_lowercase();
    if text.contains("no command specified") {
        return nothing_to_run();
    }
    if text.contains("working directory") || text.contains("not a directory") {
        return Failure::new(FailureKind::ExitNonzero, format!("The working directory can't be used: {error}."));
    }
    error.into_failure("creating the container")
}
