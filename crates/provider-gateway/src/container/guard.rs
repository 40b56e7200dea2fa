//! Containers of exclusive work: `unidesk-shim` is their first process instead of Docker's own init, and ends them by itself. It gets
//! in through a named volume that is filled once through a container, so no path of the host is needed; its clock is the agent's,
//! since both stand on one kernel (it looks, and refuses another).

use super::{
    ContainerExecutor,
    create::name,
    docker::{DockerError, QUICK, SLOW},
    image::KIND_LABEL,
    run,
};
use crate::{
    executor::{Failure, Job, JobLease},
    runtime::boot_millis,
};
use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, KillContainerOptionsBuilder,
        ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::TryStreamExt;
use nix::sys::signal::Signal as Unix;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

/// Where the shim lies inside a container.
const DIR: &str = "/.unidesk";
const FILE: &str = "unidesk-shim";
const KIND: &str = "shim";
/// Not the label that garbage collection goes by: a volume that is about to be used belongs to nobody for a moment.
const OWNER_LABEL: &str = "unidesk.shim";
/// The first process may not hear a signal before it has run for a moment, and begins nothing before it has heard one.
const FIRST_RENEWALS_MS: [u64; 7] = [0, 30, 70, 200, 500, 1_200, 3_000];

/// See `lease` in the crate `shim`, which reads it: the number tells when the heartbeat was sent.
fn renewal_signal(lease: &JobLease) -> u64 {
    let slot_ms = lease.terms.period_ms.max(16).div_ceil(16);
    37 + lease.renewed_at() / slot_ms % 24
}

/// The shim as it is put into containers.
#[derive(Debug)]
pub(super) struct StaticShim {
    path: PathBuf,
}

impl StaticShim {
    /// `unidesk-shim-static`, or a `unidesk-shim` that is static itself, beside this program; or the one that was named. It must not
    /// need a C library: an image may have another one, or none.
    pub(super) fn find(named: Option<&Path>) -> Option<Self> {
        let beside = || std::env::current_exe().ok().map(|program| program.with_file_name(FILE));
        let plain = named.map(Path::to_owned).or_else(beside)?;
        let other = plain.with_file_name(format!("{FILE}-static"));
        [other, plain].into_iter().find(|path| is_static(path)).map(|path| Self { path })
    }

    fn read(&self) -> Result<(Vec<u8>, String), Failure> {
        let bytes = std::fs::read(&self.path)
            .map_err(|error| Failure::node(format!("{} can't be read: {error}.", self.path.display())))?;
        let hash = hex::encode(&Sha256::digest(&bytes)[..8]);
        Ok((bytes, hash))
    }
}

/// An ELF program of 64 bits that names no interpreter.
fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(elf) = std::fs::read(path) else { return false };
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)) as usize)
    };
    let headers = || Some((number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?));
    let Some((start, size, count)) = headers().filter(|_| elf.starts_with(b"\x7fELF\x02\x01")) else { return false };
    (0..count).all(|n| number(start + n * size, 4).is_some_and(|kind| kind != PT_INTERP as usize))
}

/// What stands before the program's own words.
pub(super) fn entrypoint(job: &Job, lease: &JobLease) -> Vec<String> {
    let stop = job.spec.stop.signal.parse::<Unix>().map_or(Unix::SIGTERM as i32, |signal| signal as i32);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    [
        format!("{DIR}/{FILE}"),
        "init".to_owned(),
        lease.terms.period_ms.to_string(),
        lease.terms.grace_ms.to_string(),
        stop.to_string(),
        boot.trim().to_owned(),
        "--".to_owned(),
    ]
    .into()
}

fn mount(volume: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(DIR.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

/// The mount of a container whose first process is the shim.
pub(super) fn shim_mount(volume: &str) -> Mount {
    mount(volume, true)
}

impl ContainerExecutor {
    /// The volume that holds the shim: made and filled when it is not there. `image`: any that is, since nothing of it is run.
    pub(super) async fn shim_volume(&self, image: &str) -> Result<String, Failure> {
        let Some(shim) = &self.shim else {
            return Err(Failure::node(
                "The static supervisor of exclusive containers is missing. Install unidesk-shim-static beside the agent's program.",
            ));
        };
        let (bytes, hash) = shim.read()?;
        let volume = format!("unidesk-shim-{hash}-{}", &self.settings.instance.as_uuid().simple().to_string()[..12]);
        // One at a time: a container must not begin with half of it.
        let mut filled = self.filled_shim.lock().await;
        let failed = |error: DockerError| error.into_failure("putting the supervisor of exclusive work into a volume");
        let is_there = self.has_volume(&volume).await.map_err(failed)?;
        if !(is_there && *filled) {
            self.fill(&volume, image, &bytes).await.map_err(failed)?;
            *filled = true;
            self.remove_older_shims(&volume).await;
        }
        Ok(volume)
    }

    pub(super) async fn has_volume(&self, volume: &str) -> Result<bool, DockerError> {
        match self.engine.call(QUICK, |docker| async move { docker.inspect_volume(volume).await }).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fill(&self, volume: &str, image: &str, bytes: &[u8]) -> Result<(), DockerError> {
        let labels: HashMap<String, String> =
            [(OWNER_LABEL.to_owned(), self.settings.instance.to_string()), (KIND_LABEL.to_owned(), KIND.to_owned())]
                .into();
        let request =
            VolumeCreateRequest { name: Some(volume.to_owned()), labels: Some(labels.clone()), ..Default::default() };
        self.engine.call(QUICK, |docker| async move { docker.create_volume(request).await }).await?;
        let helper = format!("{volume}-fill");
        self.remove_helper(&helper).await?;
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never started; some images have no command, and Docker asks for one.
            cmd: Some(vec!["-".to_owned()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount(volume, false)]),
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&helper).build();
        self.engine.call(SLOW, |docker| async move { docker.create_container(Some(options), body).await }).await?;
        let filled = self.fill_through(&helper, bytes).await;
        self.remove_helper(&helper).await?;
        filled
    }

    async fn fill_through(&self, helper: &str, bytes: &[u8]) -> Result<(), DockerError> {
        // Running containers use it: what is right stays as it is.
        if self.content(helper).await.as_deref() == Some(bytes) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o555);
        let mut tar = tar::Builder::new(Vec::new());
        let packed = tar.append_data(&mut header, FILE, bytes).and_then(|()| tar.into_inner());
        let packed = Bytes::from(packed.map_err(|error| DockerError::Garbled(error.to_string()))?);
        let options = UploadToContainerOptionsBuilder::default().path(DIR).build();
        self.engine
            .call(SLOW, |docker| async move {
                docker.upload_to_container(helper, Some(options), bollard::body_full(packed)).await
            })
            .await
    }

    async fn content(&self, helper: &str) -> Option<Vec<u8>> {
        let options = DownloadFromContainerOptionsBuilder::default().path(&format!("{DIR}/{FILE}")).build();
        let read = self.engine.call(QUICK, |docker| async move {
            let pieces = docker.download_from_container(helper, Some(options));
            pieces
                .try_fold(Vec::new(), async |mut tar, piece| {
                    tar.extend_from_slice(&piece);
                    Ok(tar)
                })
                .await
        });
        let tar = read.await.ok()?;
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut content = Vec::new();
        archive.entries().ok()?.next()?.ok()?.read_to_end(&mut content).ok()?;
        Some(content)
    }

    pub(super) async fn remove_helper(&self, helper: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        match self.engine.call(SLOW, |docker| async move { docker.remove_container(helper, Some(options)).await }).await
        {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Those of former versions. What a container still uses Docker keeps, and the next version removes.
    async fn remove_older_shims(&self, current: &str) {
        let filter = HashMap::from([("label", vec![format!("{OWNER_LABEL}={}", self.settings.instance)])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filter).build();
        let listed = self.engine.call(QUICK, |docker| async move { docker.list_volumes(Some(options)).await }).await;
        let volumes = listed.ok().and_then(|list| list.volumes).unwrap_or_default();
        for volume in volumes.into_iter().filter(|volume| volume.name != current) {
            let name = &volume.name;
            let removed = self
                .engine
                .call(SLOW, |docker| async move {
                    docker.remove_volume(name, None::<bollard::query_parameters::RemoveVolumeOptions>).await
                })
                .await;
            if let Err(error) = removed {
                tracing::debug!(volume = %name, %error, "an older supervisor's volume is still in use");
            }
        }
    }

    /// Tells the shim. A renewal that fails shortens the lease and nothing else: there is another with the next heartbeat.
    pub(super) async fn renew_lease(&self, job: &Job) {
        let Some(lease) = &job.lease else { return };
        let attempt = job.held.attempt;
        // Only a container that was started has a process to tell; its first one is told until it surely listens.
        let is_first = {
            let mut introduced = self.introduced.lock().unwrap_or_else(PoisonError::into_inner);
            job.dir.join(super::adopt::STARTED_MARK).exists() && introduced.insert(attempt)
        };
        let pauses: &[u64] = if is_first { &FIRST_RENEWALS_MS } else { &FIRST_RENEWALS_MS[..1] };
        for pause_ms in pauses {
            tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
            // The number of a signal tells a moment of the last period and a half; an older one would be taken for a newer.
            if boot_millis() >= lease.renewed_at().saturating_add(lease.terms.period_ms) {
                return;
            }
            let (name, signal) = (name(job), renewal_signal(lease).to_string());
            let options = KillContainerOptionsBuilder::default().signal(&signal).build();
            let sent = self
                .engine
                .call(run::PATIENCE, |docker| async move { docker.kill_container(&name, Some(options)).await })
                .await;
            match sent {
                Err(error) if error.is_missing() || error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(attempt.id = %attempt, %error, "the lease of an exclusive container could not be renewed");
                }
                Ok(()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_library_is_no_shim_for_containers() {
        assert!(!is_static(&std::env::current_exe().expect("this test")));
        assert!(!is_static(Path::new("/etc/passwd")) && !is_static(Path::new("/nowhere")));
    }
}
