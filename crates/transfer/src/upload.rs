//! Content to the store: read once and in order, parts in parallel, each tried until it is stored.

use crate::{
    AddressError, Observer, Options, PartSizes, Source, Store, TransferError, Uploads,
    http::{Fault, Wire},
    pace::Pace,
    parts::lanes,
    pause::Line,
    source::{Cutter, Gauge, Part},
};
use api_types::artifact::{PartsRequest, SignedRequest, StoredPart, WantedPart};
use domain::artifact::Sha256Digest;
use futures::future::try_join_all;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::mpsc;

/// So often in a row a store may say no to a part, each time with a fresh address.
const REFUSALS: u32 = 5;

/// All parts are stored. The upload is not complete yet: that is for whoever speaks with the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Uploaded {
    /// Bytes of the whole.
    pub size: u64,
    pub sha256: Sha256Digest,
    /// Those that the platform was not told of.
    pub stored: Vec<StoredPart>,
    pub parts: u32,
    /// Bytes of those that the store had before, from this upload or from an older version: they were not sent.
    pub had_bytes: u64,
    /// Bytes of content that were in memory at one time, at most.
    pub held_bytes: u64,
}

/// Sends all of `source`. Dropping it stops it; what is stored then is found by the next upload that goes on with it.
///
/// Errors: `Unreadable`, `Changed`, `Pack`; `NoAddress`, `StoreRefuses`, `GaveUp`.
pub async fn upload(
    store: &Store,
    source: Source,
    sizes: PartSizes,
    addresses: &dyn Uploads,
    options: &Options,
    observer: &Arc<dyn Observer>,
) -> Result<Uploaded, TransferError> {
    let lanes = lanes(sizes.most, options.memory, options.parallel, source.can_be_read_again());
    let (sender, receiver) = mpsc::channel(lanes.queued);
    let gauge = Gauge::default();
    let cutter = Cutter::new(sizes, lanes.held, sender, gauge.clone());
    let listener = observer.clone();
    let reading = tokio::task::spawn_blocking(move || source.read(cutter, &|bytes| listener.read(bytes)));
    let sending = Sending {
        wire: Wire { store, options, pace: Arc::new(Pace::new(options.limit)), observer: &**observer },
        line: Line::new(options, &**observer),
        addresses,
        untold: Mutex::default(),
        had_bytes: AtomicU64::new(0),
    };
    // Given away to the lanes, so that the reading thread is stopped when they are.
    let receiver = tokio::sync::Mutex::new(receiver);
    let reading =
        async { reading.await.map_err(|error| TransferError::Broken(format!("the reading thread ended: {error}")))? };
    let all_lanes = try_join_all((0..lanes.parallel).map(|_| sending.lane(&receiver)));
    let (whole, _) = futures::try_join!(reading, all_lanes)?;
    Ok(Uploaded {
        size: whole.size,
        sha256: whole.sha256,
        stored: sending.untold.into_inner().unwrap_or_else(PoisonError::into_inner),
        parts: whole.parts,
        had_bytes: sending.had_bytes.into_inner(),
        held_bytes: gauge.most(),
    })
}

struct Sending<'a> {
    wire: Wire<'a>,
    line: Line<'a>,
    addresses: &'a dyn Uploads,
    /// Stored parts that the platform does not know of yet: the next question tells them.
    untold: Mutex<Vec<StoredPart>>,
    had_bytes: AtomicU64,
}

impl Sending<'_> {
    async fn lane(&self, parts: &tokio::sync::Mutex<mpsc::Receiver<Part>>) -> Result<(), TransferError> {
        loop {
            // Only one lane waits for the next part; the others wait for this one.
            let part = parts.lock().await.recv().await;
            let Some(part) = part else { return Ok(()) };
            self.store(part).await?;
        }
    }

    async fn store(&self, part: Part) -> Result<(), TransferError> {
        let (mut failures, mut refusals) = (0, 0);
        let wanted = WantedPart { number: part.number, size: part.size, sha256: part.checksum().await? };
        loop {
            // A fresh address for every try: an expired one looks like a cut connection to whoever is still sending.
            let Some(address) = self.address(&wanted).await? else {
                self.had_bytes.fetch_add(part.size, Relaxed);
                self.wire.observer.had(part.size);
                self.wire.observer.part_stored();
                return Ok(());
            };
            let (why, retry_after) = match self.wire.put(&address, &part.content, part.size).await {
                Ok(etag) => {
                    self.line.good();
                    self.wire.observer.part_stored();
                    self.untold().push(StoredPart { number: part.number, etag });
                    return Ok(());
                }
                Err(Fault::Passing { why, retry_after }) => (why, retry_after),
                Err(Fault::Refused { why }) => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return Err(TransferError::StoreRefuses { what: format!("part {}", part.number), said: why });
                    }
                    (why, None)
                }
                Err(Fault::Untrusted { why }) if !self.wire.options.waits_for_trust => {
                    return Err(TransferError::Untrusted(why));
                }
                Err(Fault::Untrusted { why }) => (why, None),
                Err(Fault::WrongSize { .. }) => ("it takes another size".to_owned(), None),
            };
            failures += 1;
            self.line.bad(failures, why, retry_after).await?;
        }
    }

    /// Where the part goes; None when the store has it.
    async fn address(&self, part: &WantedPart) -> Result<Option<SignedRequest>, TransferError> {
        let mut failures = 0;
        loop {
            let stored = std::mem::take(&mut *self.untold());
            let wanted = vec![part.clone()];
            let error = match self.addresses.parts(PartsRequest { stored: stored.clone(), wanted }).await {
                Ok(mut parts) if parts.len() == 1 && parts[0].number == part.number => return Ok(parts.remove(0).put),
                Ok(_) => AddressError {
                    why: "the server answers for other parts than those that were asked for".to_owned(),
                    is_passing: false,
                    retry_after: None,
                    source: None,
                },
                Err(error) => error,
            };
            // It may have heard it all the same: told twice is told once.
            self.untold().extend(stored);
            if !error.is_passing {
                return Err(TransferError::NoAddress(error));
            }
            failures += 1;
            self.line.bad(failures, error.why, error.retry_after).await?;
        }
    }

    fn untold(&self) -> std::sync::MutexGuard<'_, Vec<StoredPart>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
