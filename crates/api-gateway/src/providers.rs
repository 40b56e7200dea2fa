//! Sessions with nodes over WebSocket.
//!
//! Owns: the door for agents, and what a session carries. Knows `protocol` and `store` only: nothing of REST, but that a node's token, or a
//! credential for one attempt, opens some routes of others.

mod acks;
mod admission;
mod beats;
mod gate;
mod handshake;
mod outbound;
mod recorder;
mod session;
mod socket;
mod teller;

use crate::AppState;
use axum::Router;
use service_kit::Service;
use std::time::Duration;
use store::Store;

/// How sessions behave. The defaults are the product's; tests shrink them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub heartbeat: Duration,
    /// Wake-ups are hints: what a node must be told is also looked for this often.
    pub outbox_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(protocol::HEARTBEAT_MS), outbox_every: Duration::from_secs(2) }
    }
}

/// The route where agents connect, and others that a node's token opens, or a credential for one attempt.
pub(crate) fn router(state: &AppState, for_nodes: Router) -> Router {
    let settings = Settings { heartbeat: state.store.heartbeat_every(), ..Settings::default() };
    let door = socket::Door::new(state.service.clone(), state.store.clone(), settings);
    let for_nodes = gate::router(gate::Gate { door: door.clone(), access: state.access.clone() }, for_nodes);
    socket::router(door).merge(for_nodes)
}

/// The route where agents connect alone, with other times.
pub fn router_with(service: &Service, store: &Store, settings: Settings) -> Router {
    socket::router(socket::Door::new(service.clone(), store.clone(), settings))
}
