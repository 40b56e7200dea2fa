//! A door before a TCP server that a test can shut: what goes through is cut, what knocks is turned away.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

pub struct Gate {
    pub address: SocketAddr,
    is_shut: Arc<AtomicBool>,
    shut: Arc<Notify>,
    accepting: JoinHandle<()>,
}

impl Gate {
    #[expect(clippy::disallowed_methods, reason = "test-kit knows no service; the gate's own end aborts it")]
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (is_shut, shut) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (asked, cut) = (is_shut.clone(), shut.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                if asked.load(Ordering::SeqCst) {
                    continue;
                }
                let cut = cut.clone();
                tokio::spawn(async move {
                    let Ok(mut outside) = TcpStream::connect(server).await else { return };
                    // A door must not be what is slow: two small writes in a row would wait for each other's acknowledgement.
                    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        Self { address, is_shut, shut, accepting }
    }

    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
        self.shut.notify_waiters();
    }

    pub fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
