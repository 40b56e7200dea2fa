//! Looks for what nodes must be told, whenever something hints at it and every so often: one reader for all nodes of this gateway,
//! so that ten thousand idle nodes cost one query, and a hint reaches the nodes that it names and no other.

use super::outbound::{Outbound, Sent, tell};
use domain::ids::{AttemptId, NodeId};
use service_kit::Service;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{Look, Outbox, SessionKey, Store, StoreError, Subscription, Topic};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::Instant,
};

/// Nodes that are asked for in one query.
const PER_QUERY: usize = 2_000;
/// Between two tries when the database is away.
const PAUSE: Duration = Duration::from_millis(500);
/// A silence is noticed late by at most this part of it.
const LOOKS_PER_SILENCE: u32 = 10;

/// The open sessions of this gateway. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Teller {
    lines: Arc<Mutex<Lines>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Lines {
    open: BTreeMap<SessionKey, Line>,
    /// Those for which there may be something, and how much of it must be looked at.
    due: BTreeMap<SessionKey, Look>,
    /// The last one that was looked at.
    last: SessionKey,
}

struct Line {
    outbound: Outbound,
    sent: Sent,
}

/// A session that is told what it must know, and given up when it is silent, until this is dropped.
pub(super) struct Listening {
    teller: Teller,
    key: SessionKey,
}

impl Listening {
    /// What the node has said of these is recorded: they are new to nobody any more.
    pub(super) fn settle(&self, attempts: impl Iterator<Item = AttemptId>) {
        if let Some(line) = self.teller.lock().open.get_mut(&self.key) {
            attempts.for_each(|attempt| line.sent.settle(attempt));
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut lines = self.teller.lock();
        lines.open.remove(&self.key);
        lines.due.remove(&self.key);
    }
}

impl Teller {
    /// `silence`: a node that says or takes nothing for so long is given up.
    pub(super) fn start(service: &Service, store: Store, every: Duration, silence: Duration) -> Self {
        let teller = Self::default();
        service.spawn_until_stopped("silence", teller.clone().give_up_the_silent(silence));
        service.spawn_until_stopped("node hints", teller.clone().hear(store.wakeups().subscribe()));
        service.spawn_until_stopped("outbox", teller.clone().run(store, every));
        teller
    }

    /// From now on the session is told. `known`: see [`Sent::known`].
    pub(super) fn listen(&self, key: SessionKey, known: BTreeSet<AttemptId>, outbound: Outbound) -> Listening {
        let mut lines = self.lock();
        lines.open.insert(key, Line { outbound, sent: Sent::known(known) });
        lines.due.insert(key, Look::All);
        self.wake.notify_one();
        Listening { teller: self.clone(), key }
    }

    /// One timer for all, where each session of its own would set one anew at each message.
    async fn give_up_the_silent(self, silence: Duration) {
        loop {
            tokio::time::sleep(silence / LOOKS_PER_SILENCE).await;
            let now = Instant::now();
            self.lock().open.values().for_each(|line| line.outbound.close_if_silent(now, silence));
        }
    }

    async fn hear(self, mut hints: Subscription) {
        loop {
            match hints.recv().await {
                Ok(Topic::Leased(node)) => self.mark(Some(node), Look::New),
                Ok(Topic::Node(node)) => self.mark(Some(node), Look::All),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.mark(None, Look::All),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Something is new for this node, or may be for any.
    fn mark(&self, node: Option<NodeId>, look: Look) {
        let lines = &mut *self.lock();
        let (from, to) = match node {
            Some(node) => (SessionKey { node, epoch: i64::MIN }, SessionKey { node, epoch: i64::MAX }),
            None => (SessionKey::FIRST, SessionKey::LAST),
        };
        for (key, _) in lines.open.range(from..=to) {
            let due = lines.due.entry(*key).or_insert(look);
            *due = look.max(*due);
        }
        if !lines.due.is_empty() {
            self.wake.notify_one();
        }
    }

    async fn run(self, store: Store, every: Duration) {
        let mut next_look_at_all = Instant::now() + every;
        loop {
            // Asked for here, so that hints without a pause put off nothing that no hint told of.
            if Instant::now() >= next_look_at_all {
                self.mark(None, Look::All);
                next_look_at_all = Instant::now() + every;
            }
            match self.tell_due(&store).await {
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(next_look_at_all) => {}
                },
                Err(error) => {
                    tracing::debug!(error = %service_kit::lifecycle::Chain(&error), "outboxes could not be read; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tells some of those that are due. False: none is.
    async fn tell_due(&self, store: &Store) -> Result<bool, StoreError> {
        let (keys, nodes, look, sent) = {
            let lines = &mut *self.lock();
            // From where the last query ended, so that nodes that are always due keep no others waiting.
            let from_there = lines.due.range((Bound::Excluded(lines.last), Bound::Unbounded));
            let from_first = lines.due.range(..=lines.last);
            let keys: BTreeMap<SessionKey, Look> =
                from_there.chain(from_first).take(PER_QUERY).map(|(key, look)| (*key, *look)).collect();
            let Some(look) = keys.values().max().copied() else { return Ok(false) };
            // Not due any more before it is read: a hint that comes meanwhile makes it due again.
            lines.due.retain(|key, _| !keys.contains_key(key));
            let keys: Vec<SessionKey> = keys.into_keys().collect();
            lines.last = *keys.last().unwrap_or(&SessionKey::FIRST);
            // Of two sessions of one node, the later counts.
            let newest = |key: &SessionKey| lines.open.get(key).and_then(|line| line.sent.newest);
            let nodes: BTreeMap<NodeId, Option<AttemptId>> = keys.iter().map(|key| (key.node, newest(key))).collect();
            let sent = keys.iter().filter_map(|key| lines.open.get(key)).flat_map(|line| &line.sent.assigned);
            let sent: Vec<AttemptId> = if look == Look::All { sent.copied().collect() } else { Vec::new() };
            (keys, nodes, look, sent)
        };
        let mut outboxes = match store::in_time(store.outboxes(&nodes, &sent, look)).await {
            Ok(outboxes) => outboxes,
            Err(error) => {
                let due = &mut self.lock().due;
                for key in keys {
                    let again = due.entry(key).or_insert(look);
                    *again = look.max(*again);
                }
                return Err(error);
            }
        };
        let lines = &mut *self.lock();
        for (place, key) in keys.iter().enumerate() {
            let outbox = match keys.get(place + 1).is_some_and(|next| next.node == key.node) {
                // An older session of the same node; it is over.
                true => outboxes.get(&key.node).cloned(),
                false => outboxes.remove(&key.node),
            };
            if let Some(Line { outbound, sent }) = lines.open.get_mut(key) {
                tell(outbox.unwrap_or_else(Outbox::of_nobody), look, *key, outbound, sent);
            }
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
