//! Wake-ups: a hint that something changed, never the change itself. A lost one costs latency, since every loop polls too.
//!
//! Inside one process they stay in memory. Where several processes share the database they also travel by NOTIFY, sent after the
//! commit on a connection of its own and coalesced: inside the transaction it would cost most of the throughput.

use crate::{StoreError, limits::in_time};
use domain::ids::{AttemptId, NodeId, TaskId};
use sqlx::{PgPool, postgres::PgListener};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CHANNEL: &str = "unidesk";
/// A line on which nothing is heard for so long is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// PostgreSQL takes payloads of under 8,000 bytes.
const TOPICS_PER_NOTIFY: usize = 150;

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
    fn encode(self) -> String {
        match self {
            Self::Room(id) => format!("r{}", id.as_uuid().simple()),
            Self::Freed(id) => format!("f{}", id.as_uuid().simple()),
            Self::Queue => "q".into(),
            Self::Access => "a".into(),
            Self::Leased(id) => format!("e{}", id.as_uuid().simple()),
            Self::Node(id) => format!("n{}", id.as_uuid().simple()),
            Self::Task(id) => format!("t{}", id.as_uuid().simple()),
            Self::Log(id) => format!("l{}", id.as_uuid().simple()),
        }
    }
    fn decode(text: &str) -> Option<Self> {
        let (kind, id) = text.split_at_checked(1)?;
        let uuid = || Uuid::try_parse(id).ok();
        Some(match kind {
            "r" => Self::Room(NodeId::from_uuid(uuid()?)),
            "f" => Self::Freed(AttemptId::from_uuid(uuid()?)),
            "q" => Self::Queue,
            "a" => Self::Access,
            "e" => Self::Leased(NodeId::from_uuid(uuid()?)),
            "n" => Self::Node(NodeId::from_uuid(uuid()?)),
            "t" => Self::Task(TaskId::from_uuid(uuid()?)),
            "l" => Self::Log(AttemptId::from_uuid(uuid()?)),
            _ => return None,
        })
    }
}

/// Publishes and hears wake-ups. Cheap to clone.
#[derive(Clone)]
pub struct Wakeups {
    local: broadcast::Sender<Topic>,
    /// To other processes, when there are any.
    outgoing: Option<mpsc::UnboundedSender<Topic>>,
    bridge: std::sync::Arc<std::sync::Mutex<Option<Bridge>>>,
}

struct Bridge {
    pool: PgPool,
    outgoing: mpsc::UnboundedReceiver<Topic>,
}

impl Wakeups {
    pub(crate) fn new(shared_pool: Option<PgPool>) -> Self {
        let (local, _) = broadcast::channel(4_096);
        let (sender, receiver) = mpsc::unbounded_channel();
        let outgoing = shared_pool.is_some().then_some(sender);
        let bridge = shared_pool.map(|pool| Bridge { pool, outgoing: receiver });
        Self { local, outgoing, bridge: std::sync::Arc::new(std::sync::Mutex::new(bridge)) }
    }

    pub fn publish(&self, topics: impl IntoIterator<Item = Topic>) {
        for topic in topics {
            // Nobody listening is fine.
            let _ = self.local.send(topic);
            if let Some(outgoing) = &self.outgoing {
                let _ = outgoing.send(topic);
            }
        }
    }

    /// Hears every topic from now on. A slow listener gets `Lagged`: then anything may have changed.
    pub fn subscribe(&self) -> broadcast::Receiver<Topic> {
        self.local.subscribe()
    }

    /// Carries wake-ups to and from other processes until `stop`. Returns at once where nothing is shared; to be run once.
    pub async fn run_bridge(&self, stop: CancellationToken) {
        let bridge = self.bridge.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(Bridge { pool, outgoing }) = bridge else { return };
        // Notifications come back to their sender too: it has heard them already.
        let sender = Uuid::new_v4().simple().to_string();
        tokio::select! {
            () = stop.cancelled() => {}
            () = send_notifications(&pool, outgoing, &sender) => {}
            () = self.hear_notifications(&pool, &sender) => {}
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
        let _ = self.local.send(Topic::Queue);
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
                for topic in topics.split(',').filter_map(Topic::decode) {
                    let _ = self.local.send(topic);
                }
            }
        }
    }
}

async fn send_notifications(pool: &PgPool, mut outgoing: mpsc::UnboundedReceiver<Topic>, sender: &str) {
    let mut waiting = Vec::new();
    while outgoing.recv_many(&mut waiting, 1_024).await > 0 {
        let topics: BTreeSet<Topic> = waiting.drain(..).collect();
        let topics: Vec<String> = topics.into_iter().map(Topic::encode).collect();
        for chunk in topics.chunks(TOPICS_PER_NOTIFY) {
            let payload = format!("{sender}:{}", chunk.join(","));
            let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload);
            if let Err(error) = in_time(async { Ok(notify.execute(pool).await?) }).await {
                tracing::debug!(%error, "a wake-up was not sent; polling makes up for it");
            }
        }
    }
}
