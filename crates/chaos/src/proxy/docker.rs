//! Between an agent and its Docker daemon: lets everything through but the making of containers, as a daemon with a broken storage does.

use anyhow::Context as _;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

const REFUSAL: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 30\r\nconnection: close\r\n\r\n{\"message\":\"no space for now\"}";

pub struct DockerProxy {
    pub path: PathBuf,
    pub refused: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

impl DockerProxy {
    pub fn start(path: &Path, to: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).context("listening in Docker's stead")?;
        let (refused, fails) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(true)));
        let (counting, failing, to) = (refused.clone(), fails.clone(), to.to_owned());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let (counting, failing, to) = (counting.clone(), failing.clone(), to.clone());
                lines.spawn(async move { drop(carry(near, &to, &counting, &failing).await) });
            }
        });
        Ok(Self { path: path.to_owned(), refused, fails, _serving: serving })
    }

    /// Makes containers again.
    pub fn mend(&self) {
        self.fails.store(false, Ordering::Relaxed);
    }
}

async fn carry(mut near: UnixStream, to: &Path, refused: &AtomicU64, fails: &AtomicBool) -> anyhow::Result<()> {
    let mut far = UnixStream::connect(to).await?;
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = near.read(&mut request) => {
                let read = read?;
                // A client writes a request's head at once, at the beginning of what it writes.
                let head = request[..read].split(|byte| *byte == b'\r').next().unwrap_or_default();
                let head = String::from_utf8_lossy(head);
                if fails.load(Ordering::Relaxed) && head.starts_with("POST ") && head.contains("/containers/create") {
                    refused.fetch_add(1, Ordering::Relaxed);
                    near.write_all(REFUSAL.as_bytes()).await?;
                    return Ok(());
                }
                if read == 0 {
                    return Ok(());
                }
                far.write_all(&request[..read]).await?;
            }
            read = far.read(&mut answer) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                near.write_all(&answer[..read]).await?;
            }
        }
    }
}
