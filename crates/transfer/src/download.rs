//! Content from the store: ranges in parallel, given on in order, hashed on the way.

use crate::{
    Downloads, Incoming, Observer, Options, Store, TransferError,
    http::{Fault, Wire},
    incoming::Pool,
    pace::Pace,
    parts::{ranges, ranges_at_once},
    pause::Line,
};
use api_types::artifact::SignedRequest;
use domain::artifact::Sha256Digest;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;

/// So often in a row a store may say no to a range.
const REFUSALS: u32 = 5;

/// What is to be fetched, as the platform knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// Where a transfer begins that goes on: after so many bytes, which are hashed already.
#[derive(Clone, Default)]
pub(crate) struct Begun {
    pub(crate) at: u64,
    pub(crate) hasher: Sha256,
}

/// Fetches all of it and gives it in order to `sink`, which runs where it may block. What `sink` has made counts only when this returns it:
/// then all bytes had the right digest.
///
/// Errors: `WrongDigest`, `WrongSize`; `NoAddress`, `StoreRefuses`, `GaveUp`; what `sink` says.
pub async fn stream<T: Send + 'static>(
    store: &Store,
    content: Content,
    addresses: &dyn Downloads,
    options: &Options,
    observer: &dyn Observer,
    sink: impl FnOnce(&mut Incoming) -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    let fetching = Fetching::new(store, content, addresses, options, observer);
    fetching.pour(Begun { at: 0, hasher: Sha256::new() }, sink).await
}

/// One content, and what is known on the way to it.
pub(crate) struct Fetching<'a> {
    pub(crate) content: Content,
    wire: Wire<'a>,
    line: Line<'a>,
    addresses: &'a dyn Downloads,
    /// The newest, with its number.
    address: Mutex<(u32, Option<SignedRequest>)>,
    /// One asks for a new address, and the others wait for it.
    asking: tokio::sync::Mutex<()>,
    pool: Pool,
}

impl<'a> Fetching<'a> {
    pub(crate) fn new(
        store: &'a Store,
        content: Content,
        addresses: &'a dyn Downloads,
        options: &'a Options,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            content,
            wire: Wire { store, options, pace: Arc::new(Pace::new(options.limit)), observer },
            line: Line::new(options, observer),
            addresses,
            address: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            pool: Pool::default(),
        }
    }

    pub(crate) async fn pour<T: Send + 'static>(
        &self,
        begun: Begun,
        sink: impl FnOnce(&mut Incoming) -> Result<T, TransferError> + Send + 'static,
    ) -> Result<T, TransferError> {
        let (content, at) = (self.content, begun.at);
        let (sender, receiver) = mpsc::channel::<Vec<u8>>(1);
        let pool = self.pool.clone();
        let sinking = tokio::task::spawn_blocking(move || {
            let mut incoming = Incoming::new(receiver, pool, begun.hasher, content.size - at);
            let made = sink(&mut incoming);
            // Whoever refuses what is in it needs no more of it; whoever can't make sense of it may have been given other bytes.
            let is_refused = made.as_ref().is_err_and(|error| !error.may_be_damage());
            let found = if is_refused { None } else { incoming.finish().ok() };
            match found {
                Some(found) if found != content.sha256 => {
                    Err(TransferError::WrongDigest { wanted: content.sha256, found })
                }
                Some(_) => made,
                None => made.and(Err(TransferError::Broken("the transfer was stopped".to_owned()))),
            }
        });
        let fetched = self.fetch_all(at, sender).await;
        // In any case: what it writes to is removed or renamed next.
        let made =
            sinking.await.map_err(|error| TransferError::Broken(format!("the writing thread ended: {error}")))?;
        fetched?;
        made
    }

    /// Ends early, and well, when nobody takes the bytes any more.
    async fn fetch_all(&self, from: u64, into: mpsc::Sender<Vec<u8>>) -> Result<(), TransferError> {
        let options = self.wire.options;
        // Where little comes, ranges are small: what has not come whole is not written, and would be lost to a restart.
        let step = options.limit.map_or(options.range, |limit| options.range.min((limit / 4).max(64 << 10)));
        let at_once = ranges_at_once(step, options.memory, options.parallel);
        let pieces = ranges(from, self.content.size, step).map(|range| self.fetch(range));
        let mut pieces = std::pin::pin!(stream::iter(pieces).buffered(at_once));
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = into.closed() => return Ok(()),
            };
            let Some(piece) = piece else { return Ok(()) };
            if into.send(piece?).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, TransferError> {
        let length = range.end - range.start;
        let mut bytes = self.pool.take(usize::try_from(length).unwrap_or_default());
        let (mut failures, mut refusals) = (0, 0);
        loop {
            let (number, address) = self.address().await?;
            let before = bytes.len();
            let fault = match self.wire.get(&address, &range, self.content.size, &mut bytes).await {
                Ok(()) => {
                    self.line.good();
                    return Ok(bytes);
                }
                Err(fault) => fault,
            };
            if bytes.len() > before {
                self.line.good();
                (failures, refusals) = (0, 0);
            }
            failures += 1;
            let (why, retry_after) = match fault {
                Fault::Passing { why, retry_after } => (why, retry_after),
                Fault::Refused { why } => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        let what = format!("bytes {} to {}", range.start, range.end);
                        return Err(TransferError::StoreRefuses { what, said: why });
                    }
                    // Most often it has expired, which is no trouble worth a pause.
                    self.forget(number);
                    if refusals == 1 {
                        continue;
                    }
                    (why, None)
                }
                Fault::Untrusted { why } if !self.wire.options.waits_for_trust => {
                    return Err(TransferError::Untrusted(why));
                }
                Fault::Untrusted { why } => (why, None),
                Fault::WrongSize { found } => {
                    return Err(TransferError::WrongSize { wanted: self.content.size, found });
                }
            };
            if failures % 3 == 0 {
                self.forget(number);
            }
            self.line.bad(failures, why, retry_after).await?;
        }
    }

    fn known(&self) -> Option<(u32, SignedRequest)> {
        let known = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.clone().map(|address| (known.0, address))
    }

    /// Unless there is a newer one already.
    fn forget(&self, number: u32) {
        let mut known = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 == number {
            known.1 = None;
        }
    }

    async fn address(&self) -> Result<(u32, SignedRequest), TransferError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        let mut failures = 0;
        loop {
            if let Some(known) = self.known() {
                return Ok(known);
            }
            match self.addresses.address().await {
                Ok(address) => {
                    let mut known = self.address.lock().unwrap_or_else(PoisonError::into_inner);
                    *known = (known.0 + 1, Some(address));
                }
                Err(error) if error.is_passing => {
                    failures += 1;
                    self.line.bad(failures, error.why, error.retry_after).await?;
                }
                Err(error) => return Err(TransferError::NoAddress(error)),
            }
        }
    }
}
