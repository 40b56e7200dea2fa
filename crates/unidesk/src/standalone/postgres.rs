//! A private PostgreSQL: found on this machine, run as a supervised child, reached through a Unix socket only.
//!
//! Whoever connects is known by the kernel (`peer`), so there is no password to keep and none to steal. Root can't run PostgreSQL,
//! so as root it runs as user `postgres`. The child dies with this process, also when that is killed: the kernel sends it SIGINT.

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

const USER: &str = "unidesk";
/// A crashed server replays its log before it answers.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(4);
/// A Unix socket's path has at most 107 bytes.
const MAX_SOCKET_DIR: usize = 107 - "/.s.PGSQL.5432".len();

pub struct Postgres {
    socket_dir: PathBuf,
    pid: Arc<AtomicI32>,
    stopping: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

/// Where the server's files lie and who runs it.
#[derive(Clone)]
struct Layout {
    bin: PathBuf,
    data: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    /// Set as root: whom to become.
    user: Option<User>,
}

impl Postgres {
    /// Starts the server on `root`, made at the first call. Waits until it answers.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let layout = Layout::prepare(root)?;
        if !layout.data.join("PG_VERSION").exists() {
            let layout = layout.clone();
            tokio::task::spawn_blocking(move || layout.init()).await??;
        }
        let leaving = layout.clone();
        tokio::task::spawn_blocking(move || end_leftover(&leaving.data)).await??;
        let (ended_sender, ended) = watch::channel(false);
        let postgres = Self {
            socket_dir: layout.socket_dir.clone(),
            pid: Arc::new(AtomicI32::new(0)),
            stopping: Arc::new(AtomicBool::new(false)),
            ended,
        };
        postgres.supervise(layout.clone(), ended_sender)?;
        postgres.wait_until_it_answers(&layout).await?;
        Ok(postgres)
    }

    pub fn url(&self) -> String {
        self.url_of(USER)
    }

    fn url_of(&self, database: &str) -> String {
        let host: String =
            self.socket_dir
                .display()
                .to_string()
                .bytes()
                .map(|b| {
                    if b.is_ascii_alphanumeric() || b == b'/' { char::from(b).to_string() } else { format!("%{b:02X}") }
                })
                .collect();
        format!("postgres://{USER}@localhost/{database}?host={host}")
    }

    /// Runs the child on a thread of its own for as long as the platform lives: the kernel's promise to end the child with its parent
    /// is tied to the thread that started it. A server that ends by itself is started again.
    fn supervise(&self, layout: Layout, ended: watch::Sender<bool>) -> anyhow::Result<()> {
        let (pid, stopping) = (self.pid.clone(), self.stopping.clone());
        std::thread::Builder::new().name("postgres".into()).spawn(move || {
            while !stopping.load(Ordering::SeqCst) {
                let outcome = layout.spawn().and_then(|mut child| {
                    pid.store(child.id() as i32, Ordering::SeqCst);
                    child.wait()
                });
                pid.store(0, Ordering::SeqCst);
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let how =
                    outcome.map(|status: ExitStatus| status.to_string()).unwrap_or_else(|error| error.to_string());
                tracing::error!(%how, log = %layout.log.display(), "PostgreSQL ended by itself; it is started again");
                std::thread::sleep(Duration::from_secs(1));
            }
            ended.send_replace(true);
        })?;
        Ok(())
    }

    async fn wait_until_it_answers(&self, layout: &Layout) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match store::create_database(&self.url_of("postgres"), USER).await {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > START_WITHIN => {
                    self.stopping.store(true, Ordering::SeqCst);
                    return Err(error).with_context(|| {
                        format!(
                            "PostgreSQL did not answer within {} s; its log is {}",
                            START_WITHIN.as_secs(),
                            layout.log.display()
                        )
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Ends the server: connections are closed, what was committed is on disk. At most a few seconds; then without a checkpoint, which the
    /// next start makes up for.
    pub async fn stop(mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            let pid = self.pid.load(Ordering::SeqCst);
            if pid != 0 {
                let _ = kill(Pid::from_raw(pid), signal);
            }
            if tokio::time::timeout(STOP_WITHIN, self.ended.wait_for(|ended| *ended)).await.is_ok() {
                return;
            }
        }
    }
}

impl Layout {
    fn prepare(root: &Path) -> anyhow::Result<Self> {
        let user = if geteuid().is_root() {
            let found = User::from_name("postgres").context("looking up user postgres")?;
            Some(found.context("PostgreSQL does not run as root, and there is no user postgres; install it with: apt-get install --no-install-recommends postgresql")?)
        } else {
            None
        };
        let layout = Self {
            bin: find_binaries()?,
            data: root.join("data"),
            socket_dir: socket_dir(root),
            log: root.join("postgres.log"),
            user,
        };
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        for dir in [&layout.data, &layout.socket_dir] {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            if let Some(user) = &layout.user {
                chown(dir, Some(user.uid), Some(user.gid))?;
            }
        }
        Ok(layout)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn init(&self) -> anyhow::Result<()> {
        let output = self
            .command("initdb")
            .args(["-U", USER, "-A", "peer", "-E", "UTF8", "--locale=C.UTF-8", "-k", "-D"])
            .arg(&self.data)
            .output()
            .with_context(|| format!("running {}", self.bin.join("initdb").display()))?;
        if !output.status.success() {
            // A half-made directory would be taken for a database by the next start.
            let _ = fs::remove_dir_all(&self.data);
            let said = String::from_utf8_lossy(&output.stderr);
            let hint = if said.contains("Permission denied") {
                "; user postgres must be able to pass through every directory above it"
            } else {
                ""
            };
            anyhow::bail!("initdb failed on {}: {}{hint}", self.data.display(), said.trim());
        }
        // Who this process is, and nobody else, is the database's user. The server's own user may look after it.
        let mut map = String::new();
        let me = User::from_uid(geteuid())?.map_or_else(|| geteuid().to_string(), |user| user.name);
        let others = self.user.as_ref().map(|user| user.name.clone());
        for name in [Some(me), others].into_iter().flatten() {
            map += &format!("unidesk \"{name}\" {USER}\n");
        }
        self.write_config("pg_ident.conf", &map)?;
        self.write_config("pg_hba.conf", "local all all peer map=unidesk\n")
    }

    fn write_config(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.data.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        if let Some(user) = &self.user {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "only between fork and exec can a child ask the kernel to be ended with its parent")]
    fn spawn(&self) -> std::io::Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket_dir);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "fsync=on",
            "full_page_writes=on",
            "synchronous_commit=on",
            "max_connections=100",
            "logging_collector=off",
            "shared_buffers=128MB",
            "max_wal_size=1GB",
        ] {
            command.args(["-c", setting]);
        }
        // A group of its own: the terminal's Ctrl-C must not reach it, we stop it ourselves, last.
        command.process_group(0).stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

/// `UNIDESK_PG_BIN`, the newest of Debian's, then PATH.
fn find_binaries() -> anyhow::Result<PathBuf> {
    let is_complete = |dir: &Path| dir.join("postgres").exists() && dir.join("initdb").exists();
    if let Some(given) = std::env::var_os("UNIDESK_PG_BIN").map(PathBuf::from) {
        anyhow::ensure!(
            is_complete(&given),
            "UNIDESK_PG_BIN is {}, and there are no postgres and initdb in it",
            given.display()
        );
        return Ok(given);
    }
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = debian.into_iter().rev().map(|(_, bin)| bin).chain(std::env::split_paths(&path));
    candidates.into_iter().find(|dir| is_complete(dir)).context(
        "PostgreSQL was not found on this machine. Install it with: apt-get install --no-install-recommends postgresql; \
         or name its programs' directory in UNIDESK_PG_BIN; or give an existing server in UNIDESK_DATABASE_URL",
    )
}

/// Beside the data where that is short enough for a socket's path.
fn socket_dir(root: &Path) -> PathBuf {
    let beside = root.join("run");
    if beside.as_os_str().len() <= MAX_SOCKET_DIR {
        return beside;
    }
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    root.hash(&mut hasher);
    std::env::temp_dir().join(format!("unidesk-{}-{:016x}", geteuid(), hasher.finish()))
}

/// A server that a killed platform left: the kernel has told it to end, and it may need some seconds. The data directory is ours alone (the
/// caller holds its lock), so whatever runs on it is ended.
fn end_leftover(data: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    while let Some(pid) = leftover(data) {
        if began.elapsed() > Duration::from_secs(2) {
            let _ = kill(
                Pid::from_raw(pid),
                if began.elapsed() > Duration::from_secs(6) { Signal::SIGQUIT } else { Signal::SIGINT },
            );
        }
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(20),
            "an earlier PostgreSQL (process {pid}) still runs on {} and does not end",
            data.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The process that the pid file names, if it lives and is a PostgreSQL on this directory.
fn leftover(data: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_ours = command.windows(data.as_os_str().len()).any(|window| window == data.as_os_str().as_encoded_bytes());
    is_ours.then_some(pid)
}
