//! The accept loop. Our own, since axum's sets no time limit on a request's head: a client that sends one byte a minute would
//! hold a connection for ever.

use crate::Service;
use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;

/// Serves `router` on `listener` until the service stops. Upgraded sockets are the router's own tasks: they watch the service.
pub fn serve(service: &Service, listener: TcpListener, router: Router) {
    let shared = service.clone();
    service.spawn("accept", async move {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shared.stopping().cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = serve_connection(stream, peer, router.clone(), shared.clone());
                    shared.spawn("connection", async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

/// Cuts the connection that a request came on. For streams whose reader takes nothing: a body that ends is not enough, since
/// nobody reads that it did.
#[derive(Clone)]
pub struct HangUp(CancellationToken);

impl HangUp {
    pub fn now(&self) {
        self.0.cancel();
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router, service: Service) {
    let _ = stream.set_nodelay(true);
    // Whoever has gone without a word is noticed after 45 s of unacknowledged bytes, not after a quarter of an hour.
    let _ = setsockopt(&stream, TcpUserTimeout, &45_000);
    let hang_up = HangUp(CancellationToken::new());
    let hung_up = hang_up.0.clone();
    let app = router.map_request(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(hang_up.clone());
        request
    });
    let mut builder = auto::Builder::new(hyper_util::rt::TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let stopping = service.stopping().cancelled();
    tokio::pin!(stopping);
    let mut asked = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, %peer, "a connection ended");
                }
                return;
            }
            () = hung_up.cancelled() => return,
            () = stopping.as_mut(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
