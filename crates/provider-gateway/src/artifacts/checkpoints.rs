//! A checkpoint: the directory of a running task as it was in one moment. It is packed while it is still, into a file of this node, and only then
//! sent: so a slow line tears nothing, and the program goes on with its next one meanwhile.

pub(crate) mod beginning;
mod known;
mod packing;

pub(crate) use known::Looking;
pub use known::{Known, Look};
pub use packing::{Packed, Packing};

use super::{
    Addresses, Artifacts, Refusal,
    outputs::{AWAY_PAUSE, ROUNDS, Unread},
    refusal,
    telling::tell_trouble_while,
};
use crate::executor::{Executor, Job};
use api_types::artifact::{Artifact, CompleteArtifact, CreateOutput, PartAddress, PartsRequest};
use domain::{
    artifact::ArtifactKind,
    ids::{ArtifactId, Held},
    quantity::{show_bytes, show_duration_ms},
    spec::Checkpoints,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use transfer::{AddressError, Observer, Options, PartSizes, Source, TransferError, Uploads, patiently, upload};

/// What has not changed for so long is taken for still, unless it changes while it is read. Docker tells times in seconds.
pub(crate) const STILL_FOR: Duration = Duration::from_secs(2);

/// How a checkpoint is to be taken.
pub struct Wanted {
    pub packing: Packing,
    /// Its process has ended: nothing changes any more.
    pub is_last: bool,
    /// How the directory looked when it was stored last: while it looks so, there is nothing to do.
    pub stored: Option<Look>,
}

/// What came of it.
pub enum Taken {
    Packed(Packed, Look),
    Unchanged,
    /// Something in it changed a moment ago, or while it was read.
    Unstill,
    /// The directory is not there, or empty.
    Nothing,
    /// What is there is no directory.
    NoDirectory,
}

/// Stores the directory as it is now, unless it is stored already. What there is to be said of it stands in the attempt's log. False: it is worth
/// another try soon.
pub async fn take(job: &Job, executor: &dyn Executor, artifacts: &Artifacts) -> bool {
    let Some(taking) = Taking::of(job, executor, artifacts, false) else { return true };
    let (line, is_settled) = match taking.run().await {
        Ok(line) => {
            job.checkpoints.worked();
            if let Some(line) = line {
                job.log.note(&line).await;
            }
            return true;
        }
        Err(Untaken::Fenced) => return true,
        Err(Untaken::Unstill) => (taking.line_of_unrest(), false),
        Err(Untaken::Away(why)) => (Some(format!("no checkpoint could be stored: {why}; trying again")), false),
        Err(Untaken::No(line)) => (Some(line), true),
    };
    taking.tell_once(line).await;
    is_settled
}

/// As [`take`], after the end of the process, and for as long as it is worth to wait for it. Changes nothing about how the attempt ends.
pub async fn take_last(job: &Job, executor: &dyn Executor, artifacts: &Artifacts) {
    let Some(taking) = Taking::of(job, executor, artifacts, true) else { return };
    let until = Instant::now() + artifacts.checkpoint_patience;
    loop {
        let line = match taking.run().await {
            Err(Untaken::Away(_)) if Instant::now() < until => {
                tokio::time::sleep(AWAY_PAUSE).await;
                continue;
            }
            Ok(line) => line,
            Err(Untaken::Fenced) => None,
            Err(Untaken::Unstill) => Some("no last checkpoint is stored: its directory still changes".to_owned()),
            Err(Untaken::Away(why)) => Some(format!("no last checkpoint could be stored: {why}")),
            Err(Untaken::No(line)) => Some(line),
        };
        return taking.tell_once(line).await;
    }
}

/// Why none was stored.
enum Untaken {
    Unstill,
    /// For now: whoever has the directory, or takes its bytes.
    Away(String),
    /// In words.
    No(String),
    Fenced,
}

struct Taking<'a> {
    job: &'a Job,
    executor: &'a dyn Executor,
    artifacts: &'a Artifacts,
    checkpoints: &'a Checkpoints,
    is_last: bool,
}

impl<'a> Taking<'a> {
    fn of(job: &'a Job, executor: &'a dyn Executor, artifacts: &'a Artifacts, is_last: bool) -> Option<Self> {
        let checkpoints = job.spec.checkpoints.as_ref()?;
        Some(Self { job, executor, artifacts, checkpoints, is_last })
    }

    /// What is to be said of it. None: it was stored before.
    async fn run(&self) -> Result<Option<String>, Untaken> {
        let (job, path) = (self.job, &self.checkpoints.path);
        let began = Instant::now();
        let is_dropped = CancellationToken::new();
        // The thread that packs hears of it when this future is dropped.
        let _dropping = is_dropped.clone().drop_guard();
        let packing = Packing::new(&job.dir, self.artifacts.marks.clone(), is_dropped)
            .map_err(|error| Untaken::No(format!("no checkpoint can be packed: {error}")))?;
        let wanted = Wanted { packing, is_last: self.is_last, stored: job.checkpoints.look() };
        let (packed, look) = match self.executor.checkpoint(job, wanted).await {
            Ok(Taken::Packed(packed, look)) => (packed, look),
            Ok(Taken::Unchanged) => return Ok(None),
            Ok(Taken::Unstill) => return Err(Untaken::Unstill),
            Ok(Taken::Nothing) => {
                return Err(Untaken::No(format!("nothing lies in {path} yet, so no checkpoint is taken")));
            }
            Ok(Taken::NoDirectory) => {
                return Err(Untaken::No(format!("{path} is no directory, so no checkpoint is taken")));
            }
            Err(Unread::Away(why)) => return Err(Untaken::Away(why)),
            Err(Unread::Failed(failure)) => {
                return Err(Untaken::No(format!("no checkpoint can be taken of {path}: {}", failure.message)));
            }
        };
        if job.checkpoints.sha256() == Some(packed.sha256) {
            job.checkpoints.stored(look, packed.sha256);
            return Ok(None);
        }
        let slot = self.artifacts.slot().await;
        let sent = tell_trouble_while(&job.log, "checkpoint", |observer| self.send(&packed, observer)).await;
        drop(slot);
        let artifact = sent.map_err(|error| match (refusal(&error), &error) {
            (Some(Refusal::Fenced | Refusal::Ended), _) => Untaken::Fenced,
            (_, TransferError::GaveUp { .. }) => Untaken::Away(error.to_string()),
            _ => Untaken::No(format!("no checkpoint can be stored: {error}")),
        })?;
        for line in job.checkpoints.new_lines(packed.seen.left_out()) {
            job.log.note(&line).await;
        }
        job.checkpoints.stored(look, packed.sha256);
        let took = show_duration_ms(began.elapsed().as_millis() as u64);
        Ok(Some(format!("{} is stored: {} in {took}", named(&artifact), show_bytes(packed.size))))
    }

    /// Sends the file, anew where what was sent of it is lost.
    async fn send(&self, packed: &Packed, observer: Arc<dyn Observer>) -> Result<Artifact, TransferError> {
        let mut round = 1;
        loop {
            match self.send_once(packed, &observer).await {
                Err(TransferError::StoreRefuses { .. }) if round < ROUNDS => {}
                Err(error) if refusal(&error) == Some(Refusal::BeginAnew) && round < ROUNDS => {}
                sent => return sent,
            }
            round += 1;
        }
    }

    async fn send_once(&self, packed: &Packed, observer: &Arc<dyn Observer>) -> Result<Artifact, TransferError> {
        let Artifacts { addresses, store, options, checkpoint_patience, .. } = self.artifacts;
        let (addresses, held) = (&**addresses, self.job.held);
        let mut options: Options = options.clone();
        // What is packed grows old: once the store is back, the directory is looked at anew.
        options.pauses.give_up_after = *checkpoint_patience;
        let file = packed.again().map_err(unreadable)?;
        let file_name = self.checkpoints.path.rsplit('/').next().unwrap_or_default().to_owned();
        // Without its size: where that is declared, parts are equal, and have little in common with the checkpoint before.
        let create = CreateOutput { kind: ArtifactKind::Directory, size: None, file_name };
        let announced = patiently(&options, &**observer, || addresses.begin_checkpoint(held, create.clone())).await?;
        let id = announced.artifact.id;
        let source = Source::Packed { file, path: PathBuf::from(PACKED), ends: packed.ends.clone() };
        let parts = Parts { addresses, held, id };
        let uploaded = upload(store, source, PartSizes::from(&announced), &parts, &options, observer).await?;
        let whole = CompleteArtifact { size: uploaded.size, sha256: uploaded.sha256, stored: uploaded.stored };
        patiently(&options, &**observer, || addresses.complete_checkpoint(held, id, whole.clone())).await
    }

    /// Once it was never still for as long as checkpoints are apart.
    fn line_of_unrest(&self) -> Option<String> {
        let (path, every_ms) = (&self.checkpoints.path, self.checkpoints.every_ms);
        let is_long = self.job.checkpoints.unstill_for() >= Duration::from_millis(every_ms);
        is_long.then(|| {
            format!(
                "no checkpoint could be taken for {}, as something in {path} changes all the time: write to another name and rename what is \
                 whole; keep logs that grow elsewhere",
                show_duration_ms(every_ms)
            )
        })
    }

    /// Not again before it worked, or there is something else to say.
    async fn tell_once(&self, line: Option<String>) {
        if let Some(line) = line.filter(|line| self.job.checkpoints.is_new(line)) {
            self.job.log.note(&line).await;
        }
    }
}

const PACKED: &str = "the packed checkpoint";

fn unreadable(source: io::Error) -> TransferError {
    TransferError::Unreadable { what: PACKED.to_owned(), source }
}

/// As the log says it.
fn named(artifact: &Artifact) -> String {
    artifact.version.map_or_else(|| "the checkpoint".to_owned(), |version| format!("checkpoint {version}"))
}

struct Parts<'a> {
    addresses: &'a dyn Addresses,
    held: Held,
    id: ArtifactId,
}

impl Uploads for Parts<'_> {
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        self.addresses.checkpoint_parts(self.held, self.id, request).boxed()
    }
}
