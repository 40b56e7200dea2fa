//! Writes to stdout and stderr in order, on a thread of its own, so that a reader who has stopped reading holds up nothing but
//! the data: signals are still answered.

use bytes::Bytes;
use std::io::Write;
use tokio::sync::{mpsc, oneshot};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Out(Bytes),
    Err(Bytes),
}

pub struct Sink {
    sender: mpsc::Sender<Chunk>,
    written: oneshot::Receiver<()>,
}

/// The reader of stdout is gone.
#[derive(Debug)]
pub struct Closed;

impl Sink {
    pub fn start() -> Self {
        let (sender, mut chunks) = mpsc::channel::<Chunk>(16);
        let (done, written) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some(chunk) = chunks.blocking_recv() {
                let result = match &chunk {
                    Chunk::Out(bytes) => {
                        let mut stdout = std::io::stdout().lock();
                        stdout.write_all(bytes).and_then(|()| stdout.flush())
                    }
                    // Without a reader of stderr the data still counts.
                    Chunk::Err(bytes) => std::io::stderr().lock().write_all(bytes).or(Ok(())),
                };
                if result.is_err() {
                    return;
                }
            }
            let _ = done.send(());
        });
        Self { sender, written }
    }

    /// Waits for room. Safe to drop: nothing is sent before it returns.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, Chunk>, Closed> {
        self.sender.reserve().await.map_err(|_| Closed)
    }

    /// Returns once the reader of stdout is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    pub async fn send(&self, chunk: Chunk) -> Result<(), Closed> {
        self.sender.send(chunk).await.map_err(|_| Closed)
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> Result<(), Closed> {
        drop(self.sender);
        self.written.await.map_err(|_| Closed)
    }
}
