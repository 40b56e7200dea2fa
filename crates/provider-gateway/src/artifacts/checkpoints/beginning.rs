//! What an attempt begins with: the newest checkpoint of its task that can be had whole.

use crate::{
    artifacts::{Addresses, Artifacts, FENCED_PAUSE, Refusal, inputs::Unfilled, refusal, telling::tell_while},
    executor::{Failure, Job},
};
use api_types::artifact::{Download, SignedRequest};
use domain::{
    ids::{ArtifactId, Held},
    outcome::FailureKind,
    quantity::show_bytes,
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::json;
use std::{sync::Arc, time::Instant};
use transfer::{AddressError, Content, Downloads, Observer, TransferError, patiently};

/// Where an executor has a checkpoint put before it gets its place.
pub(crate) trait Landing: Send + Sync {
    /// Fetches it, in place of what an earlier try has left. When it returns Ok, it is whole and holds nothing that could do harm.
    fn land<'a>(&'a self, arriving: Arriving<'a>) -> BoxFuture<'a, Result<(), Unfilled>>;
}

/// One checkpoint that is to be fetched.
pub(crate) struct Arriving<'a> {
    pub(crate) content: Content,
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) addresses: Address<'a>,
    pub(crate) observer: Arc<dyn Observer>,
}

/// Addresses of one checkpoint.
pub(crate) struct Address<'a> {
    addresses: &'a dyn Addresses,
    held: Held,
    id: ArtifactId,
}

impl Downloads for Address<'_> {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move {
            let found = self.addresses.checkpoints(self.held).await?;
            let found = found.into_iter().find(|found| found.artifact.id == self.id);
            found.map(|found| found.get).ok_or_else(|| AddressError {
                why: "it was removed, or found to be damaged".to_owned(),
                is_passing: false,
                retry_after: None,
                source: None,
            })
        }
        .boxed()
    }
}

/// Has the newest checkpoint fetched: what is kept of that for ever. None: it begins from the beginning. Whoever is away is waited for.
///
/// Errors: there is no room for it, or nobody can say which checkpoints there are; to go on without would lose them to those that come after.
/// Does not return while the attempt holds its task no more.
pub(crate) async fn bring(
    landing: &dyn Landing,
    artifacts: Option<&Artifacts>,
    job: &Job,
) -> Result<Option<serde_json::Value>, Failure> {
    if job.spec.checkpoints.is_none() || job.number <= 1 {
        return Ok(None);
    }
    let refused = || Failure::new(FailureKind::Rejected, "this agent keeps no checkpoints");
    let artifacts = artifacts.ok_or_else(refused)?;
    let found = loop {
        let asked = tell_while(&job.log, "checkpoints", None, |observer| async move {
            patiently(&artifacts.options, &*observer, || artifacts.addresses.checkpoints(job.held)).await
        });
        match asked.await {
            Ok(found) => break found,
            Err(error) => match refusal(&error) {
                Some(Refusal::Fenced) => tokio::time::sleep(FENCED_PAUSE).await,
                Some(Refusal::NoStore) => break Vec::new(),
                _ => return Err(Failure::node(format!("The checkpoints of the task can't be asked for: {error}."))),
            },
        }
    };
    let has_any = !found.is_empty();
    for checkpoint in found {
        if let Some(provenance) = fetch(landing, artifacts, job, checkpoint).await? {
            return Ok(Some(provenance));
        }
    }
    if has_any {
        job.log.note("no checkpoint can be had: it begins from the beginning").await;
    }
    Ok(None)
}

/// None: it can't be had.
async fn fetch(
    landing: &dyn Landing,
    artifacts: &Artifacts,
    job: &Job,
    checkpoint: Download,
) -> Result<Option<serde_json::Value>, Failure> {
    let artifact = checkpoint.artifact;
    let (name, began) = (super::named(&artifact), Instant::now());
    let (Some(size), Some(sha256)) = (artifact.size, artifact.sha256) else { return Ok(None) };
    let landed = loop {
        let slot = artifacts.slot().await;
        let landed = tell_while(&job.log, &name, Some(size), |observer| {
            let addresses = Address { addresses: &*artifacts.addresses, held: job.held, id: artifact.id };
            landing.land(Arriving { content: Content { size, sha256 }, artifacts, addresses, observer })
        });
        let landed = landed.await;
        drop(slot);
        match &landed {
            Err(Unfilled::Transfer(error)) if refusal(error) == Some(Refusal::Fenced) => {
                tokio::time::sleep(FENCED_PAUSE).await;
            }
            _ => break landed,
        }
    };
    let why = match landed {
        Ok(()) => {
            job.checkpoints.begins_with(sha256);
            job.log.note(&format!("goes on from {name}: {}", show_bytes(size))).await;
            let artifact_name = artifact.version.map(|version| format!("{}@{version}", artifact.name));
            return Ok(Some(json!({
                "artifact": artifact_name,
                "id": artifact.id,
                "sha256": sha256,
                "bytes": size,
                "ms": began.elapsed().as_millis() as u64,
            })));
        }
        Err(Unfilled::Full(why)) => {
            let why = format!("disk full: {name} ({}) does not fit on this node: {why}.", show_bytes(size));
            return Err(Failure::node(why));
        }
        Err(Unfilled::Failed(failure)) => return Err(failure),
        Err(Unfilled::Transfer(error)) => match &error {
            TransferError::NoAddress(_)
            | TransferError::StoreRefuses { .. }
            | TransferError::WrongDigest { .. }
            | TransferError::WrongSize { .. }
            | TransferError::Unpack(_) => error.to_string(),
            _ => return Err(Failure::node(format!("{name} can't be fetched: {error}."))),
        },
    };
    job.log.note(&format!("{name} can't be used: {why}")).await;
    Ok(None)
}
