//! What tasks read and what they leave: artifacts on their way between this node and the object store.
//!
//! Owns: how an input gets here once and is kept for the next task, how an output or a checkpoint is stored, and what is said of it in the log.
//! Must not know: what a container or a process is. Each executor says where contents lie (`inputs::Place`), what an ended attempt
//! has left ([`outputs::Left`]), and packs what is in a directory ([`checkpoints::Taken`]). Begin at [`outputs::store`], `inputs.rs` and
//! `checkpoints.rs`.

pub mod checkpoints;
pub mod inputs;
pub mod outputs;
mod platform;
pub(crate) mod selection;
mod shelf;
mod telling;

pub use inputs::Inputs;
pub use platform::Platform;
pub use shelf::Shelf;

use crate::disk::Watermarks;
use api_types::artifact::{
    Artifact, CompleteArtifact, CreateOutput, Download, PartAddress, PartsRequest, SignedRequest, Upload,
};
use domain::ids::{ArtifactId, Held};
use futures::{FutureExt, future::BoxFuture};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use transfer::{AddressError, Options, Store, TransferError};

/// Transfers at one time: each holds up to 64 MiB in memory, and more of them are not faster.
const AT_ONCE: usize = 4;

/// Who is told that it holds its task no more is about to be stopped. It asks again after so long, since a database that is restored may have
/// forgotten the loss.
pub(crate) const FENCED_PAUSE: Duration = Duration::from_secs(60);
/// What is packed waits so long for a store that takes nothing.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Gives addresses in the object store for the inputs, outputs and checkpoints of attempts that this node holds. `index`: in the task's list. Each
/// question is asked once, and all are safe to repeat.
pub trait Addresses: Send + Sync {
    /// Where the bytes of an input are.
    fn input(&self, held: Held, index: usize) -> BoxFuture<'_, Result<SignedRequest, AddressError>>;
    /// Announces an output. Again: the upload of before, however far it is; it may be ready.
    fn begin_output(
        &self,
        held: Held,
        index: usize,
        output: CreateOutput,
    ) -> BoxFuture<'_, Result<Upload, AddressError>>;
    /// Tells which parts are stored, and where others go.
    fn output_parts(
        &self,
        held: Held,
        index: usize,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>>;
    /// All parts are stored: it becomes ready.
    fn complete_output(
        &self,
        held: Held,
        index: usize,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>>;
    /// The checkpoints of its task with where their bytes are, the newest first.
    fn checkpoints(&self, held: Held) -> BoxFuture<'_, Result<Vec<Download>, AddressError>>;
    /// Announces a checkpoint. One that it was still uploading is given up.
    fn begin_checkpoint(&self, held: Held, checkpoint: CreateOutput) -> BoxFuture<'_, Result<Upload, AddressError>>;
    fn checkpoint_parts(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>>;
    /// All parts are stored: it is the newest of its task.
    fn complete_checkpoint(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>>;
}

/// A refusal after which something else is to be done than to tell of it: the source of an [`AddressError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this attempt does not hold its task any more")]
    Fenced,
    #[error("the platform has its end already")]
    Ended,
    /// The upload was given up, or has other content, or lacks parts that were stored.
    #[error("the upload is to be begun anew")]
    BeginAnew,
    #[error("the platform has no object store")]
    NoStore,
}

/// What the platform refused a transfer for.
pub(crate) fn refusal(error: &TransferError) -> Option<Refusal> {
    let TransferError::NoAddress(error) = error else { return None };
    error.source.as_ref()?.downcast_ref::<Refusal>().copied()
}

/// How this node moves artifacts. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts {
    pub addresses: Arc<dyn Addresses>,
    pub store: Store,
    pub options: Options,
    /// A checkpoint is no reason to fill this node's disk beyond these.
    pub marks: Watermarks,
    /// What is packed of a checkpoint is given up when nothing gets through to the store for so long.
    pub checkpoint_patience: Duration,
    slots: Arc<Semaphore>,
}

impl Artifacts {
    pub fn new(addresses: Arc<dyn Addresses>) -> Self {
        let mut options = Options::default();
        // A store that is away comes back. What an attempt has left is worth more than its place here.
        options.pauses.give_up_after = Duration::from_secs(100 * 365 * 24 * 3_600);
        options.waits_for_trust = true;
        Self {
            addresses,
            store: Store::new(),
            options,
            marks: Watermarks::default(),
            checkpoint_patience: CHECKPOINT_PATIENCE,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Of an agent that has no platform: every address is refused.
    pub fn none() -> Self {
        Self::new(Arc::new(Nobody))
    }

    /// A turn among the transfers of this node.
    pub(crate) async fn slot(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.ok()
    }
}

struct Nobody;

impl Nobody {
    fn refuse<T: Send + 'static>() -> BoxFuture<'static, Result<T, AddressError>> {
        let why = "this agent has no platform to ask".to_owned();
        async { Err(AddressError { why, is_passing: false, retry_after: None, source: None }) }.boxed()
    }
}

impl Addresses for Nobody {
    fn input(&self, _: Held, _: usize) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        Self::refuse()
    }
    fn begin_output(&self, _: Held, _: usize, _: CreateOutput) -> BoxFuture<'_, Result<Upload, AddressError>> {
        Self::refuse()
    }
    fn output_parts(
        &self,
        _: Held,
        _: usize,
        _: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        Self::refuse()
    }
    fn complete_output(&self, _: Held, _: usize, _: CompleteArtifact) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        Self::refuse()
    }
    fn checkpoints(&self, _: Held) -> BoxFuture<'_, Result<Vec<Download>, AddressError>> {
        Self::refuse()
    }
    fn begin_checkpoint(&self, _: Held, _: CreateOutput) -> BoxFuture<'_, Result<Upload, AddressError>> {
        Self::refuse()
    }
    fn checkpoint_parts(
        &self,
        _: Held,
        _: ArtifactId,
        _: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        Self::refuse()
    }
    fn complete_checkpoint(
        &self,
        _: Held,
        _: ArtifactId,
        _: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        Self::refuse()
    }
}
