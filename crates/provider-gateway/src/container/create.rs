//! The container of an attempt: made, given its code, not started.

use super::{
    ContainerExecutor, TarOptions, WORKSPACE,
    adopt::{self, Found},
    build::Ready,
    docker::{DockerError, QUICK, SLOW},
    guard, hardening, user,
};
use crate::{
    artifacts::inputs::Brought,
    executor::{Failure, Job},
};
use bollard::{
    models::{ContainerCreateBody, HealthConfig, Mount},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use domain::{outcome::FailureKind, source::Pinned};
use futures::{Stream, StreamExt, TryStreamExt};
use std::{
    io::Read,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

/// For copying the code in, however much it is.
const COPY: Duration = Duration::from_secs(3_600);
/// `/etc/passwd` of an image is read up to here.
const MAX_PASSWD_BYTES: usize = 1 << 20;

pub(super) fn name(job: &Job) -> String {
    format!("unidesk-{}", job.held.attempt)
}

impl ContainerExecutor {
    pub(super) async fn create_container(
        &self,
        job: &Job,
        tag: &str,
        ready: &Ready,
        mounts: Vec<Mount>,
    ) -> Result<(), DockerError> {
        let facts = self.engine.facts().await?;
        let with_quota = !self.quota_refused.load(Ordering::Relaxed);
        let created = self.create(job, tag, ready, mounts.clone(), &facts, with_quota).await;
        match created {
            Err(DockerError::Refused { message, .. }) if with_quota && message.contains("storage-opt") => {
                self.quota_refused.store(true, Ordering::Relaxed);
                self.create(job, tag, ready, mounts, &facts, false).await
            }
            other => other,
        }
    }

    async fn create(
        &self,
        job: &Job,
        tag: &str,
        ready: &Ready,
        mounts: Vec<Mount>,
        facts: &super::DockerFacts,
        with_quota: bool,
    ) -> Result<(), DockerError> {
        let mut host_config = hardening::host_config(job, facts, self.settings.pids_limit, with_quota);
        if job.lease.is_some() {
            // The supervisor is the first process itself.
            host_config.init = Some(false);
        }
        if !mounts.is_empty() {
            host_config.mounts = Some(mounts);
        }
        let body = body(job, tag, ready, host_config);
        let options = CreateContainerOptionsBuilder::default().name(&name(job)).build();
        self.engine
            .call(SLOW, |docker| async move { docker.create_container(Some(options), body).await })
            .await
            .map(|_| ())
    }

    /// The supervisor of exclusive work, and what the task reads.
    pub(super) fn mounts(&self, shim_volume: Option<&str>, inputs: &[Brought]) -> Vec<Mount> {
        shim_volume.map(guard::shim_mount).into_iter().chain(self.input_mounts(inputs)).collect()
    }

    /// Makes `/workspace` the user's own and puts the code there, and what stands for inputs beside it. Gives that user and its group.
    pub(super) async fn copy_code(&self, job: &Job, ready: &Ready, inputs: &[Brought]) -> Result<(u32, u32), Failure> {
        let (uid, gid) = self.user_ids(job, ready).await?;
        let own_dirs = owned_directories(job, uid, gid)
            .map_err(|error| Failure::node(format!("A tar could not be made: {error}.")))?;
        self.upload(job, "/", futures::stream::iter([Ok(own_dirs)])).await?;
        if let Some(code) = &job.spec.source.code {
            self.copy_tree(job, code, uid, gid).await?;
        }
        let links = Self::input_links(inputs, uid, gid)
            .map_err(|error| Failure::node(format!("A tar could not be made: {error}.")))?;
        if let Some(links) = links {
            self.upload(job, "/", futures::stream::iter([Ok(links)])).await?;
        }
        Ok((uid, gid))
    }

    async fn copy_tree(&self, job: &Job, code: &Pinned, uid: u32, gid: u32) -> Result<(), Failure> {
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let reason = broken.clone();
        let tree = self.source.tar(code, TarOptions { uid, gid, ..TarOptions::default() }).inspect_err(move |error| {
            *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        });
        let copied = self.upload(job, WORKSPACE, tree).await;
        // A tree that breaks off in the middle may look whole to Docker.
        match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => Err(Failure::node(format!("The tree of {code} could not be read: {reason}."))),
            None => copied,
        }
    }

    pub(super) async fn upload(
        &self,
        job: &Job,
        path: &str,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Failure> {
        let tar = bollard::body_try_stream(tar);
        let (name, options) = (name(job), UploadToContainerOptionsBuilder::default().path(path).build());
        self.engine
            .call(COPY, |docker| async move { docker.upload_to_container(&name, Some(options), tar).await })
            .await
            .map_err(|error| {
                // The only such place in a new container.
                if !job.spec.inputs.is_empty() && error.to_string().contains("read-only file system") {
                    let why = format!("The code has files where an input lies, which is read-only: {error}.");
                    return Failure::new(FailureKind::InputUnavailable, why);
                }
                error.into_failure("copying files into the container")
            })
    }

    async fn user_ids(&self, job: &Job, ready: &Ready) -> Result<(u32, u32), Failure> {
        let text = job.spec.user.as_deref().unwrap_or(&ready.image.user);
        let (mut passwd, mut group) = (String::new(), String::new());
        if !user::is_plain(text) {
            passwd = self.file_of(job, "/etc/passwd").await?;
            group = self.file_of(job, "/etc/group").await?;
        }
        user::resolve(text, &passwd, &group).map_err(|missing| {
            let (kind, whose) = match &job.spec.user {
                Some(_) => (FailureKind::ExitNonzero, "the task's `user`"),
                None => (FailureKind::BuildFailed, "the image's USER"),
            };
            Failure::new(kind, format!("The container can't run as {text:?} ({whose}): {missing}."))
        })
    }

    /// A small file out of the container; empty when there is none.
    async fn file_of(&self, job: &Job, path: &str) -> Result<String, Failure> {
        let doing = "reading the image's users";
        let docker = self.engine.streaming().await.map_err(|error| error.into_failure(doing))?;
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let name = name(job);
        let mut pieces = std::pin::pin!(docker.download_from_container(&name, Some(options)));
        let mut tar = Vec::new();
        let read = async {
            while let Some(piece) = pieces.next().await {
                tar.extend_from_slice(&piece.map_err(|error| self.engine.explain(error, QUICK))?);
                if tar.len() > MAX_PASSWD_BYTES {
                    break;
                }
            }
            Ok::<(), DockerError>(())
        };
        match tokio::time::timeout(QUICK, read).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_missing() => return Ok(String::new()),
            Ok(Err(error)) => return Err(error.into_failure(doing)),
            Err(_) => return Err(DockerError::Late(QUICK).into_failure(doing)),
        }
        let mut text = Vec::new();
        if let Ok(mut entries) = tar::Archive::new(tar.as_slice()).entries()
            && let Some(Ok(file)) = entries.next()
        {
            // A file that is cut off ends in an error, and what came before it counts.
            let _ = file.take(MAX_PASSWD_BYTES as u64).read_to_end(&mut text);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether the attempt's container was started already. One that was not is removed: nobody knows how far it had come.
    pub(super) async fn was_started_before(&self, job: &Job) -> Result<bool, Failure> {
        match adopt::look(&self.engine, job).await {
            Ok(Found::Ours(container)) if adopt::is_started(&container) => Ok(true),
            Ok(Found::Ours(_)) => {
                super::run::remove(&self.engine, job).await?;
                Ok(false)
            }
            Ok(Found::Foreign) => Err(Failure::node(format!(
                "A container named {} is there that this agent did not make. Remove it: `docker rm -f {}`.",
                name(job),
                name(job)
            ))),
            Ok(Found::Missing) => Ok(false),
            Err(error) => Err(error.into_failure("looking for an earlier container")),
        }
    }
}

fn body(job: &Job, tag: &str, ready: &Ready, host_config: bollard::models::HostConfig) -> ContainerCreateBody {
    let spec = &job.spec;
    let mut env = spec.env.clone();
    // The platform's names win, or a task could pass itself off as another.
    env.extend(job.platform_env());
    let own = (!spec.command.is_blank()).then(|| spec.command.argv());
    let (entrypoint, cmd) = match &job.lease {
        None => (None, own),
        // An entrypoint that is set makes Docker forget the image's command too.
        Some(lease) => {
            let program = ready.image.entrypoint.iter().chain(own.as_ref().unwrap_or(&ready.image.cmd));
            (Some(guard::entrypoint(job, lease)), Some(program.cloned().collect()))
        }
    };
    ContainerCreateBody {
        // By id where it is known: a tag may be moved by anyone who may use Docker.
        image: Some(if ready.image.id.is_empty() { tag.to_owned() } else { ready.image.id.clone() }),
        entrypoint,
        cmd,
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: spec.user.clone(),
        working_dir: Some(spec.workdir.clone()),
        labels: Some(adopt::labels(job)),
        stop_signal: Some(spec.stop.signal.clone()),
        // Nobody asks a task for its health, and each check would be a process of its own.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// `/workspace`, and what lies between it and a working directory below it, as a tar for `/`.
fn owned_directories(job: &Job, uid: u32, gid: u32) -> std::io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut directory = String::new();
    let workdir = job.spec.workdir.strip_prefix(WORKSPACE).filter(|rest| rest.starts_with('/')).unwrap_or("");
    let below = workdir.split('/').take_while(|part| *part != "..").filter(|part| !part.is_empty() && *part != ".");
    for part in std::iter::once(WORKSPACE.trim_start_matches('/')).chain(below) {
        directory += part;
        directory.push('/');
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(0);
        tar.append_data(&mut header, &directory, std::io::empty())?;
    }
    Ok(tar.into_inner()?.into())
}
