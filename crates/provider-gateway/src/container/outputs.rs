//! What a container has left, read through Docker's archives: streamed, and nothing of it is copied to the agent's disk.

use super::{
    ContainerExecutor,
    adopt::{self, Found as Container},
    create::name,
    docker::{DockerError, Engine, QUICK},
    raw::{self, Arriving},
};
use crate::{
    artifacts::{
        outputs::{Found, Left, Unread},
        selection::{Seen, Selection, list, show},
    },
    executor::{Failure, Job},
};
use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;
use bytes::{Buf, Bytes};
use domain::{
    artifact::ArtifactKind,
    outcome::FailureKind,
    spec::{Matcher, Output},
};
use futures::StreamExt;
use hyper::Method;
use std::{
    collections::BTreeSet,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tar::EntryType;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use transfer::{Source, TransferError};

/// Docker says nothing for so long in the middle of an archive.
const STALLED: Duration = Duration::from_secs(120);
/// Of an archive that is read only to see what is in it.
const GLANCE_BYTES: u64 = 4 << 20;
const GLANCE_NAMES: usize = 10;
/// tar copies in small pieces.
const BUFFER: usize = 256 << 10;

/// As Go tells it.
pub(super) mod mode {
    pub(in super::super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const LINK: u32 = 1 << 27;
    /// Devices, pipes, sockets, and what has no name.
    pub(super) const OTHERS: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;
}

pub(super) struct Stat {
    /// After links.
    pub(super) path: String,
    pub(super) mode: u32,
    size: u64,
}

impl ContainerExecutor {
    pub(super) async fn find_output(&self, job: &Job, output: &Output) -> Result<Left, Unread> {
        let failed = |why: String| Unread::Failed(Failure::new(FailureKind::OutputFailed, why));
        let (root, pattern) = output.pattern();
        let Some(stat) = self.stat(job, root).await? else {
            return Ok(Left::Nothing { instead: self.instead(job, root).await? });
        };
        let file_name = root.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&output.name).to_owned();
        let archive = self.archive(job, Seen::default(), CancellationToken::new());
        let (seen, what, path) = (archive.seen.clone(), output.path.clone(), stat.path);
        let unreadable = move |source| TransferError::Unreadable { what, source };
        if stat.mode & mode::DIRECTORY != 0 {
            let matcher = pattern.map(Matcher::new).transpose().map_err(failed)?;
            let prefix = format!("{}/", root.trim_end_matches('/'));
            let below = job.spec.inputs.iter().filter_map(|input| input.path.strip_prefix(&prefix));
            let without = below.map(|name| name.as_bytes().to_vec()).collect();
            let source =
                Source::Written(Box::new(move |out| archive.pack(&path, out, matcher, without).map_err(unreadable)));
            return Ok(Left::Found(Found { kind: ArtifactKind::Directory, size: None, file_name, source, seen }));
        }
        if pattern.is_some() {
            return Ok(Left::Nothing { instead: format!("{root} is no directory") });
        }
        if stat.mode & (mode::OTHERS | mode::LINK) != 0 {
            let (path, name) = (&output.path, &output.name);
            return Err(failed(format!("the output {path} ({name}) is neither a file nor a directory")));
        }
        let size = stat.size;
        let source = Source::Written(Box::new(move |out| archive.copy_file(&path, size, out).map_err(unreadable)));
        Ok(Left::Found(Found { kind: ArtifactKind::File, size: Some(size), file_name, source, seen }))
    }

    /// For a thread where it may block.
    pub(super) fn archive(&self, job: &Job, seen: Seen, is_over: CancellationToken) -> Archive {
        let socket = self.engine.socket().to_owned();
        Archive { socket, container: name(job), handle: Handle::current(), seen, is_over }
    }

    /// What lies at a path, after links: Docker follows them within the container.
    pub(super) async fn stat(&self, job: &Job, path: &str) -> Result<Option<Stat>, Unread> {
        let mut path = path.to_owned();
        // Docker names the end of a chain of links at once.
        for _ in 0..3 {
            let (container, options) = (name(job), ContainerArchiveInfoOptionsBuilder::default().path(&path).build());
            let asked = self.engine.call(QUICK, |docker| async move {
                docker.get_container_archive_info(&container, Some(options)).await
            });
            let stat = match asked.await {
                Ok(stat) => stat,
                Err(error) if error.is_missing() => {
                    self.must_be_there(job).await?;
                    return Ok(None);
                }
                Err(error) => return Err(unread(error)),
            };
            if stat.file_mode & mode::LINK == 0 || stat.link_target.is_empty() || stat.link_target == path {
                let size = u64::try_from(stat.size).unwrap_or_default();
                return Ok(Some(Stat { path, mode: stat.file_mode, size }));
            }
            path = stat.link_target;
        }
        Ok(None)
    }

    async fn must_be_there(&self, job: &Job) -> Result<(), Unread> {
        match adopt::look(&self.engine, job).await {
            Ok(Container::Ours(_)) => Ok(()),
            Ok(Container::Foreign | Container::Missing) => {
                Err(Failure::node("The container was removed by somebody else before its outputs were stored.").into())
            }
            Err(error) => Err(unread(error)),
        }
    }

    /// What is in the nearest directory that exists.
    async fn instead(&self, job: &Job, path: &str) -> Result<String, Unread> {
        for level in Path::new(path).ancestors().skip(1) {
            let level = level.display().to_string();
            let Some(stat) = self.stat(job, &level).await?.filter(|stat| stat.mode & mode::DIRECTORY != 0) else {
                continue;
            };
            let archive = self.archive(job, Seen::default(), CancellationToken::new());
            let names = tokio::task::spawn_blocking(move || archive.glance(&stat.path).unwrap_or_default()).await;
            return Ok(format!("in {level} {}", list(&names.unwrap_or_default())));
        }
        Ok("the container has no such directory".to_owned())
    }
}

pub(super) fn unread(error: DockerError) -> Unread {
    if error.is_away() { Unread::Away(error.to_string()) } else { error.into_failure("reading outputs").into() }
}

/// Reads one container's files, from a thread where it may block.
pub(super) struct Archive {
    socket: PathBuf,
    container: String,
    handle: Handle,
    pub(super) seen: Seen,
    /// Once it is cancelled, nothing more is read.
    is_over: CancellationToken,
}

impl Archive {
    /// What Docker answers, unless it says nothing for long or nothing more is wanted.
    fn wait_for<T>(&self, answer: impl Future<Output = Result<T, DockerError>>) -> io::Result<T> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.is_over.cancelled() => Err(io::Error::other("nothing more of it is read")),
                answer = tokio::time::timeout(STALLED, answer) => {
                    answer.unwrap_or(Err(DockerError::Late(STALLED))).map_err(|error| self.broken(&error))
                }
            }
        })
    }

    fn open(&self, path: &str) -> io::Result<tar::Archive<Pieces<'_>>> {
        let engine = Engine::new(self.socket.clone());
        let path = format!("/containers/{}/archive?path={}", self.container, raw::escape(path));
        let arriving = self.wait_for(raw::send(&engine, Method::GET, &path, futures::stream::empty().boxed()))?;
        Ok(tar::Archive::new(Pieces { archive: self, arriving, current: Bytes::new() }))
    }

    fn broken(&self, error: &DockerError) -> io::Error {
        if error.is_away() {
            self.seen.met().away = Some(error.to_string());
        }
        io::Error::other(error.to_string())
    }

    fn copy_file(&self, path: &str, size: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut archive = self.open(path)?;
        let mut entry = first_file(&mut archive)?;
        let copied = io::copy(&mut BufReader::with_capacity(BUFFER, &mut entry), out)?;
        if copied == size { Ok(()) } else { Err(io::Error::other("it changed while it was read")) }
    }

    /// Every entry of a directory: its name below that, and what stands before it in the archive. The directory itself comes first, without a name.
    pub(super) fn each(&self, root: &str, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut archive = self.open(root)?;
        // All names begin with that of the first entry.
        let mut prefix: Option<Vec<u8>> = None;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let full = entry.path_bytes().into_owned();
            match &prefix {
                None => {
                    let mut own = full;
                    if own.last() != Some(&b'/') {
                        own.push(b'/');
                    }
                    visit(b"", &own, &mut entry)?;
                    prefix = Some(own);
                }
                Some(prefix) => {
                    if let Some(name) = below(&full, prefix) {
                        visit(name, prefix, &mut entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pack(&self, root: &str, out: &mut dyn Write, matcher: Option<Matcher>, without: Vec<Vec<u8>>) -> io::Result<()> {
        let mut selection = Selection::new(out, matcher, without, self.seen.clone())?;
        self.each(root, &mut |name, prefix, entry| self.add(&mut selection, root, name, prefix, entry))?;
        selection.finish()
    }

    /// One entry of a directory, if it is wanted.
    pub(super) fn add(
        &self,
        selection: &mut Selection<&mut dyn Write>,
        root: &str,
        name: &[u8],
        prefix: &[u8],
        entry: &mut tar::Entry<'_, Pieces<'_>>,
    ) -> io::Result<()> {
        if name.is_empty() || !selection.wants(name) {
            return Ok(());
        }
        match entry.header().entry_type() {
            EntryType::Directory => selection.directory(name)?,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                selection.link(name, &target)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let (size, is_executable) = (entry.size(), entry.header().mode()? & 0o100 != 0);
                selection.file(name, size, is_executable, buffered(entry, size))?;
            }
            // Another name of a file that came before, which may not have been wanted: asked for by itself.
            EntryType::Link => {
                let target = entry.link_name_bytes().and_then(|target| below(&target, prefix).map(<[u8]>::to_vec));
                let target =
                    target.ok_or_else(|| io::Error::other("Docker's archive names no file for a hard link"))?;
                let path = format!("{}/{}", root.trim_end_matches('/'), String::from_utf8_lossy(&target));
                let mut other = self.open(&path)?;
                let mut file = first_file(&mut other)?;
                let (size, is_executable) = (file.size(), file.header().mode()? & 0o100 != 0);
                selection.file(name, size, is_executable, buffered(&mut file, size))?;
            }
            EntryType::Fifo => selection.seen.leave_out(name, "it is a named pipe"),
            EntryType::Char | EntryType::Block => selection.seen.leave_out(name, "it is a device"),
            _ => {}
        }
        Ok(())
    }

    /// The first names in a directory.
    fn glance(&self, path: &str) -> io::Result<Vec<String>> {
        let inner = self.open(path)?.into_inner().take(GLANCE_BYTES);
        let mut archive = tar::Archive::new(inner);
        let mut names = BTreeSet::new();
        for entry in archive.entries()?.skip(1) {
            let Ok(entry) = entry else { break };
            let name = entry.path_bytes();
            let below = name.strip_prefix(b"/").unwrap_or(&name);
            // The directory's own name stands before, but for the topmost.
            let mut parts = below.split(|byte| *byte == b'/');
            let first = if path == "/" { parts.next() } else { parts.nth(1) };
            names.extend(first.filter(|part| !part.is_empty()).map(show));
            if names.len() >= GLANCE_NAMES {
                break;
            }
        }
        Ok(names.into_iter().collect())
    }
}

pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8], &mut tar::Entry<'_, Pieces<'_>>) -> io::Result<()> + 'a;

fn below<'a>(name: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let below = name.strip_prefix(prefix).map(|name| name.strip_suffix(b"/").unwrap_or(name));
    below.filter(|name| !name.is_empty())
}

fn buffered<R: Read>(content: R, size: u64) -> impl Read {
    BufReader::with_capacity(usize::try_from(size).unwrap_or(BUFFER).clamp(512, BUFFER), content)
}

fn first_file<'a, 'b>(archive: &'a mut tar::Archive<Pieces<'b>>) -> io::Result<tar::Entry<'a, Pieces<'b>>> {
    let entry = archive.entries()?.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::Regular | EntryType::Continuous) {
        Ok(entry)
    } else {
        Err(io::Error::other("it is no file any more"))
    }
}

/// What Docker sends, as it comes.
pub(super) struct Pieces<'a> {
    archive: &'a Archive,
    arriving: Arriving,
    current: Bytes,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let archive = self.archive;
        while self.current.is_empty() {
            let next = async {
                let engine = Engine::new(archive.socket.clone());
                self.arriving.piece().await.map_err(|error| engine.away(&error))
            };
            match archive.wait_for(next)? {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.current.len());
        self.current.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}
