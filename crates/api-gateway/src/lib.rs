//! The only public listener of the platform: REST for people and programs, sockets for nodes.
//!
//! Owns: who is asking, how a request is read and refused, what an answer looks like, streams that survive a cut.
//! Must not know: how a task is placed, what SQL is. Begin at [`router()`]; then `tasks/submit.rs`, the way of a request, and
//! `streaming.rs`, the way of everything that is followed.

mod audit;
mod auth;
mod checks;
mod cluster;
mod echo;
mod events;
mod failed;
mod figures;
mod fleet;
mod middleware;
pub mod providers;
mod router;
mod state;
mod streaming;
mod tasks;
mod why;

pub use router::router;
pub use state::AppState;

use anyhow::Context as _;
use axum::Router;
use service_kit::Service;
use std::{net::SocketAddr, sync::Arc};
use store::{LogArchive, Store};
use tokio::net::TcpListener;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Address and port of the public listener.
    #[arg(long, env = "UNIDESK_LISTEN", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,
}

impl Config {
    /// Binds the listener that this config names.
    pub async fn bind(&self) -> anyhow::Result<TcpListener> {
        TcpListener::bind(self.listen).await.with_context(|| format!("listening on {}", self.listen))
    }
}

/// What other services bring: routes, with their whole paths, and the archive of logs.
#[derive(Default)]
pub struct Extra {
    /// They stand behind the same authentication, and find the `Principal` and the `Origin` in the request's extensions.
    pub behind: Router,
    /// For nodes, by their tokens and nothing else: they find the `NodeId` and the `Origin` in the request's extensions.
    pub for_nodes: Router,
    /// They authenticate by themselves, and have none of our limits.
    pub beside: Router,
    /// Logs that have left the database are read from here. None: they can't be.
    pub log_archive: Option<Arc<dyn LogArchive>>,
}

impl From<Router> for Extra {
    fn from(behind: Router) -> Self {
        Self { behind, ..Self::default() }
    }
}

/// Serves on `listener` until the service stops; returns as soon as it does serve.
pub async fn run(
    service: &Service,
    store: Store,
    listener: TcpListener,
    extra: impl Into<Extra>,
) -> anyhow::Result<()> {
    let extra = extra.into();
    let state = AppState::new(service.clone(), store.clone()).await.context("reading the keys that sign tokens")?;
    let state = state.with_archive(extra.log_archive);
    let (bridge, stop) = (store.clone(), service.stopping().clone());
    service.spawn("wake-ups", async move { bridge.wakeups().run_bridge(stop).await });
    service
        .spawn_until_stopped("revocations", state.access.clone().forget_what_is_revoked(store.wakeups().subscribe()));
    service_kit::serve::serve(service, listener, router(state, extra.behind, extra.for_nodes).merge(extra.beside));
    Ok(())
}
