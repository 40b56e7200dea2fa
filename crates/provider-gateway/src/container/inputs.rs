//! Inputs of containers: a named volume for each content, filled once through a container that is never started, and mounted read-only. So no
//! path of the host is needed, and nothing is copied for an attempt.

use super::{
    ContainerExecutor, WORKSPACE,
    docker::{DockerError, QUICK, SLOW},
    image::{INSTANCE_LABEL, KIND_LABEL},
    raw,
};
use crate::{
    artifacts::inputs::{Brought, Place, Unfilled, Wanted},
    executor::Failure,
};
use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveVolumeOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use domain::artifact::ArtifactKind;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use hyper::{Method, body::Frame};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;
use transfer::{Limits, Rights, TransferError, UnpackError, relay, relay_file, stream};

/// Of volumes, and of the containers that fill them. Not the label that garbage collection goes by: what lies in them is not garbage.
const OWNER_LABEL: &str = "unidesk.input";
const KEY_LABEL: &str = "unidesk.input.key";
const KIND: &str = "input";
/// Where a volume is filled.
const FILL_AT: &str = "/input";
/// The name of the one file in the volume of a file.
const FILE: &str = "file";
/// Where volumes of files are mounted; a link to the file stands where the task finds it. Beside the directory of the supervisor, which is a
/// read-only mount itself.
const FILES_AT: &str = "/.unidesk-inputs";
/// However slowly it comes: whoever fetches it watches over that.
const FILL_WITHIN: Duration = Duration::from_secs(30 * 24 * 3_600);

fn mount(volume: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

impl ContainerExecutor {
    fn instance_mark(&self) -> String {
        self.settings.instance.as_uuid().simple().to_string()[..12].to_owned()
    }

    fn input_volume(&self, key: &str) -> String {
        format!("unidesk-input-{key}-{}", self.instance_mark())
    }

    /// The mounts of a container that is about to be made.
    pub(super) fn input_mounts(&self, inputs: &[Brought]) -> Vec<Mount> {
        let mounts = inputs.iter().enumerate().map(|(index, input)| {
            let volume = self.input_volume(&input.key);
            match input.kind {
                ArtifactKind::Directory => mount(&volume, &input.path, true),
                ArtifactKind::File => mount(&volume, &format!("{FILES_AT}/{index}"), true),
            }
        });
        mounts.collect()
    }

    /// Fills a volume that nobody uses yet.
    async fn fill_volume(&self, wanted: Wanted<'_>) -> Result<u64, Unfilled> {
        self.clean_inputs().await?;
        let volume = self.input_volume(wanted.key);
        let helper = format!("{volume}-fill");
        let filled = match self.make_helper(&volume, &helper, wanted.key).await {
            Ok(()) => self.pour(&helper, &wanted).await,
            Err(error) => Err(of_docker(error)),
        };
        // Also after a failure, so that nothing of it takes room.
        let removed = self.remove_helper(&helper).await;
        let bytes = match filled {
            Ok(bytes) => bytes,
            Err(error) => {
                let _ = self.remove_volume(&volume).await;
                return Err(error);
            }
        };
        removed.map_err(of_docker)?;
        self.sync_volume(&volume).await?;
        Ok(bytes)
    }

    async fn make_helper(&self, volume: &str, helper: &str, key: &str) -> Result<(), DockerError> {
        let image = self.helper_image().await?;
        self.remove_helper(helper).await?;
        self.remove_volume(volume).await?;
        let mut labels: HashMap<String, String> =
            [(OWNER_LABEL.to_owned(), self.settings.instance.to_string()), (KIND_LABEL.to_owned(), KIND.to_owned())]
                .into();
        labels.insert(KEY_LABEL.to_owned(), key.to_owned());
        let request =
            VolumeCreateRequest { name: Some(volume.to_owned()), labels: Some(labels.clone()), ..Default::default() };
        self.engine.call(QUICK, |docker| async move { docker.create_volume(request).await }).await?;
        let body = ContainerCreateBody {
            image: Some(image),
            // Never started; the image has no command, and Docker asks for one.
            cmd: Some(vec!["-".to_owned()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount(volume, FILL_AT, false)]),
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(helper).build();
        self.engine.call(SLOW, |docker| async move { docker.create_container(Some(options), body).await }).await?;
        Ok(())
    }

    /// The bytes come from the store, are checked entry by entry, and go on to Docker. Twice, where they are not what they should be.
    async fn pour(&self, helper: &str, wanted: &Wanted<'_>) -> Result<u64, Unfilled> {
        match self.pour_once(helper, wanted).await {
            Err(Unfilled::Transfer(TransferError::WrongDigest { .. })) => {
                wanted.observer.again(wanted.pinned.size);
                self.pour_once(helper, wanted).await
            }
            poured => poured,
        }
    }

    async fn pour_once(&self, helper: &str, wanted: &Wanted<'_>) -> Result<u64, Unfilled> {
        let (pipe, pieces, is_over) = pipe();
        let (kind, size) = (wanted.pinned.kind, wanted.pinned.size);
        let limits = Limits { bytes: self.free_bytes().await, ..Limits::default() };
        let artifacts = wanted.artifacts;
        let checking = stream(
            &artifacts.store,
            wanted.content(),
            &wanted.addresses,
            &artifacts.options,
            &*wanted.observer,
            move |incoming| {
                let out = std::io::BufWriter::with_capacity(64 << 10, pipe);
                let unpacked = match kind {
                    ArtifactKind::Directory => relay(incoming, &limits, &Rights::READ_ONLY, out),
                    ArtifactKind::File => relay_file(incoming, size, FILE, out),
                };
                Ok(unpacked?)
            },
        );
        let body = bollard::body_try_stream(pieces);
        let options = UploadToContainerOptionsBuilder::default().path(FILL_AT).build();
        let putting = async {
            let engine = &self.engine;
            let put = engine.call(FILL_WITHIN, |docker| async move {
                docker.upload_to_container(helper, Some(options), body).await
            });
            let put = put.await;
            // A daemon that has no room says so in the middle, and may read no further.
            is_over.cancel();
            put
        };
        match tokio::join!(checking, putting) {
            (Ok(unpacked), Ok(())) => Ok(unpacked.bytes),
            // Docker took no more of it, and says why.
            (Ok(_) | Err(TransferError::Unpack(UnpackError::Unwritable { .. })), Err(error)) => Err(of_docker(error)),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Where Docker's disk can be seen.
    async fn free_bytes(&self) -> Option<u64> {
        let root = self.data_root().await?;
        nix::sys::statvfs::statvfs(&root).ok().map(|disk| disk.blocks_available() * disk.fragment_size())
    }

    /// Returns once what is in it survives a power loss.
    async fn sync_volume(&self, volume: &str) -> Result<(), Unfilled> {
        let seen = self.engine.call(QUICK, |docker| async move { docker.inspect_volume(volume).await }).await;
        let place = seen.map_err(of_docker)?.mountpoint;
        let syncing = tokio::task::spawn_blocking(move || {
            let dir = File::open(PathBuf::from(place));
            // From inside a container its place can't be seen; then all that this kernel has to write is written.
            match dir.and_then(|dir| Ok(rustix::fs::syncfs(&dir)?)) {
                Ok(()) => {}
                Err(_) => nix::unistd::sync(),
            }
        });
        syncing.await.map_err(|error| Failure::node(format!("A step of the agent broke off: {error}.")).into())
    }

    /// An image without anything in it: what is filled through it needs no other, and so waits for no build.
    async fn helper_image(&self) -> Result<String, DockerError> {
        let repo = "unidesk/input";
        let tag = format!("{repo}:{}", self.instance_mark());
        let _one = self.making_helper_image.lock().await;
        let name = tag.clone();
        match self.engine.call(QUICK, |docker| async move { docker.inspect_image(&name).await }).await {
            Ok(_) => return Ok(tag),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let labels = format!("LABEL {INSTANCE_LABEL}={} {KIND_LABEL}={KIND}", self.settings.instance);
        let path = format!(
            "/images/create?fromSrc=-&repo={}&tag={}&changes={}",
            raw::escape(repo),
            self.instance_mark(),
            raw::escape(&labels)
        );
        // The end of a tar, and nothing before it.
        let empty = futures::stream::iter([Ok(Frame::data(Bytes::from_static(&[0; 1_024])))]).boxed();
        let making = async {
            let mut said = raw::send(&self.engine, Method::POST, &path, empty).await?;
            while let Some(line) = said.line(&self.engine).await? {
                let line: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
                if let Some(error) = line.get("error").and_then(serde_json::Value::as_str) {
                    return Err(DockerError::Garbled(error.to_owned()));
                }
            }
            Ok(tag)
        };
        tokio::time::timeout(SLOW, making).await.unwrap_or(Err(DockerError::Late(SLOW)))
    }

    async fn remove_volume(&self, volume: &str) -> Result<(), DockerError> {
        let options = RemoveVolumeOptionsBuilder::default().build();
        let removed =
            self.engine.call(SLOW, |docker| async move { docker.remove_volume(volume, Some(options)).await }).await;
        match removed {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Once for each agent, before it fills any: what an earlier one left half filled, or has taken off, goes.
    pub(super) async fn clean_inputs(&self) -> Result<(), Failure> {
        let Some(inputs) = self.inputs.get() else { return Ok(()) };
        let mut is_clean = self.has_cleaned_inputs.lock().await;
        if *is_clean {
            return Ok(());
        }
        let filter = HashMap::from([("label", vec![format!("{OWNER_LABEL}={}", self.settings.instance)])]);
        let cleaning = async {
            let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
            let helpers =
                self.engine.call(QUICK, |docker| async move { docker.list_containers(Some(options)).await }).await?;
            for id in helpers.into_iter().filter_map(|helper| helper.id) {
                self.remove_helper(&id).await?;
            }
            let options = ListVolumesOptionsBuilder::default().filters(&filter).build();
            let listed =
                self.engine.call(QUICK, |docker| async move { docker.list_volumes(Some(options)).await }).await?;
            for volume in listed.volumes.unwrap_or_default() {
                if volume.labels.get(KEY_LABEL).is_some_and(|key| inputs.shelf.knows(key)) {
                    continue;
                }
                match self.remove_volume(&volume.name).await {
                    // A container that nobody knows any more still has it; the next agent looks again.
                    Err(error) if error.is_conflict() => {
                        tracing::warn!(volume = volume.name, "an unknown input is still in use");
                    }
                    removed => removed?,
                }
            }
            Ok::<_, DockerError>(())
        };
        cleaning.await.map_err(|error| error.into_failure("removing what is left of inputs"))?;
        *is_clean = true;
        Ok(())
    }

    /// What stands in the container's own file system for its inputs, as a tar for `/`: links to files, and the directories on the way to
    /// inputs in the workspace, which are its user's. None: nothing.
    pub(super) fn input_links(inputs: &[Brought], uid: u32, gid: u32) -> std::io::Result<Option<Bytes>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut is_empty = true;
        for (index, input) in inputs.iter().enumerate() {
            let below = input.path.strip_prefix(WORKSPACE).and_then(|rest| rest.strip_prefix('/'));
            let parents = below.and_then(|below| below.rsplit_once('/')).map(|(parents, _)| parents);
            let mut directory = format!("{}/", WORKSPACE.trim_start_matches('/'));
            for part in parents.into_iter().flat_map(|parents| parents.split('/')) {
                directory = format!("{directory}{part}/");
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_uid(uid.into());
                header.set_gid(gid.into());
                header.set_size(0);
                tar.append_data(&mut header, &directory, std::io::empty())?;
                is_empty = false;
            }
            if input.kind == ArtifactKind::File {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                let target = format!("{FILES_AT}/{index}/{FILE}");
                tar.append_link(&mut header, input.path.trim_start_matches('/'), target)?;
                is_empty = false;
            }
        }
        Ok(if is_empty { None } else { Some(tar.into_inner()?.into()) })
    }
}

impl Place for ContainerExecutor {
    fn has<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        async move {
            let there = self.has_volume(&self.input_volume(key)).await;
            there.map_err(|error| error.into_failure("looking for an input"))
        }
        .boxed()
    }
    fn fill<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<u64, Unfilled>> {
        self.fill_volume(wanted).boxed()
    }
    fn remove<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let removed = self.remove_volume(&self.input_volume(key)).await;
            removed.map_err(|error| error.into_failure("removing an input"))
        }
        .boxed()
    }
}

/// What is written on a thread where it may block, as the body of a request. Once the token is cancelled, nothing more is taken.
pub(super) fn pipe() -> (Pipe, impl Stream<Item = io::Result<Bytes>> + Send + 'static, CancellationToken) {
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    let is_over = CancellationToken::new();
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok(piece), receiver))
    });
    (Pipe { handle: Handle::current(), sender, is_over: is_over.clone() }, pieces, is_over)
}

/// Hands bytes to Docker, until that has said what came of them.
pub(super) struct Pipe {
    handle: Handle,
    sender: mpsc::Sender<Bytes>,
    is_over: CancellationToken,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let is_taken = self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.is_over.cancelled() => false,
                sent = self.sender.send(piece) => sent.is_ok(),
            }
        });
        if is_taken { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn of_docker(error: DockerError) -> Unfilled {
    let text = error.to_string();
    if text.contains("no space left on device") || text.contains("disk quota exceeded") {
        return Unfilled::Full(text);
    }
    Unfilled::Failed(error.into_failure("putting an input into a volume"))
}
