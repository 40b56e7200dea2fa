//! Between the services and PostgreSQL: can stall everything, refuse everybody, or cut a connection around a COMMIT.

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
};

/// The body of the question whether the connection may be encrypted.
const SSL_REQUEST: [u8; 4] = 80_877_103u32.to_be_bytes();
const SOCKET: &str = ".s.PGSQL.5432";

/// How it treats what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Manner {
    /// Nothing passes in either direction, as if every packet were dropped.
    pub stalls: bool,
    /// Cuts so many of a thousand COMMITs, half of them before they are passed on, half after PostgreSQL has answered them.
    pub cuts_per_mille: u32,
}

#[derive(Default)]
pub struct Cuts {
    pub before: AtomicU64,
    pub after: AtomicU64,
}

pub struct PgProxy {
    /// A service gives this directory as its host.
    pub dir: PathBuf,
    pub cuts: Arc<Cuts>,
    manner: watch::Sender<Manner>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    manner: watch::Receiver<Manner>,
    dice: Arc<Mutex<ChaCha8Rng>>,
    cuts: Arc<Cuts>,
}

impl PgProxy {
    pub async fn start(dir: &Path, to: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let listener = UnixListener::bind(dir.join(SOCKET)).context("listening in PostgreSQL's stead")?;
        let (manner, receiver) = watch::channel(Manner::default());
        let cuts = Arc::<Cuts>::default();
        let shared =
            Shared { manner: receiver, dice: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(20))), cuts: cuts.clone() };
        let to = to.join(SOCKET);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { continue };
                        let (to, shared) = (to.clone(), shared.clone());
                        lines.spawn(async move { drop(carry(near, &to, shared).await) });
                    }
                    Some(_) = lines.join_next() => {}
                }
            }
        });
        Ok(Self { dir: dir.to_owned(), cuts, manner, _serving: serving })
    }

    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

impl Shared {
    async fn pass(&mut self) {
        // The sender lives as long as the proxy.
        let _ = self.manner.wait_for(|manner| !manner.stalls).await;
    }

    /// Whether this COMMIT is cut, and whether before it is passed on.
    fn cut(&self) -> Option<bool> {
        let per_mille = self.manner.borrow().cuts_per_mille;
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        (dice.random_range(0..1_000) < per_mille).then(|| dice.random_bool(0.5))
    }
}

/// A COMMIT was passed on, and its answer is not to be.
type Swallow = watch::Sender<bool>;

async fn carry(near: UnixStream, to: &Path, mut shared: Shared) -> anyhow::Result<()> {
    shared.pass().await;
    let far = UnixStream::connect(to).await?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (swallow, swallowing) = watch::channel(false);
    // The first that ends, ends both: a connection that is half there would hide the cut.
    tokio::select! {
        ended = forth(near_in, far_out, shared.clone(), swallow) => ended,
        ended = back(far_in, near_out, shared, swallowing) => ended,
    }
}

/// Message by message, to find the COMMITs.
async fn forth(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut shared: Shared,
    swallow: Swallow,
) -> anyhow::Result<()> {
    // The first message has no letter, nor has the question for encryption before it.
    let mut has_started = false;
    loop {
        let mut message = Vec::new();
        if has_started {
            message.push(from.read_u8().await?);
        }
        let length = from.read_u32().await?;
        let head = message.len();
        message.extend_from_slice(&length.to_be_bytes());
        message.resize(head + length as usize, 0);
        from.read_exact(&mut message[head + 4..]).await?;
        let is_commit = has_started && message[0] == b'Q' && message[5..].starts_with(b"COMMIT");
        has_started = has_started || message[4..] != SSL_REQUEST;
        shared.pass().await;
        match is_commit.then(|| shared.cut()).flatten() {
            Some(true) => {
                shared.cuts.before.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Some(false) => {
                shared.cuts.after.fetch_add(1, Ordering::Relaxed);
                swallow.send_replace(true);
            }
            None => {}
        }
        to.write_all(&message).await?;
    }
}

async fn back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut shared: Shared,
    swallow: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 || *swallow.borrow() {
            return Ok(());
        }
        shared.pass().await;
        to.write_all(&buffer[..read]).await?;
    }
}
