//! An input gets here once, whole and verified, and stays for the tasks that come after: by content, whatever it is called.

use super::{Addresses, Artifacts, FENCED_PAUSE, Refusal, Shelf, refusal, telling::tell_while};
use crate::{
    disk::{Watermarks, used_percent},
    executor::{Failure, Job},
};
use api_types::artifact::SignedRequest;
use domain::{
    artifact::ArtifactKind,
    ids::{AttemptId, Held},
    outcome::FailureKind,
    quantity::show_bytes,
    spec::{Input, PinnedArtifact, TaskSpec},
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::json;
use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use transfer::{AddressError, Content, Downloads, Observer, TransferError, UnpackError};

/// Somebody who was stopped a moment ago still writes to the same place.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
const BUSY_FOR: Duration = Duration::from_secs(60);

/// How an executor gets its inputs. Cheap to clone.
#[derive(Clone)]
pub struct Inputs {
    pub artifacts: Artifacts,
    pub shelf: Arc<Shelf>,
}

impl Inputs {
    /// What the task reads is wanted until [`Inputs::release`]: said of everything that an agent knows before anything is evicted.
    pub(crate) fn hold(&self, attempt: AttemptId, spec: &TaskSpec) {
        for pinned in spec.inputs.iter().filter_map(|input| input.pinned.as_ref()) {
            self.shelf.hold(attempt, &key(pinned));
        }
    }
    pub(crate) fn release(&self, attempt: AttemptId) {
        self.shelf.release(attempt);
    }
}

/// By content and kind: the bytes of a file may be an archive that is another's directory.
pub(crate) fn key(pinned: &PinnedArtifact) -> String {
    format!("{}-{}", pinned.kind.as_str(), pinned.sha256.to_string().trim_start_matches("sha256:"))
}

/// Where contents lie. All of it is done by one at a time for each key.
pub(crate) trait Place: Send + Sync {
    /// Whether a content that is known as whole is there: somebody may have removed it by hand.
    fn has<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, Failure>>;
    /// Fetches it, in place of what may be left of an earlier try, and returns once it is on disk: how many bytes it takes there.
    fn fill<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<u64, Unfilled>>;
    /// Deletes it. Fine when it is not there.
    fn remove<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
}

/// One content that is to be fetched.
pub(crate) struct Wanted<'a> {
    pub(crate) key: &'a str,
    pub(crate) pinned: &'a PinnedArtifact,
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) addresses: Address<'a>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Wanted<'_> {
    pub(crate) fn content(&self) -> Content {
        Content { size: self.pinned.size, sha256: self.pinned.sha256 }
    }
}

/// Addresses of one input.
pub(crate) struct Address<'a> {
    addresses: &'a dyn Addresses,
    held: Held,
    index: usize,
}

impl Downloads for Address<'_> {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        self.addresses.input(self.held, self.index).boxed()
    }
}

#[derive(Debug)]
pub(crate) enum Unfilled {
    /// There is no room, in words with sizes.
    Full(String),
    Transfer(TransferError),
    Failed(Failure),
}

impl From<Failure> for Unfilled {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<TransferError> for Unfilled {
    fn from(error: TransferError) -> Self {
        let is_full =
            |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match &error {
            // The only limit that is set is what is free.
            TransferError::NoRoom { .. } | TransferError::Unpack(UnpackError::TooLarge { .. }) => {
                Self::Full(error.to_string())
            }
            TransferError::Unwritable { source, .. }
            | TransferError::Unpack(UnpackError::Unwritable { source, .. })
                if is_full(source) =>
            {
                Self::Full(error.to_string())
            }
            _ => Self::Transfer(error),
        }
    }
}

/// What is known of an input that is here.
pub(crate) struct Brought {
    pub(crate) key: String,
    pub(crate) kind: ArtifactKind,
    /// Where the task finds it.
    pub(crate) path: String,
    pub(crate) provenance: serde_json::Value,
}

/// All inputs of an attempt, at the same time. The first failure ends the others.
pub(crate) async fn bring_all(place: &dyn Place, inputs: Option<&Inputs>, job: &Job) -> Result<Vec<Brought>, Failure> {
    if job.spec.inputs.is_empty() {
        return Ok(Vec::new());
    }
    let refused = || Failure::new(FailureKind::Rejected, "this agent brings no inputs");
    let inputs = inputs.ok_or_else(refused)?;
    inputs.hold(job.held.attempt, &job.spec);
    let all = job.spec.inputs.iter().enumerate();
    futures::future::try_join_all(all.map(|(index, input)| bring(place, inputs, job, index, input))).await
}

/// Returns once it is here: whole, compared with its digest and on disk. Trouble is told and waited for.
///
/// Errors: `input_unavailable` for what is gone, damaged, no archive or too large for this node. Does not return while the attempt
/// holds its task no more.
async fn bring(place: &dyn Place, inputs: &Inputs, job: &Job, index: usize, input: &Input) -> Result<Brought, Failure> {
    let pinned = input.pinned.as_ref().ok_or_else(|| {
        Failure::new(FailureKind::Rejected, format!("the platform did not say which version {} is", input.artifact))
    })?;
    let (began, key, name) = (Instant::now(), key(pinned), format!("{}@{}", pinned.name, pinned.version));
    let flight = inputs.shelf.flight(&key);
    let _turn = match flight.try_lock() {
        Ok(turn) => turn,
        Err(_) => {
            job.log.note(&format!("waiting for {name}, which another task is fetching")).await;
            flight.lock().await
        }
    };
    let is_cached = inputs.shelf.knows(&key) && place.has(&key).await?;
    if is_cached {
        inputs.shelf.touch(&key);
        job.log.note(&format!("{name} is here already")).await;
    } else {
        inputs.shelf.forget(&key);
        job.log.note(&format!("fetching {name} {}", show_bytes(pinned.size))).await;
        let bytes = fetch(place, inputs, job, index, pinned, &key, &name).await?;
        let (shelf, kept, called) = (inputs.shelf.clone(), key.clone(), name.clone());
        let added = tokio::task::spawn_blocking(move || shelf.add(&kept, &called, bytes)).await;
        added
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| Failure::node(format!("The record of inputs can't be written: {error}.")))?;
        job.log.note(&format!("{name} is here")).await;
        // Unpacked it may be larger than was known.
        make_room(place, &inputs.shelf, 0).await;
    }
    let provenance = json!({
        "artifact": name,
        "id": pinned.id,
        "sha256": pinned.sha256,
        "bytes": pinned.size,
        "bytes_fetched": if is_cached { 0 } else { pinned.size },
        "cached": is_cached,
        "ms": began.elapsed().as_millis() as u64,
        "path": input.path,
    });
    Ok(Brought { key, kind: pinned.kind, path: input.path.clone(), provenance })
}

async fn fetch(
    place: &dyn Place,
    inputs: &Inputs,
    job: &Job,
    index: usize,
    pinned: &PinnedArtifact,
    key: &str,
    name: &str,
) -> Result<u64, Failure> {
    let unavailable = |why: String| Failure::new(FailureKind::InputUnavailable, why);
    let artifacts = &inputs.artifacts;
    make_room(place, &inputs.shelf, pinned.size).await;
    let began = Instant::now();
    loop {
        let addresses = Address { addresses: &*artifacts.addresses, held: job.held, index };
        let slot = artifacts.slot().await;
        let filled = tell_while(&job.log, name, Some(pinned.size), |observer| {
            place.fill(Wanted { key, pinned, artifacts, addresses, observer })
        })
        .await;
        drop(slot);
        match filled {
            Ok(bytes) => return Ok(bytes),
            Err(Unfilled::Full(why)) => {
                let mut freed = 0;
                // An archive takes more when it is unpacked.
                while freed < pinned.size.saturating_mul(2) {
                    let Some(bytes) = evict(place, &inputs.shelf, Duration::ZERO).await else { break };
                    freed += bytes;
                }
                if freed == 0 {
                    let (size, kept) = (show_bytes(pinned.size), show_bytes(inputs.shelf.used_bytes()));
                    return Err(unavailable(format!(
                        "disk full: {name} ({size}) does not fit on this node: {why}. Inputs that tasks here use take {kept}; the others were removed."
                    )));
                }
                job.log
                    .note(&format!("{name}: {} of unused inputs were removed to make room", show_bytes(freed)))
                    .await;
            }
            Err(Unfilled::Failed(failure)) => return Err(failure),
            Err(Unfilled::Transfer(error)) => match &error {
                _ if refusal(&error) == Some(Refusal::Fenced) => tokio::time::sleep(FENCED_PAUSE).await,
                TransferError::Busy { .. } if began.elapsed() < BUSY_FOR => tokio::time::sleep(BUSY_PAUSE).await,
                TransferError::NoAddress(_)
                | TransferError::StoreRefuses { .. }
                | TransferError::WrongDigest { .. }
                | TransferError::WrongSize { .. }
                | TransferError::Unpack(_) => return Err(unavailable(format!("{name} can't be fetched: {error}."))),
                _ => return Err(Failure::node(format!("{name} can't be fetched: {error}."))),
            },
        }
    }
}

/// Removes what nobody wants, the longest unused first, until so many bytes more are within the limit.
async fn make_room(place: &dyn Place, shelf: &Shelf, more_bytes: u64) {
    while shelf.is_over(more_bytes) {
        if evict(place, shelf, Duration::ZERO).await.is_none() {
            return;
        }
    }
}

/// Makes room on a disk that fills up, whoever fills it: how many bytes went.
pub(crate) async fn relieve(place: &dyn Place, shelf: &Shelf, disk: &Path, marks: &Watermarks) -> u64 {
    let mut freed = 0;
    let Some(used) = used_percent(disk).filter(|used| marks.is_high(*used)) else { return freed };
    // A full disk refuses all work, which is worse than to fetch something again.
    let spared = if marks.is_full(used) { Duration::ZERO } else { Duration::from_secs(marks.recent_s.into()) };
    while used_percent(disk).is_some_and(|used| !marks.is_low(used)) {
        let Some(bytes) = evict(place, shelf, spared).await else { break };
        freed += bytes;
    }
    freed
}

/// Removes what was not used for longest: how many bytes that were. None: nothing can go.
async fn evict(place: &dyn Place, shelf: &Shelf, unless_used_within: Duration) -> Option<u64> {
    let (key, content) = shelf.take_idle(unless_used_within)?;
    let flight = shelf.flight(&key);
    let _turn = flight.lock().await;
    // It was fetched anew since it was taken off.
    if !shelf.knows(&key)
        && let Err(failure) = place.remove(&key).await
    {
        // It is whole no more; the agent that comes next removes it.
        tracing::warn!(input = content.name, error = failure.message, "an unused input could not be removed");
        return Some(0);
    }
    tracing::info!(input = content.name, bytes = content.bytes, "an unused input was removed");
    Some(content.bytes)
}
