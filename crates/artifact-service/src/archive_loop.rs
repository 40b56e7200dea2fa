//! Moves logs into the object store: a pack each pass, when enough of them wait or the oldest has waited long enough.
//!
//! A pass may end anywhere. Until its last step, one transaction, nothing has changed but that there is an object of which the list of
//! garbage knows; after it all has.

use crate::{
    ObjectStore, ObjectStoreError, Times,
    config::Archiving,
    log_archive::{
        choice::{Choice, Seen},
        pack::{Pack, PackError, Packer},
    },
    object_store::LOGS,
};
use bytes::Bytes;
use domain::ids::AttemptId;
use service_kit::{Pass, Service};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::{LogStretch, MovedLogs, NewPack, Store, StoreError, WaitingLog};
use tokio::sync::Notify;
use uuid::Uuid;

const LOGS_PER_LOOK: i64 = 1_000;
/// Of one pack, so that its transaction stays short.
const MOST_LOGS: usize = 20_000;
/// Logs that one statement reads, and their bytes.
const LOGS_AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 2 << 20;
/// Longer than a pass may take.
const CLAIM: Duration = Duration::from_secs(90);
/// An announced pack to which nothing was moved is deleted after this: longer than any pass, however long its process was frozen.
const LAPSE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the database")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Objects(#[from] ObjectStoreError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("packing logs")]
    Panicked(#[from] tokio::task::JoinError),
    #[error("the object store took {size} bytes of logs and has {found:?}")]
    NotThere { size: u64, found: Option<u64> },
}

pub(crate) fn start(service: &Service, times: Times, store: Store, objects: ObjectStore) {
    let mover = Mover { store, objects, rule: times.archiving, holder: Uuid::new_v4(), seen: Arc::default() };
    service.repeat("log-archive", times.archiving.every, Arc::new(Notify::new()), move || {
        let mover = mover.clone();
        async move { mover.pass().await }
    });
}

#[derive(Clone)]
struct Mover {
    store: Store,
    objects: ObjectStore,
    rule: Archiving,
    holder: Uuid,
    seen: Arc<Mutex<Seen>>,
}

/// A log of which so many bytes go at most.
struct Going {
    log: WaitingLog,
    most_bytes: u64,
}

impl Mover {
    async fn pass(&self) -> Result<Pass, Trouble> {
        if !self.store.claim_log_mover(self.holder, CLAIM).await? {
            return Ok(Pass::Idle);
        }
        let (going, is_full) = self.choose().await?;
        if going.is_empty() {
            return Ok(Pass::Idle);
        }
        let Some(pack) = self.pack(going).await? else { return Ok(Pass::Idle) };
        let is_moved = self.store_and_move(pack).await?;
        Ok(if is_full && is_moved { Pass::More } else { Pass::Idle })
    }

    /// What goes now: nothing, or all that may. Whether that is as much as a pack may have.
    async fn choose(&self) -> Result<(Vec<Going>, bool), StoreError> {
        let now = Instant::now();
        let (mut going, mut bytes, mut must, mut after) = (Vec::new(), 0u64, false, None);
        let mut oldest = Duration::ZERO;
        loop {
            let bite = self.store.waiting_logs(after, LOGS_PER_LOOK).await?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for log in bite.logs {
                oldest = oldest.max(log.ended.unwrap_or_default());
                let most_bytes = match seen.choose(&log, &self.rule, now) {
                    Choice::Wait => continue,
                    Choice::MayGo => u64::MAX,
                    Choice::MustGo(most_bytes) => {
                        must = true;
                        most_bytes
                    }
                };
                bytes = bytes.saturating_add(log.bytes);
                going.push(Going { log, most_bytes });
                if bytes >= self.rule.pack_bytes || going.len() >= MOST_LOGS {
                    metrics::gauge!("unidesk_log_archive_oldest_age_seconds").set(oldest.as_secs_f64());
                    return Ok((going, true));
                }
            }
            after = bite.next;
            if after.is_none() {
                seen.end_walk();
                metrics::gauge!("unidesk_log_archive_oldest_age_seconds").set(oldest.as_secs_f64());
                return Ok((if must { going } else { Vec::new() }, false));
            }
        }
    }

    /// Reads the chunks of these logs, some at a time, and packs them, as far as there is room in a pack. None: nothing of them is there.
    async fn pack(&self, going: Vec<Going>) -> Result<Option<Pack>, Trouble> {
        let mut packer = Packer::default();
        let mut going: VecDeque<Going> = going.into();
        while packer.log_bytes() < self.rule.pack_bytes && !going.is_empty() {
            let mut some = Vec::new();
            let mut bytes = 0;
            while let Some(next) = going.front()
                && (some.is_empty() || some.len() < LOGS_AT_ONCE && bytes + next.log.bytes <= BYTES_AT_ONCE as u64)
            {
                bytes += next.log.bytes;
                some.extend(going.pop_front());
            }
            packer = self.pack_some(packer, some).await?;
        }
        Ok(tokio::task::spawn_blocking(move || packer.finish()).await??)
    }

    async fn pack_some(&self, mut packer: Packer, some: Vec<Going>) -> Result<Packer, Trouble> {
        let mut stretches: Vec<LogStretch> = some.iter().map(stretch).collect();
        // The log that is in the packer, and the bytes of it that were pushed. None: no more of it goes.
        let (mut at, mut pushed) = (None, Some(0u64));
        loop {
            let (chunks, is_all) = self.store.chunks_to_move(&stretches, BYTES_AT_ONCE).await?;
            let Some(last) = chunks.last().map(|(attempt, chunk)| (*attempt, chunk.ordinal)) else { return Ok(packer) };
            let log = |it: &Going| (it.log.attempt, (it.log.first_ordinal, it.log.ends, it.most_bytes));
            let logs: BTreeMap<AttemptId, (u64, [u64; 4], u64)> = some.iter().map(log).collect();
            let seen = self.seen.clone();
            (packer, at, pushed) = tokio::task::spawn_blocking(move || {
                for (attempt, chunk) in chunks {
                    let Some((first, ends, most)) = logs.get(&attempt) else { continue };
                    if at != Some(attempt) {
                        packer.begin(attempt, *first, *ends)?;
                        (at, pushed) = (Some(attempt), Some(0));
                    }
                    let Some(bytes) = &mut pushed else { continue };
                    *bytes += chunk.gap.unwrap_or(chunk.data.len() as u64);
                    if *bytes > *most && chunk.ordinal > *first {
                        pushed = None;
                        continue;
                    }
                    match packer.push(attempt, chunk) {
                        // Others go on; this one stays where the audit finds it.
                        Err(error @ PackError::Broken { .. }) => {
                            tracing::error!(%error, "a log is not moved");
                            seen.lock().unwrap_or_else(PoisonError::into_inner).leave(attempt);
                            pushed = None;
                        }
                        pushed => pushed?,
                    }
                }
                Ok::<_, PackError>((packer, at, pushed))
            })
            .await??;
            let is_enough = packer.log_bytes() >= self.rule.pack_bytes;
            if is_all || is_enough {
                return Ok(packer);
            }
            let next = stretches.iter().position(|stretch| stretch.attempt == last.0).unwrap_or(stretches.len());
            stretches.drain(..next);
            if let Some(first) = stretches.first_mut() {
                first.first_ordinal = last.1 + 1;
                if pushed.is_none() {
                    stretches.remove(0);
                }
            }
        }
    }

    /// False: somebody was faster.
    async fn store_and_move(&self, pack: Pack) -> Result<bool, Trouble> {
        let began = Instant::now();
        let key = format!("{LOGS}{}", Uuid::new_v4());
        let size = pack.bytes.len() as u64;
        let Pack { bytes, sha256, pieces, log_bytes } = pack;
        // A store that is away is met here, before anything is written down for each try.
        self.objects.size(&key).await?;
        self.store.announce_pack(&key, LAPSE).await?;
        self.objects.put(&key, Bytes::from(bytes), &sha256).await?;
        // Nothing is deleted here before it was seen there.
        let found = self.objects.size(&key).await?;
        if found != Some(size) {
            return Err(Trouble::NotThere { size, found });
        }
        let new = NewPack { key: key.clone(), size, sha256, log_bytes };
        if self.store.move_logs(&new, &pieces).await? == MovedLogs::Stale {
            self.store.abandon_pack(&key).await?;
            return Ok(false);
        }
        metrics::counter!("unidesk_log_archive_packs_total").increment(1);
        metrics::counter!("unidesk_log_archive_log_bytes_total").increment(log_bytes);
        metrics::counter!("unidesk_log_archive_stored_bytes_total").increment(size);
        tracing::debug!(
            key,
            size,
            log_bytes,
            pieces = pieces.len(),
            took_ms = began.elapsed().as_millis() as u64,
            "logs were moved"
        );
        Ok(true)
    }
}

fn stretch(going: &Going) -> LogStretch {
    let WaitingLog { attempt, first_ordinal, next_ordinal, .. } = going.log;
    LogStretch { attempt, first_ordinal, next_ordinal }
}
