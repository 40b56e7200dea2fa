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

/// Nodes that are asked for in one query: those to which something was leased, and those of whom all is looked at. The latter are
/// few, since what was leased meanwhile waits for their answer, however urgent it is.
const LEASED_PER_QUERY: usize = 500;
const ALL_PER_QUERY: usize = 125;
/// Nodes of whom all is looked at every so often though nothing hints at it. Of a larger fleet the next ones have their turn with the
/// next look: all of ten thousand every two seconds were a sixth of what the database did under full load.
const ALL_PER_ROUND: usize = 2_000;
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
    /// Those to which something was leased.
    leased: BTreeSet<SessionKey>,
    /// Those of whom all must be looked at. Theirs is the next query in turn, so that neither keeps the other waiting.
    due: BTreeSet<SessionKey>,
    turn: Option<Look>,
    /// The last ones that were looked at.
    last_leased: SessionKey,
    last_due: SessionKey,
    /// Where the next part of the round begins.
    round: SessionKey,
}

struct Line {
    outbound: Outbound,
    sent: Sent,
}

impl Lines {
    fn marked(&mut self, look: Look) -> &mut BTreeSet<SessionKey> {
        match look {
            Look::New => &mut self.leased,
            Look::All => &mut self.due,
        }
    }

    /// Whom the next query is about. They are not marked any more: a hint that comes before the answer marks them again.
    fn next(&mut self) -> Option<(Vec<SessionKey>, Look)> {
        let look = match (self.leased.is_empty(), self.due.is_empty()) {
            (true, true) => return None,
            (false, true) => Look::New,
            (true, false) => Look::All,
            (false, false) if self.turn == Some(Look::New) => Look::All,
            (false, false) => Look::New,
        };
        self.turn = Some(look);
        let (marked, last, most) = match look {
            Look::New => (&mut self.leased, &mut self.last_leased, LEASED_PER_QUERY),
            Look::All => (&mut self.due, &mut self.last_due, ALL_PER_QUERY),
        };
        // From where the last query ended, so that nodes that are always marked keep no others waiting.
        let after = marked.range((Bound::Excluded(*last), Bound::Unbounded));
        let from_first = marked.range(..=*last);
        let chosen: Vec<SessionKey> = after.chain(from_first).take(most).copied().collect();
        *last = chosen.last().copied().unwrap_or(SessionKey::FIRST);
        let keys: BTreeSet<SessionKey> = chosen.into_iter().collect();
        marked.retain(|key| !keys.contains(key));
        Some((keys.into_iter().collect(), look))
    }
}

impl Lines {
    /// Marks those whose turn it is in the round over all.
    fn go_round(&mut self) {
        let next: Vec<SessionKey> = self
            .open
            .range((Bound::Excluded(self.round), Bound::Unbounded))
            .map(|(key, _)| *key)
            .take(ALL_PER_ROUND)
            .collect();
        self.round = next.last().copied().filter(|_| next.len() == ALL_PER_ROUND).unwrap_or(SessionKey::FIRST);
        self.due.extend(next);
    }
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
        lines.leased.remove(&self.key);
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
        lines.due.insert(key);
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
        let keys: Vec<SessionKey> = lines.open.range(from..=to).map(|(key, _)| *key).collect();
        if !keys.is_empty() {
            lines.marked(look).extend(keys);
            self.wake.notify_one();
        }
    }

    async fn run(self, store: Store, every: Duration) {
        let mut next_round = Instant::now() + every;
        loop {
            // Asked for here, so that hints without a pause put off nothing that no hint told of.
            if Instant::now() >= next_round {
                self.lock().go_round();
                next_round = Instant::now() + every;
            }
            match self.tell_due(&store).await {
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(next_round) => {}
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
            let Some((keys, look)) = lines.next() else { return Ok(false) };
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
                self.lock().marked(look).extend(keys);
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

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn key(number: u128) -> SessionKey {
        SessionKey { node: NodeId::from_uuid(Uuid::from_u128(number)), epoch: 1 }
    }

    #[test]
    fn neither_leases_without_a_pause_nor_a_look_at_all_nodes_keeps_the_other_waiting() {
        let mut lines = Lines::default();
        lines.due.extend((1..=1_200).map(key));
        let (mut all, mut queries) = (BTreeSet::new(), 0);
        while all.len() < 1_200 {
            // Something is leased to the same busy node again and again.
            lines.leased.insert(key(7));
            let (leased, look) = lines.next().expect("somebody is marked");
            assert_eq!((leased, look), (vec![key(7)], Look::New));
            lines.leased.insert(key(7));
            let (some, look) = lines.next().expect("somebody is marked");
            assert!(look == Look::All && some.len() <= ALL_PER_QUERY, "{look:?} of {}", some.len());
            all.extend(some);
            queries += 1;
        }
        assert_eq!(queries, 1_200_usize.div_ceil(ALL_PER_QUERY));
        lines.leased.clear();
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_large_fleet_is_looked_at_part_by_part_and_each_of_it_in_its_turn() {
        let mut lines = Lines::default();
        let line = || Line { outbound: Outbound::new(), sent: Sent::default() };
        lines.open.extend((1..=4_500).map(|number| (key(number), line())));
        let mut parts = Vec::new();
        for _ in 0..4 {
            lines.go_round();
            parts.push(std::mem::take(&mut lines.due));
        }
        assert_eq!(parts.iter().map(BTreeSet::len).collect::<Vec<_>>(), [2_000, 2_000, 500, 2_000]);
        let round: BTreeSet<SessionKey> = parts[..3].iter().flatten().copied().collect();
        assert_eq!((round.len(), parts[0] == parts[3]), (4_500, true));
    }

    #[test]
    fn nodes_that_are_always_marked_have_their_turn_after_the_others() {
        let mut lines = Lines::default();
        lines.due.extend((1..=150).map(key));
        let (first, _) = lines.next().expect("somebody is marked");
        lines.due.extend(first.iter().copied());
        let (second, _) = lines.next().expect("somebody is marked");
        assert!((126..=150).map(key).all(|late| second.contains(&late)));
    }
}
