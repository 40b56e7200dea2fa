//! Wake-ups: a hint that something changed, never the change itself. A lost one costs latency, since every loop polls too.
//!
//! Inside one process they stay in memory; what one operation tells is one piece there, however many topics it has. Where several
//! processes share the database they also travel by NOTIFY, sent after the commit on a connection of its own: inside the
//! transactions it would cost most of the throughput, since those that notify commit one after the other. One that comes alone is sent at
//! once; under load one statement carries all that came within a moment. What is done for a lone task carries its hint itself
//! ([`Wakeups::to_be_carried`]): whoever goes on with it need not wait for another statement.

use crate::{StoreError, limits::in_time};
use domain::ids::{AttemptId, NodeId, TaskId};
use sqlx::{PgPool, postgres::PgListener};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const CHANNEL: &str = "unidesk";
/// A line on which nothing is heard for so long is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// PostgreSQL takes payloads of under 8,000 bytes.
const PAYLOAD_BYTES: usize = 7_900;
/// From one statement that notifies to the next, on average: what is told meanwhile travels in the next one. After a pause so many
/// follow each other without waiting, since what happens to a lone task is told in a few of them.
const NOTIFIED_EVERY: Duration = Duration::from_millis(5);
const AT_ONCE: u32 = 8;
/// Pieces that a slow listener may be behind. Each is what one operation told, so that even tens of thousands of changes a second
/// leave it seconds.
const PIECES_KEPT: usize = 4_096;
/// An operation that changes more tells it in several pieces.
const TOPICS_PER_PIECE: usize = 64;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// What a node offers, or whether it gets work.
    Room(NodeId),
    /// What an attempt held is free.
    Freed(AttemptId),
    /// The queue or the free capacity.
    Queue,
    /// Something was leased to this node.
    Leased(NodeId),
    /// There is something to tell this node, whatever it is.
    Node(NodeId),
    /// A task's state.
    Task(TaskId),
    /// An attempt's log.
    Log(AttemptId),
    /// Tokens or keys were revoked.
    Access,
}

impl Topic {
    /// What kind it is, and of what.
    fn parts(self) -> (char, Option<Uuid>) {
        match self {
            Self::Room(id) => ('r', Some(id.as_uuid())),
            Self::Freed(id) => ('f', Some(id.as_uuid())),
            Self::Queue => ('q', None),
            Self::Access => ('a', None),
            Self::Leased(id) => ('e', Some(id.as_uuid())),
            Self::Node(id) => ('n', Some(id.as_uuid())),
            Self::Task(id) => ('t', Some(id.as_uuid())),
            Self::Log(id) => ('l', Some(id.as_uuid())),
        }
    }
    fn of(kind: char, id: Option<Uuid>) -> Option<Self> {
        Some(match kind {
            'r' => Self::Room(NodeId::from_uuid(id?)),
            'f' => Self::Freed(AttemptId::from_uuid(id?)),
            'q' => Self::Queue,
            'a' => Self::Access,
            'e' => Self::Leased(NodeId::from_uuid(id?)),
            'n' => Self::Node(NodeId::from_uuid(id?)),
            't' => Self::Task(TaskId::from_uuid(id?)),
            'l' => Self::Log(AttemptId::from_uuid(id?)),
            _ => return None,
        })
    }
    fn decode(text: &str) -> Option<Self> {
        let (kind, id) = text.split_at_checked(1)?;
        Self::of(kind.chars().next()?, Uuid::try_parse(id).ok())
    }
}

/// As few payloads as hold these topics, each after its sender.
fn payloads(sender: &str, topics: &BTreeSet<Topic>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for topic in topics {
        let (kind, id) = topic.parts();
        let id = id.map(|id| id.simple().to_string()).unwrap_or_default();
        let has_room = |payload: &&mut String| payload.len() + 2 + id.len() <= PAYLOAD_BYTES;
        match payloads.last_mut().filter(has_room) {
            Some(payload) => payload.extend([",", kind.encode_utf8(&mut [0; 4]), &id]),
            None => payloads.push(format!("{sender}:{kind}{id}")),
        }
    }
    payloads
}

/// Publishes and hears wake-ups. Cheap to clone.
#[derive(Clone)]
pub struct Wakeups {
    local: broadcast::Sender<Arc<[Topic]>>,
    /// To other processes, when there are any.
    outgoing: Option<mpsc::UnboundedSender<Arc<[Topic]>>>,
    bridge: std::sync::Arc<std::sync::Mutex<Option<Bridge>>>,
    /// Who tells. Notifications come back to their sender too: it has heard them already.
    sender: Arc<str>,
}

/// What one listener hears, topic by topic.
#[derive(Debug)]
pub struct Subscription {
    pieces: broadcast::Receiver<Arc<[Topic]>>,
    piece: Arc<[Topic]>,
    at: usize,
}

impl Subscription {
    /// The next topic. Safe to give up at any point.
    pub async fn recv(&mut self) -> Result<Topic, RecvError> {
        loop {
            if let Some(topic) = self.of_this_piece() {
                return Ok(topic);
            }
            (self.piece, self.at) = (self.pieces.recv().await?, 0);
        }
    }

    /// Passes over all that was told until now.
    pub fn skip(&mut self) {
        (self.piece, self.at) = (Arc::new([]), 0);
        while !matches!(self.pieces.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
    }

    fn of_this_piece(&mut self) -> Option<Topic> {
        let topic = self.piece.get(self.at).copied()?;
        self.at += 1;
        Some(topic)
    }
}

struct Bridge {
    pool: PgPool,
    outgoing: mpsc::UnboundedReceiver<Arc<[Topic]>>,
}

impl Wakeups {
    pub(crate) fn new(shared_pool: Option<PgPool>) -> Self {
        let (local, _) = broadcast::channel(PIECES_KEPT);
        let (sender, receiver) = mpsc::unbounded_channel();
        let outgoing = shared_pool.is_some().then_some(sender);
        let bridge = shared_pool.map(|pool| Bridge { pool, outgoing: receiver });
        let bridge = std::sync::Arc::new(std::sync::Mutex::new(bridge));
        Self { local, outgoing, bridge, sender: Uuid::new_v4().simple().to_string().into() }
    }

    /// One operation tells what it changed.
    pub fn publish(&self, topics: impl IntoIterator<Item = Topic>) {
        let topics: Vec<Topic> = topics.into_iter().collect();
        for piece in topics.chunks(TOPICS_PER_PIECE) {
            let piece: Arc<[Topic]> = piece.into();
            if let Some(outgoing) = &self.outgoing {
                let _ = outgoing.send(piece.clone());
            }
            self.tell(piece);
        }
    }

    /// What an operation on a lone task has to notify [`CHANNEL`] of by its own last statement, so that other processes hear of it with
    /// the commit; None: there are none. Once it is committed, [`Wakeups::was_carried`] tells this process.
    pub(crate) fn to_be_carried(&self, topics: &[Topic]) -> Option<String> {
        self.outgoing.as_ref()?;
        // A lone task's topics are few: one payload.
        payloads(&self.sender, &topics.iter().copied().collect()).pop()
    }

    pub(crate) fn was_carried(&self, topics: &[Topic]) {
        self.tell(topics.into());
    }

    /// To this process only. Nobody listening is fine.
    fn tell(&self, topics: Arc<[Topic]>) {
        let _ = self.local.send(topics);
    }

    /// Hears every topic from now on. A slow listener gets `Lagged`: then anything may have changed.
    pub fn subscribe(&self) -> Subscription {
        Subscription { pieces: self.local.subscribe(), piece: Arc::new([]), at: 0 }
    }

    /// Carries wake-ups to and from other processes until `stop`. Returns at once where nothing is shared; to be run once.
    pub async fn run_bridge(&self, stop: CancellationToken) {
        let bridge = self.bridge.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(Bridge { pool, outgoing }) = bridge else { return };
        tokio::select! {
            () = stop.cancelled() => {}
            () = send_notifications(&pool, outgoing, &self.sender) => {}
            () = self.hear_notifications(&pool, &self.sender) => {}
        }
    }

    async fn hear_notifications(&self, pool: &PgPool, own: &str) {
        loop {
            match self.listen_until_trouble(pool, own).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "wake-ups from other processes are not heard; polling goes on"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn listen_until_trouble(&self, pool: &PgPool, own: &str) -> Result<(), StoreError> {
        let mut listener = in_time(async { Ok(PgListener::connect_with(pool).await?) }).await?;
        in_time(async { Ok(listener.listen(CHANNEL).await?) }).await?;
        // What was notified while nobody listened is lost: the queue at least is looked at.
        self.tell([Topic::Queue].into());
        loop {
            let heard = match tokio::time::timeout(ASK_EVERY, listener.try_recv()).await {
                Ok(heard) => heard?,
                // A line that is dead and says nothing is noticed by asking.
                Err(_) => {
                    in_time(async { Ok(sqlx::query("SELECT 1").execute(&mut listener).await?) }).await?;
                    continue;
                }
            };
            let Some(notification) = heard else { return Ok(()) };
            let Some((sender, topics)) = notification.payload().split_once(':') else { continue };
            if sender != own {
                self.tell(topics.split(',').filter_map(Topic::decode).collect());
            }
        }
    }
}

async fn send_notifications(pool: &PgPool, mut outgoing: mpsc::UnboundedReceiver<Arc<[Topic]>>, sender: &str) {
    let mut waiting = Vec::new();
    let mut pace = Pace { due: Instant::now() };
    while outgoing.recv_many(&mut waiting, PIECES_KEPT).await > 0 {
        if let Some(until) = pace.waits_until(Instant::now()) {
            tokio::time::sleep_until(until).await;
            while let Ok(piece) = outgoing.try_recv() {
                waiting.push(piece);
            }
        }
        pace.sends(Instant::now());
        let topics: BTreeSet<Topic> = waiting.drain(..).flat_map(|piece: Arc<[Topic]>| piece.to_vec()).collect();
        let notify = sqlx::query("SELECT pg_notify($1, payload) FROM UNNEST($2::text[]) AS payload");
        let notify = notify.bind(CHANNEL).bind(payloads(sender, &topics));
        if let Err(error) = in_time(async { Ok(notify.execute(pool).await?) }).await {
            tracing::debug!(%error, "a wake-up was not sent; polling makes up for it");
        }
    }
}

/// How fast statements may follow each other.
struct Pace {
    /// When the next one would be due if all came evenly.
    due: Instant,
}

impl Pace {
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        (self.due > now + NOTIFIED_EVERY * AT_ONCE).then(|| self.due - NOTIFIED_EVERY * AT_ONCE)
    }
    fn sends(&mut self, now: Instant) {
        self.due = self.due.max(now) + NOTIFIED_EVERY;
    }
}

#[cfg(test)]
mod tests;
