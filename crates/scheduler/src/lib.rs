//! Decides which node runs which task.
//!
//! Owns: the leadership, the placement loop. Must not know: HTTP, nodes' sockets, Docker. The decision itself is
//! `domain::placement::Fleet`, which is pure; this crate loads, calls and commits.

mod figures;
mod placement_loop;
mod queue;
mod turns;

use clap::Args;
use domain::placement::Strategy;
use placement_loop::{Hints, Placer};
use service_kit::Service;
use std::{sync::Arc, time::Duration};
use store::{Store, Topic};
use tokio::sync::{Notify, broadcast::error::RecvError};

/// How the scheduler works.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// How a node is chosen among those that fit: least-loaded, round-robin, weighted, random, pack
    #[arg(long, env = "UNIDESK_STRATEGY", default_value = "least-loaded", value_parser = parse_strategy)]
    pub strategy: Strategy,
    /// Milliseconds between two looks at the queue when nothing hints at work
    #[arg(long, env = "UNIDESK_PLACEMENT_EVERY_MS", default_value_t = 1_000)]
    pub placement_every_ms: u64,
    /// Seconds after which a waiting task counts as old: one of every eight placements goes to the oldest of those, whatever its
    /// priority. 0: age never comes before priority
    #[arg(long, env = "UNIDESK_PRIORITY_AGEING", default_value_t = 3_600)]
    pub priority_ageing: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { strategy: Strategy::LeastLoaded, placement_every_ms: 1_000, priority_ageing: 3_600 }
    }
}

fn parse_strategy(word: &str) -> Result<Strategy, String> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|_| "a strategy is least-loaded, round-robin, weighted, random or pack".to_owned())
}

/// Runs the scheduler until `service` stops. Any number may run: one leads, the others stand by and take over within 5 s.
pub fn run(service: &Service, config: &Config, store: Store) {
    let (bridge, stop) = (store.clone(), service.stopping().clone());
    service.spawn("wake-ups", async move { bridge.wakeups().run_bridge(stop).await });
    let hint = Arc::new(Notify::new());
    let hints = Hints::default();
    let (listener, ring, heard) = (store.clone(), hint.clone(), hints.clone());
    service.spawn_until_stopped("queue hints", async move {
        let mut topics = listener.wakeups().subscribe();
        loop {
            match topics.recv().await {
                Ok(Topic::Queue) => {}
                Ok(Topic::Room(node)) => heard.hear(|unread| _ = unread.nodes.insert(node)),
                Ok(Topic::Freed(attempt)) => heard.hear(|unread| _ = unread.freed.insert(attempt)),
                Err(RecvError::Lagged(_)) => heard.hear(|unread| unread.everything = true),
                Ok(Topic::Leased(_) | Topic::Node(_) | Topic::Task(_) | Topic::Log(_) | Topic::Access) => continue,
                Err(RecvError::Closed) => return,
            }
            ring.notify_one();
        }
    });
    let placer = Arc::new(tokio::sync::Mutex::new(Placer::new(store.clone(), config, hints)));
    let (renewing, resigning) = (placer.clone(), placer.clone());
    // Of its own, so that an idle leader stays one. Twice a second: a standby goes on within 5 s of a leader's last word, and 4 of
    // them are the leader's.
    service.repeat("leadership", Duration::from_millis(500), Arc::new(Notify::new()), move || {
        let placer = renewing.clone();
        async move { placer.lock().await.renew().await }
    });
    service.repeat("placement", Duration::from_millis(config.placement_every_ms), hint, move || {
        let placer = placer.clone();
        async move { placer.lock().await.pass().await }
    });
    let stopping = service.stopping().clone();
    service.spawn("resign", async move {
        stopping.cancelled().await;
        resigning.lock().await.resign().await;
    });
}
