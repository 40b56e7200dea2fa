//! Nodes and who may come in: tokens of nodes, keys of people and programs, drains, and the sweep that notices silence.
//!
//! Owns: the routes under `/nodes`, `/node-tokens` and `/api-keys`, the offline sweep, and what expires. Must not know: sockets,
//! how a task is placed. Begin at [`run`] for the loops, at [`routes()`] for the rest.

mod figures;
mod issue;
mod local;
mod loops;
mod routes;
mod sweeper;

pub use issue::{Issued, create_node_token};
pub use local::{create_admin_key, is_valid_api_key, is_valid_node_token, replace_node};
pub use routes::routes;

use chrono::TimeDelta;
use service_kit::Service;
use store::Store;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Seconds of silence after which a node is offline and its tasks may be placed again. For the whole platform: the node-registry
    /// that was started last sets it.
    #[arg(long, env = "UNIDESK_OFFLINE_AFTER", default_value_t = 90, value_parser = clap::value_parser!(i32).range(10..=86_400))]
    pub offline_after_s: i32,
    /// Delete tasks that ended so long ago, with their history and logs, as 30d or 12h. Without it they are kept for good.
    #[arg(long, env = "UNIDESK_TASK_RETENTION", value_parser = parse_retention)]
    pub task_retention: Option<TimeDelta>,
    /// Nodes that /metrics has figures of, by name; of a larger fleet the first by name. Of all nodes it tells how many are in which state.
    #[arg(long, env = "UNIDESK_METRICS_NODES", default_value_t = 1_000, value_name = "N")]
    pub metrics_nodes: usize,
    /// What the database may grow to before an alert is due, as 10GB or 500GiB. Nothing else is done about it.
    #[arg(long, env = "UNIDESK_DATABASE_LIMIT", default_value = "10GB", value_parser = parse_size, value_name = "SIZE")]
    pub database_limit: u64,
}

fn parse_size(text: &str) -> Result<u64, String> {
    domain::quantity::parse_bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| "a size, as 10GB or 500GiB".to_owned())
}

fn parse_retention(text: &str) -> Result<TimeDelta, String> {
    let ms = domain::quantity::parse_duration_ms(text).filter(|ms| *ms >= 1_000).and_then(|ms| i64::try_from(ms).ok());
    ms.and_then(TimeDelta::try_milliseconds).ok_or_else(|| "a time of at least 1s, as 30d or 12h".to_owned())
}

impl Default for Config {
    fn default() -> Self {
        Self { offline_after_s: 90, task_retention: None, metrics_nodes: 1_000, database_limit: 10_000_000_000 }
    }
}

impl Config {
    pub fn offline_after(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.offline_after_s.unsigned_abs().into())
    }
}

/// Starts the loops; they run until the service stops. Any number of replicas may run: one of them sweeps.
pub fn run(service: &Service, config: &Config, store: Store) {
    let (bridge, stop) = (store.clone(), service.stopping().clone());
    service.spawn("wake-ups", async move { bridge.wakeups().run_bridge(stop).await });
    loops::start(service, config, store);
}
