//! An environment's image: found, or built once for all who want it.

use super::{
    Builder, ContainerExecutor, FetchedTree, TarOptions, base_image, build_failure,
    docker::{DockerError, QUICK},
    flight::Turn,
    image::{self, Identity, Image},
    raw,
    records::{self, ImageRecord},
    transcript::Transcript,
};
use crate::executor::{Failure, Job};
use bytes::Bytes;
use domain::{
    outcome::FailureKind,
    quantity::{show_bytes, show_duration_ms},
    source::Environment,
};
use futures::StreamExt;
use hyper::body::Frame;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// An image that a container can be made from, and what is recorded about how it came to be.
pub(super) struct Ready {
    pub(super) image: Image,
    pub(super) environment: serde_json::Value,
    pub(super) provenance: serde_json::Value,
}

/// What an environment's image is labelled with, each a step of its own to the classic builder.
const LABELS: usize = 5;
/// Base images fetched for one build on BuildKit's behalf.
const MAX_PULLS: usize = 8;

impl ContainerExecutor {
    /// The image, if it is there and was built for this environment.
    async fn find_image(&self, identity: &Identity) -> Result<Option<Image>, Failure> {
        let tag = identity.tag.clone();
        match self.engine.call(QUICK, |docker| async move { docker.inspect_image(&tag).await }).await {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
                // Anyone who may use Docker may tag an image so; only one that was built as this counts.
                let is_ours = labels.get(image::KEY_LABEL) == Some(&identity.key);
                Ok(is_ours.then(|| Image {
                    id: found.id.unwrap_or_default(),
                    size_bytes: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    labels,
                    user: config.user.unwrap_or_default(),
                    entrypoint: config.entrypoint.unwrap_or_default(),
                    cmd: config.cmd.unwrap_or_default(),
                }))
            }
            Err(error) if error.is_missing() => {
                self.records.forget(&identity.tag);
                Ok(None)
            }
            Err(error) => Err(error.into_failure("looking for the image")),
        }
    }

    /// Finds or builds. Dropping it ends a build of its own.
    pub(super) async fn ensure_image(
        &self,
        job: &Job,
        environment: &Environment,
        identity: &Identity,
    ) -> Result<Ready, Failure> {
        if let Some(image) = self.find_image(identity).await? {
            return Ok(self.warm_image(job, environment, identity, image).await);
        }
        let turn = self.flights.of(&identity.tag).wait(&job.log, job.task).await?;
        if let Some(image) = self.find_image(identity).await? {
            return Ok(self.warm_image(job, environment, identity, image).await);
        }
        self.make_room(&job.log).await?;
        let built = match tokio::time::timeout(
            self.settings.build_timeout,
            self.build_image(job, environment, identity, &turn),
        )
        .await
        {
            Ok(built) => built,
            Err(_) => Err(Failure::new(
                FailureKind::BuildFailed,
                format!(
                    "The image of {} was not built within {}.",
                    environment.dockerfile_path.as_str(),
                    show_duration_ms(u64::try_from(self.settings.build_timeout.as_millis()).unwrap_or(u64::MAX)),
                ),
            )),
        };
        if let Err(failure) = &built {
            turn.fail(failure);
        }
        // It may have filled the disk itself, and others should not be refused for that until the next pass.
        self.make_room_when_full().await;
        built
    }

    /// A warm image carries in its labels what its environment was: nothing has to be fetched.
    async fn warm_image(&self, job: &Job, environment: &Environment, identity: &Identity, image: Image) -> Ready {
        self.records.touch(&identity.tag, &identity.key);
        let record = self.records.get(&identity.tag).unwrap_or_default();
        job.log.note(&format!("image {} is warm ({})", identity.tag, show_bytes(image.size_bytes))).await;
        let label = |name: &str| image.labels.get(name).cloned();
        let environment_facts = json!({
            "url": environment.repo.url.as_str(),
            "commit": environment.repo.commit.as_str(),
            "tree": label(image::TREE_LABEL),
            "dockerfile_path": environment.dockerfile_path.as_str(),
            "dockerfile_sha256": label(image::DOCKERFILE_LABEL),
            "bytes_fetched": 0,
            "cached": true,
            "ms": 0,
        });
        let provenance = image_facts(identity, &image, &record, true);
        Ready { image, environment: environment_facts, provenance }
    }

    async fn build_image(
        &self,
        job: &Job,
        environment: &Environment,
        identity: &Identity,
        turn: &Turn,
    ) -> Result<Ready, Failure> {
        let began = Instant::now();
        let tree = self.source.fetch("environment", &environment.repo, &job.log).await?;
        let fetch_ms = elapsed_ms(began);
        for note in &tree.notes {
            job.log.note(note).await;
        }
        let dockerfile = self.source.dockerfile(&environment.repo, &environment.dockerfile_path).await?;
        let dockerfile_sha256 = hex::encode(Sha256::digest(&dockerfile));
        let began = Instant::now();
        let build = Build {
            job,
            environment,
            identity,
            turn,
            tree: &tree,
            dockerfile: &dockerfile,
            dockerfile_sha256: &dockerfile_sha256,
        };
        let absent = self.absent_bases(&dockerfile).await;
        let built = self.run_builders(&build).await;
        // Also of a build that failed: what it pulled is here.
        self.note_bases(absent, &dockerfile).await;
        let (builder, steps) = built?;
        let build_ms = elapsed_ms(began);
        let image = self
            .find_image(identity)
            .await?
            .ok_or_else(|| Failure::node(format!("Docker built {} and then did not have it.", identity.tag)))?;
        let record = ImageRecord {
            key: identity.key.clone(),
            last_used_ms: records::now_ms(),
            build_ms,
            steps,
            builder: builder.to_owned(),
            bases: self.base_ids(&dockerfile).await,
            is_base: false,
        };
        self.records.insert(&identity.tag, record.clone());
        let environment_facts = json!({
            "url": environment.repo.url.as_str(),
            "commit": tree.commit,
            "tree": tree.tree,
            "dockerfile_path": environment.dockerfile_path.as_str(),
            "dockerfile_sha256": dockerfile_sha256,
            "bytes_fetched": tree.bytes_fetched,
            "cached": tree.was_cached,
            "ref": tree.held_by_ref,
            "ms": fetch_ms,
        });
        let provenance = image_facts(identity, &image, &record, false);
        Ok(Ready { image, environment: environment_facts, provenance })
    }

    /// BuildKit, and the classic builder where BuildKit is not to be had. Gives back which, and the number of steps.
    async fn run_builders(&self, build: &Build<'_>) -> Result<(&'static str, usize), Failure> {
        let facts = self.engine.facts().await.map_err(|error| error.into_failure("building the image"))?;
        let _running = self.builds.begin().await;
        if self.settings.builder == Builder::Auto && facts.has_buildkit {
            for _ in 0..MAX_PULLS {
                let transcript = self.run_builder(build, true).await?;
                let Some(error) = &transcript.error else { return Ok(("buildkit", transcript.steps())) };
                if build_failure::lost_its_context(error) {
                    let note = "somebody emptied Docker's build cache in the middle of the build: it begins again";
                    build.job.log.note(note).await;
                    continue;
                }
                if !build_failure::wants_session(error) {
                    return Err(build.failure(&transcript));
                }
                let Some(base) = transcript.step.as_deref().and_then(base_image::wanted) else { break };
                if let Err(error) = self.pull(build.turn, &build.job.log, base).await {
                    let mut refused = Transcript::default();
                    refused.step = Some(format!("FROM {base}"));
                    refused.error = Some(error);
                    return Err(build.failure(&refused));
                }
            }
            build
                .job
                .log
                .note("BuildKit asks for a session that this agent does not offer: the classic builder takes over")
                .await;
        }
        let transcript = self.run_builder(build, false).await?;
        match transcript.error {
            None => Ok(("classic", transcript.steps())),
            Some(_) => Err(build.failure(&transcript)),
        }
    }

    async fn run_builder(&self, build: &Build<'_>, buildkit: bool) -> Result<Transcript, Failure> {
        let mut options = TarOptions::default();
        if buildkit && let Some(changed) = image::without_syntax_line(build.dockerfile) {
            options.replace.insert(build.environment.dockerfile_path.as_str().to_owned(), changed.into());
            let note = b"=> the `# syntax=` line is not followed: Docker's own Dockerfile frontend builds\n";
            build.turn.say(&build.job.log, note.to_vec()).await;
        }
        // A tree that can't be read to its end breaks the upload; this keeps the reason.
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let reason = broken.clone();
        let body = self.source.tar(&build.environment.repo, options).map(move |piece| match piece {
            Ok(bytes) => Ok(Frame::data(bytes)),
            Err(error) => {
                *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                Err(error)
            }
        });
        let mut transcript = Transcript::new(if buildkit { 0 } else { LABELS });
        let ended = self.converse(build, buildkit, Box::pin(body), &mut transcript).await;
        let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reason) = broken {
            return Err(Failure::node(format!("The tree of {} could not be read: {reason}.", build.environment.repo)));
        }
        match ended {
            Ok(()) => Ok(transcript),
            // Refused before it began, such as for a Dockerfile that does not parse.
            Err(DockerError::Refused { message, .. }) => {
                transcript.error = Some(message);
                Ok(transcript)
            }
            Err(error) => {
                if error.is_away() {
                    self.engine.forget();
                }
                Err(error.into_failure("building the image"))
            }
        }
    }

    async fn converse(
        &self,
        build: &Build<'_>,
        buildkit: bool,
        body: futures::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>,
        transcript: &mut Transcript,
    ) -> Result<(), DockerError> {
        let facts = self.engine.facts().await?;
        let path = build.query(&facts.api_version, self.settings.instance, buildkit);
        let mut answer = raw::send(&self.engine, hyper::Method::POST, &path, body).await?;
        while let Some(line) = answer.line(&self.engine).await? {
            let text = transcript.take(&line);
            build.turn.say(&build.job.log, text).await;
        }
        if transcript.error.is_none() && transcript.image_id.is_none() {
            // The connection ended in an orderly way, but nothing was built: Docker was shut down in between.
            return Err(DockerError::Garbled("the build ended without an image".to_owned()));
        }
        Ok(())
    }
}

struct Build<'a> {
    job: &'a Job,
    environment: &'a Environment,
    identity: &'a Identity,
    turn: &'a Turn,
    tree: &'a FetchedTree,
    dockerfile: &'a [u8],
    dockerfile_sha256: &'a str,
}

impl Build<'_> {
    fn failure(&self, transcript: &Transcript) -> Failure {
        build_failure::describe(&self.environment.dockerfile_path, self.dockerfile, transcript)
    }

    fn query(&self, api: &str, instance: domain::ids::InstanceId, buildkit: bool) -> String {
        let labels = json!({
            image::KIND_LABEL: image::KIND,
            image::KEY_LABEL: self.identity.key,
            image::INSTANCE_LABEL: instance.to_string(),
            image::TREE_LABEL: self.tree.tree,
            image::DOCKERFILE_LABEL: self.dockerfile_sha256,
        });
        let mut path = format!(
            "/v{api}/build?t={}&dockerfile={}&labels={}&rm=1&forcerm=1",
            raw::escape(&self.identity.tag),
            raw::escape(self.environment.dockerfile_path.as_str()),
            raw::escape(&labels.to_string()),
        );
        if !self.environment.build_args.is_empty() {
            let args = json!(self.environment.build_args).to_string();
            path += &format!("&buildargs={}", raw::escape(&args));
        }
        if buildkit {
            path += "&version=2";
        }
        path
    }
}

fn image_facts(identity: &Identity, image: &Image, record: &ImageRecord, warm: bool) -> serde_json::Value {
    json!({
        "tag": identity.tag,
        "id": image.id,
        "bases": record.bases,
        "warm": warm,
        "build_ms": if warm { 0 } else { record.build_ms },
        "steps": record.steps,
        "size_bytes": image.size_bytes,
        "builder": record.builder,
    })
}

pub(super) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
