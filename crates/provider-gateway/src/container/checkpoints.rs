//! Checkpoints of containers: read through Docker's archives while the container runs, twice where it takes the second look to know that the first one
//! was of one moment; put in through the same door before it starts.

use super::{
    ContainerExecutor, WORKSPACE,
    inputs::pipe,
    outputs::{Archive, Pieces, mode},
};
use crate::{
    artifacts::{
        checkpoints::{
            Look, Looking, STILL_FOR, Taken, Wanted,
            beginning::{Arriving, Landing},
        },
        inputs::Unfilled,
        outputs::Unread,
        selection::Selection,
    },
    executor::{Failure, Job},
};
use bytes::Bytes;
use domain::{ids::AttemptId, spec::Checkpoints};
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, ErrorKind, Write},
    path::PathBuf,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};
use tar::EntryType;
use tokio_util::sync::CancellationToken;
use transfer::{Limits, Rights, TransferError, UnpackError, relay, to_file};

/// Seconds since 1970, by the clock that containers have.
fn now() -> u64 {
    chrono::Utc::now().timestamp().try_into().unwrap_or_default()
}

/// A renewal of a lease that waits for longer is given up.
const LONGEST_OF_EXCLUSIVE: Duration = Duration::from_secs(15);
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

impl ContainerExecutor {
    fn readings(&self) -> MutexGuard<'_, HashMap<AttemptId, CancellationToken>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done with the container comes before its checkpoint.
    pub(super) fn stop_reading(&self, attempt: AttemptId) {
        if let Some(is_over) = self.readings().remove(&attempt) {
            is_over.cancel();
        }
    }

    pub(super) async fn take_checkpoint(&self, job: &Job, wanted: Wanted) -> Result<Taken, Unread> {
        let Some(checkpoints) = &job.spec.checkpoints else { return Ok(Taken::Nothing) };
        let Some(stat) = self.stat(job, &checkpoints.path).await? else { return Ok(Taken::Nothing) };
        if stat.mode & mode::DIRECTORY == 0 {
            return Ok(Taken::NoDirectory);
        }
        let seen = wanted.packing.seen.clone();
        let is_over = wanted.packing.is_dropped().child_token();
        let archive = self.archive(job, seen.clone(), is_over.clone());
        let reading = tokio::task::spawn_blocking(move || read(&archive, &stat.path, wanted));
        // Docker does nothing else with a container while it gives out its files: a signal has to wait, and so has a renewed lease.
        self.readings().insert(job.held.attempt, is_over.clone());
        let limit =
            job.lease.as_ref().map(|lease| Duration::from_millis(lease.terms.period_ms / 3).min(LONGEST_OF_EXCLUSIVE));
        let read = tokio::time::timeout(limit.unwrap_or(FOR_EVER), reading).await;
        self.readings().remove(&job.held.attempt);
        let Ok(read) = read else {
            is_over.cancel();
            let why = "an exclusive task has to hear of its lease all the time, and reading the directory takes too long for that";
            return Err(Failure::node(why).into());
        };
        match read.map_err(|error| Failure::node(format!("A step of the agent broke off: {error}.")))? {
            Ok(taken) => Ok(taken),
            Err(error) => match seen.met().away.take() {
                Some(why) => Err(Unread::Away(why)),
                None => Err(Failure::node(error.to_string()).into()),
            },
        }
    }

    /// Puts what has landed into a container that was just made, or makes the empty directory: its user's own.
    pub(super) async fn place_checkpoint(
        &self,
        job: &Job,
        (uid, gid): (u32, u32),
        landing: &Fetched,
        has_landed: bool,
    ) -> Result<(), Failure> {
        let Some(checkpoints) = &job.spec.checkpoints else { return Ok(()) };
        let directory = directory(checkpoints, uid, gid)
            .map_err(|error| Failure::node(format!("A tar could not be made: {error}.")))?;
        self.upload(job, "/", futures::stream::iter([Ok(directory)])).await?;
        if !has_landed {
            return Ok(());
        }
        let rights = Rights { owner: (uid, gid), is_writable: true, mtime: now() };
        let (pipe, pieces, is_over) = pipe();
        let packed = landing.0.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let out = BufWriter::with_capacity(64 << 10, pipe);
            let file = File::open(packed).map_err(|error| error.to_string())?;
            relay(BufReader::new(file), &Limits::default(), &rights, out).map_err(|error| error.to_string())
        });
        let put = async {
            let put = self.upload(job, &checkpoints.path, pieces).await;
            is_over.cancel();
            put
        };
        let (unpacked, put) = tokio::join!(unpacking, put);
        put?;
        let unpacked = unpacked.unwrap_or_else(|error| Err(error.to_string()));
        unpacked.map_err(|why| Failure::node(format!("The checkpoint could not be put into the container: {why}.")))?;
        let _ = fs::remove_file(&landing.0);
        Ok(())
    }
}

/// The directory, and in the workspace those on the way to it, as a tar for `/`. What is on the way elsewhere is the image's, and stays as it is.
fn directory(checkpoints: &Checkpoints, uid: u32, gid: u32) -> io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    let path = checkpoints.path.trim_start_matches('/');
    let workspace = format!("{}/", WORKSPACE.trim_start_matches('/'));
    let levels = path.match_indices('/').map(|(at, _)| &path[..at]).filter(|level| level.starts_with(&workspace));
    for level in levels.chain([path]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(0);
        tar.append_data(&mut header, format!("{level}/"), io::empty())?;
    }
    Ok(tar.into_inner()?.into())
}

/// Something changed a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("it is being written to")]
struct TooNew;

fn read(archive: &Archive, path: &str, wanted: Wanted) -> io::Result<Taken> {
    if wanted.stored.as_ref().is_some_and(|stored| looks_as(archive, path, stored)) {
        return Ok(Taken::Unchanged);
    }
    let mut packing = wanted.packing;
    // Docker leaves out the fractions: what is changed from now on has a later time than all that this lets pass.
    let newest = if wanted.is_last { u64::MAX } else { now().saturating_sub(STILL_FOR.as_secs()) };
    let mut looking = Looking::default();
    let mut selection = Selection::new(&mut packing as &mut dyn Write, None, Vec::new(), archive.seen.clone())?;
    let read = archive.each(path, &mut |name, prefix, entry| {
        if entry.header().mtime()? > newest {
            return Err(io::Error::other(TooNew));
        }
        look_at(&mut looking, name, entry)?;
        archive.add(&mut selection, path, name, prefix, entry)
    });
    match read.and_then(|()| selection.finish()) {
        Ok(()) => {}
        // Docker breaks off, in one way or another, where a file becomes shorter or goes away under its hands.
        Err(error)
            if !wanted.is_last && error.kind() != ErrorKind::StorageFull && archive.seen.met().away.is_none() =>
        {
            return Ok(Taken::Unstill);
        }
        Err(error) => return Err(error),
    }
    let look = looking.finish();
    if look.is_of_nothing() {
        return Ok(Taken::Nothing);
    }
    if !wanted.is_last && look_again(archive, path)? != look {
        return Ok(Taken::Unstill);
    }
    Ok(Taken::Packed(packing.finish(), look))
}

/// Ends at the first entry that is newer than all were: most often that is the directory itself, where something new has got its name.
fn looks_as(archive: &Archive, path: &str, stored: &Look) -> bool {
    let mut looking = Looking::default();
    let looked = archive.each(path, &mut |name, _, entry| match entry.header().mtime()? {
        mtime if mtime > stored.newest => Err(io::Error::other(TooNew)),
        _ => look_at(&mut looking, name, entry),
    });
    looked.is_ok() && looking.finish() == *stored
}

fn look_again(archive: &Archive, path: &str) -> io::Result<Look> {
    let mut looking = Looking::default();
    archive.each(path, &mut |name, _, entry| look_at(&mut looking, name, entry))?;
    Ok(looking.finish())
}

fn look_at(looking: &mut Looking, name: &[u8], entry: &tar::Entry<'_, Pieces<'_>>) -> io::Result<()> {
    let header = entry.header();
    let mut called = name.to_vec();
    if let Some(target) = entry.link_name_bytes() {
        called.push(0);
        called.extend_from_slice(&target);
    }
    let (kind, mtime) = (header.entry_type().as_byte().into(), header.mtime()?);
    looking.newest = looking.newest.max(mtime);
    looking.add(&called, &[kind, entry.size(), header.mode()?.into(), mtime, header.uid()?, header.gid()?]);
    Ok(())
}

/// The file of this node that a checkpoint lies in until there is a container for it: whole, and looked through.
pub(super) struct Fetched(PathBuf);

impl Fetched {
    pub(super) fn of(job: &Job) -> Self {
        Self(job.dir.join("checkpoint.fetched"))
    }
}

impl Landing for Fetched {
    fn land<'a>(&'a self, arriving: Arriving<'a>) -> BoxFuture<'a, Result<(), Unfilled>> {
        async move {
            let Arriving { content, artifacts, addresses, observer } = arriving;
            let (store, options) = (&artifacts.store, &artifacts.options);
            to_file(store, content, &self.0, &addresses, options, &*observer).await?;
            let path = self.0.clone();
            // Nothing of one that is refused is put into the container: no other could take its place there.
            let checking = tokio::task::spawn_blocking(move || {
                let unreadable = |error| UnpackError::Garbled(format!("{error}"));
                let file = BufReader::new(File::open(&path).map_err(|error: io::Error| unreadable(error))?);
                relay(file, &Limits::default(), &Rights::READ_ONLY, io::sink())
                    .inspect_err(|_| drop(fs::remove_file(&path)))
            });
            let checked = checking.await;
            let checked = checked.map_err(|error| Failure::node(format!("A step of the agent broke off: {error}.")))?;
            checked.map(drop).map_err(|error| Unfilled::from(TransferError::Unpack(error)))
        }
        .boxed()
    }
}
