//! What an ended attempt has left is stored: one output after the other, each until it is ready.

use super::{Addresses, Artifacts, FENCED_PAUSE, Refusal, refusal, selection::Seen, telling::tell_while};
use crate::executor::{Executor, Failure, Job};
use api_types::artifact::{Artifact, CompleteArtifact, CreateOutput, PartAddress, PartsRequest};
use domain::{
    artifact::{ArtifactKind, ArtifactState},
    ids::Held,
    outcome::{ExitFacts, FailureKind},
    quantity::{show_bytes, show_duration_ms},
    spec::Output,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use transfer::{AddressError, Observer, PartSizes, Source, TransferError, Uploads, patiently, upload};

/// Uploads that are begun anew because the one of before was given up, or the store has lost a part of it.
pub(super) const ROUNDS: u32 = 5;
/// Between two tries to read what a container has left, while Docker is away.
pub(super) const AWAY_PAUSE: Duration = Duration::from_secs(3);

/// What is there at the path of an output.
pub enum Left {
    Found(Found),
    /// Nothing. `instead`: what is there, in words, from the nearest directory that exists.
    Nothing {
        instead: String,
    },
}

/// What becomes an artifact.
pub struct Found {
    pub kind: ArtifactKind,
    /// Bytes, where they are known beforehand.
    pub size: Option<u64>,
    /// What it is called where it lies.
    pub file_name: String,
    pub source: Source,
    pub(crate) seen: Seen,
}

/// Why what an attempt has left can't be read.
#[derive(Debug)]
pub enum Unread {
    /// For now: whoever has it does not answer.
    Away(String),
    Failed(Failure),
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Stores all outputs that are due after this exit. Safe to repeat: what is ready already is not read again, and of what was begun the parts
/// that are stored are not sent again.
///
/// Errors: the first output that will never be ready, in words; the others are stored all the same. Does not return while the attempt holds its
/// task no more: whoever waits is told to stop.
pub async fn store(job: &Job, executor: &dyn Executor, artifacts: &Artifacts, exit: &ExitFacts) -> Result<(), Failure> {
    let mut first = Ok(());
    for (index, output) in job.spec.outputs.iter().enumerate().filter(|(_, output)| output.is_due(exit)) {
        let storing = Storing { job, executor, artifacts, index, output };
        let stored = loop {
            match storing.run().await {
                Err(Stop::Fenced) => tokio::time::sleep(FENCED_PAUSE).await,
                stored => break stored,
            }
        };
        let line = match stored {
            Ok(line) => line,
            // By its exit facts, while this node was away: all that was due was stored, and nobody will tell it to stop.
            Err(Stop::Ended) => return Ok(()),
            // After a failure of its own, what is missing is no second one.
            Err(Stop::Nothing { .. }) if exit.failure().is_some() => {
                format!("nothing matches {}, so nothing is stored as {}", output.path, output.name)
            }
            Err(stop) => {
                let failure = stop.into_failure(output);
                let line = failure.message.clone();
                first = first.and(Err(failure));
                line
            }
        };
        job.log.note(&line).await;
    }
    first
}

enum Stop {
    Fenced,
    Ended,
    Nothing { instead: String },
    Failed(Failure),
}

impl Stop {
    fn into_failure(self, output: &Output) -> Failure {
        match self {
            Self::Fenced | Self::Ended => Failure::node("this attempt does not hold its task any more"),
            Self::Nothing { instead } => Failure::new(
                FailureKind::OutputFailed,
                format!("nothing matches the output {} ({}): {instead}", output.path, output.name),
            ),
            Self::Failed(failure) => failure,
        }
    }
}

struct Storing<'a> {
    job: &'a Job,
    executor: &'a dyn Executor,
    artifacts: &'a Artifacts,
    index: usize,
    output: &'a Output,
}

impl Storing<'_> {
    /// What is to be said of it.
    async fn run(&self) -> Result<String, Stop> {
        let Output { path, name, .. } = self.output;
        self.job.log.note(&format!("storing {path} as {name}")).await;
        let began = Instant::now();
        let mut round = 1;
        loop {
            let found = match self.look().await? {
                Left::Found(found) => found,
                Left::Nothing { instead } => return Err(Stop::Nothing { instead }),
            };
            let seen = found.seen.clone();
            let slot = self.artifacts.slot().await;
            let (log, size) = (&self.job.log, found.size);
            let sent = tell_while(log, name, size, |observer| self.send(found, observer)).await;
            drop(slot);
            let away = seen.met().away.take();
            if let Some(away) = away.filter(|_| sent.is_err()) {
                self.wait_for(&away).await;
                continue;
            }
            let error = match sent {
                Ok(Sent::Stored(artifact)) => {
                    for line in seen.left_out() {
                        log.note(&line).await;
                    }
                    let took = show_duration_ms(began.elapsed().as_millis() as u64);
                    let size = show_bytes(artifact.size.unwrap_or_default());
                    return Ok(format!("{} is stored: {size} in {took}", named(&artifact)));
                }
                Ok(Sent::Ready(artifact)) => return Ok(format!("{} is stored", named(&artifact))),
                Ok(Sent::Nothing) => return Err(Stop::Nothing { instead: seen.names() }),
                Err(error) => error,
            };
            match refusal(&error) {
                Some(Refusal::Fenced) => return Err(Stop::Fenced),
                Some(Refusal::Ended) => return Err(Stop::Ended),
                Some(Refusal::BeginAnew) if round < ROUNDS => round += 1,
                _ if matches!(error, TransferError::StoreRefuses { .. }) && round < ROUNDS => round += 1,
                _ => {
                    let message = format!("the output {path} ({name}) can't be stored: {error}");
                    return Err(Stop::Failed(Failure::new(FailureKind::OutputFailed, message)));
                }
            }
        }
    }

    /// Waits for whoever has it.
    async fn look(&self) -> Result<Left, Stop> {
        let mut is_told = false;
        loop {
            match self.executor.output(self.job, self.output).await {
                Ok(left) => return Ok(left),
                Err(Unread::Failed(failure)) => return Err(Stop::Failed(failure)),
                Err(Unread::Away(why)) if is_told => {
                    tracing::debug!(attempt.id = %self.job.held.attempt, why, "outputs can't be read yet");
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                Err(Unread::Away(why)) => {
                    is_told = true;
                    self.wait_for(&why).await;
                }
            }
        }
    }

    async fn wait_for(&self, why: &str) {
        self.job.log.note(&format!("{}: {why}; trying again", self.output.name)).await;
        tokio::time::sleep(AWAY_PAUSE).await;
    }

    async fn send(&self, found: Found, observer: Arc<dyn Observer>) -> Result<Sent, TransferError> {
        let Found { kind, size, file_name, source, seen } = found;
        let (held, index, artifacts) = (self.job.held, self.index, self.artifacts);
        let create = CreateOutput { kind, size, file_name };
        let announce = || artifacts.addresses.begin_output(held, index, create.clone());
        let announced = patiently(&artifacts.options, &*observer, announce).await?;
        if announced.artifact.state == ArtifactState::Ready {
            return Ok(Sent::Ready(announced.artifact));
        }
        let parts = Parts { addresses: &*artifacts.addresses, held, index };
        let uploaded =
            upload(&artifacts.store, source, PartSizes::from(&announced), &parts, &artifacts.options, &observer)
                .await?;
        if seen.has_nothing() {
            return Ok(Sent::Nothing);
        }
        let whole = CompleteArtifact { size: uploaded.size, sha256: uploaded.sha256, stored: uploaded.stored };
        let complete = || artifacts.addresses.complete_output(held, index, whole.clone());
        patiently(&artifacts.options, &*observer, complete).await.map(Sent::Stored)
    }
}

enum Sent {
    Stored(Artifact),
    /// From before.
    Ready(Artifact),
    /// No entry matched.
    Nothing,
}

fn named(artifact: &Artifact) -> String {
    artifact.version.map_or_else(|| artifact.name.clone(), |version| format!("{}@{version}", artifact.name))
}

struct Parts<'a> {
    addresses: &'a dyn Addresses,
    held: Held,
    index: usize,
}

impl Uploads for Parts<'_> {
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        self.addresses.output_parts(self.held, self.index, request).boxed()
    }
}
