//! Between the services and PostgreSQL: can stall everything, refuse everybody, or cut a connection around a commit.
//!
//! It listens on a Unix socket, where nobody asks for encryption; the server may be behind either kind of socket.

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{
        TcpStream, UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// The body of the question whether the connection may be encrypted.
const SSL_REQUEST: [u8; 4] = 80_877_103u32.to_be_bytes();
const PORT: u16 = 5432;

fn socket_file(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

/// Where PostgreSQL listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    Unix(PathBuf),
    Tcp(String, u16),
}

/// Where a connection is cut around a commit: a COMMIT, or the end of a statement that makes a task and is a transaction by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// PostgreSQL never hears it: nothing is done.
    Before,
    /// PostgreSQL has done it, and whoever asked never hears so.
    After,
}

/// How it treats what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Manner {
    /// Nothing passes in either direction, as if every packet were dropped.
    pub stalls: bool,
    /// Every connection is cut, and no new one is served.
    pub refuses: bool,
    /// Cuts so many of a thousand commits, half of them before they are passed on, half after PostgreSQL has answered them.
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
    next_cut: Arc<Mutex<Option<Cut>>>,
    _serving: JoinSet<()>,
    /// Its directory, where it has one of its own.
    _home: Option<TempDir>,
}

#[derive(Clone)]
struct Shared {
    manner: watch::Receiver<Manner>,
    dice: Arc<Mutex<ChaCha8Rng>>,
    next_cut: Arc<Mutex<Option<Cut>>>,
    cuts: Arc<Cuts>,
}

impl PgProxy {
    /// Listens in `dir`, before the server whose socket is in the directory `to`.
    pub async fn start(dir: &Path, to: &Path) -> anyhow::Result<Self> {
        Self::before(dir, Server::Unix(to.join(socket_file(PORT)))).await
    }

    /// Listens in a directory of its own, which goes with it.
    pub async fn start_before(server: Server) -> anyhow::Result<Self> {
        // A short path: that of a socket has 107 bytes.
        let home = tempfile::Builder::new().prefix("pgx-").tempdir_in("/tmp")?;
        let mut proxy = Self::before(home.path(), server).await?;
        proxy._home = Some(home);
        Ok(proxy)
    }

    async fn before(dir: &Path, server: Server) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let listener = UnixListener::bind(dir.join(socket_file(PORT))).context("listening in PostgreSQL's stead")?;
        let (manner, receiver) = watch::channel(Manner::default());
        let (cuts, next_cut) = (Arc::<Cuts>::default(), Arc::<Mutex<Option<Cut>>>::default());
        let dice = Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(20)));
        let shared = Shared { manner: receiver, dice, next_cut: next_cut.clone(), cuts: cuts.clone() };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { continue };
                        let (server, shared) = (server.clone(), shared.clone());
                        lines.spawn(async move { drop(carry(near, &server, shared).await) });
                    }
                    Some(_) = lines.join_next() => {}
                }
            }
        });
        Ok(Self { dir: dir.to_owned(), cuts, manner, next_cut, _serving: serving, _home: None })
    }

    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Cuts the next commit of anybody, once.
    pub fn cut_next_commit(&self, cut: Cut) {
        *self.next_cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }
}

impl Shared {
    async fn pass(&mut self) {
        // The sender lives as long as the proxy.
        let _ = self.manner.wait_for(|manner| !manner.stalls).await;
    }

    async fn refused(mut self) {
        let _ = self.manner.wait_for(|manner| manner.refuses).await;
    }

    /// Whether and where this commit is.
    fn cut(&self) -> Option<Cut> {
        if let Some(cut) = self.next_cut.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Some(cut);
        }
        let per_mille = self.manner.borrow().cuts_per_mille;
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        (dice.random_range(0..1_000) < per_mille).then(|| if dice.random_bool(0.5) { Cut::Before } else { Cut::After })
    }
}

/// A commit was passed on, and its answer is not to be.
type Swallow = watch::Sender<bool>;

type FarIn = Box<dyn AsyncRead + Send + Unpin>;
type FarOut = Box<dyn AsyncWrite + Send + Unpin>;

impl Server {
    async fn connect(&self) -> std::io::Result<(FarIn, FarOut)> {
        Ok(match self {
            Self::Unix(socket) => {
                let (far_in, far_out) = UnixStream::connect(socket).await?.into_split();
                (Box::new(far_in), Box::new(far_out))
            }
            Self::Tcp(host, port) => {
                let (far_in, far_out) = TcpStream::connect((host.as_str(), *port)).await?.into_split();
                (Box::new(far_in), Box::new(far_out))
            }
        })
    }
}

async fn carry(near: UnixStream, server: &Server, mut shared: Shared) -> anyhow::Result<()> {
    if shared.manner.borrow().refuses {
        return Ok(());
    }
    shared.pass().await;
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = server.connect().await?;
    let refused = shared.clone().refused();
    let (swallow, swallowing) = watch::channel(false);
    // The first that ends, ends both: a connection that is half there would hide the cut.
    tokio::select! {
        ended = forth(near_in, far_out, shared.clone(), swallow) => ended,
        ended = back(far_in, near_out, shared, swallowing) => ended,
        () = refused => Ok(()),
    }
}

/// What a connection is about, as far as it shows where something is committed.
#[derive(Default)]
struct Talk {
    /// Prepared statements that make tasks.
    making: BTreeSet<Vec<u8>>,
    in_transaction: bool,
    /// One of them was executed since the last Sync.
    has_made: bool,
}

impl Talk {
    /// Whether something is committed by this message: a COMMIT, or the Sync after a statement that makes a task and is a transaction by itself. (Others
    /// that are one, as a heartbeat, say the same again in a moment.)
    fn commits(&mut self, message: &[u8]) -> bool {
        let body = &message[5..];
        match message[0] {
            b'Q' if body.starts_with(b"BEGIN") => {
                self.in_transaction = true;
                false
            }
            b'Q' if body.starts_with(b"COMMIT") => std::mem::take(&mut self.in_transaction),
            b'Q' if body.starts_with(b"ROLLBACK") && !body.starts_with(b"ROLLBACK TO") => {
                self.in_transaction = false;
                false
            }
            b'P' => {
                let mut texts = body.split(|byte| *byte == 0);
                let (name, statement) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
                let statement = String::from_utf8_lossy(statement);
                if statement.contains("INSERT INTO tasks") {
                    self.making.insert(name.to_vec());
                } else {
                    self.making.remove(name);
                }
                false
            }
            b'B' => {
                // The portal's name comes first.
                let name = body.split(|byte| *byte == 0).nth(1).unwrap_or_default();
                self.has_made |= self.making.contains(name);
                false
            }
            b'S' => std::mem::take(&mut self.has_made) && !self.in_transaction,
            _ => false,
        }
    }
}

/// Message by message, to find what commits.
async fn forth(mut from: OwnedReadHalf, mut to: FarOut, mut shared: Shared, swallow: Swallow) -> anyhow::Result<()> {
    // The first message has no letter, nor has the question for encryption before it.
    let mut has_started = false;
    let mut talk = Talk::default();
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
        let is_commit = has_started && talk.commits(&message);
        has_started = has_started || message[4..] != SSL_REQUEST;
        shared.pass().await;
        match is_commit.then(|| shared.cut()).flatten() {
            Some(Cut::Before) => {
                shared.cuts.before.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Some(Cut::After) => {
                shared.cuts.after.fetch_add(1, Ordering::Relaxed);
                swallow.send_replace(true);
            }
            None => {}
        }
        to.write_all(&message).await?;
    }
}

async fn back(
    mut from: FarIn,
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
