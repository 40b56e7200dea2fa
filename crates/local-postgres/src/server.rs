//! A private PostgreSQL: run as a supervised child, reached through a Unix socket only.
//!
//! Whoever connects is known by the kernel (`peer`), so there is no password to keep and none to steal. The child dies with this
//! process, also when that is killed: the kernel sends it SIGINT.

use crate::{Programs, tethered};
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
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
/// What a backup is followed by may be the work of days.
const RECOVER_WITHIN: Duration = Duration::from_secs(86_400);
const STOP_WITHIN: Duration = Duration::from_secs(4);
/// A Unix socket's path has at most 107 bytes.
const MAX_SOCKET_DIR: usize = 107 - "/.s.PGSQL.5432".len();

/// What the private server of `up` runs with. A dead backup must not fill the disk, hence the limit of what waits for it.
const OF_PLATFORM: [&str; 7] = [
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "max_connections=100",
    "shared_buffers=128MB",
    "max_wal_size=1GB",
    "max_slot_wal_keep_size=1GB",
];
/// What lives for a moment need not survive a crash of the machine.
const OF_SCRATCH: [&str; 4] = ["fsync=off", "full_page_writes=off", "max_connections=20", "shared_buffers=64MB"];

pub struct Postgres {
    socket_dir: PathBuf,
    access: Access,
    pid: Arc<AtomicI32>,
    stopping: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

/// As whom the platform comes, and to which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub role: String,
    pub database: String,
}

impl Default for Access {
    fn default() -> Self {
        Self { role: USER.into(), database: USER.into() }
    }
}

/// Brings what a base backup copied to a later moment.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub access: Access,
    /// Where the log that follows was received; none: what the backup has itself.
    pub wal: Option<PathBuf>,
    /// To this moment, as PostgreSQL reads times; otherwise to the end.
    pub until: Option<String>,
    /// The result is used afterwards, so it is synced.
    pub is_kept: bool,
}

/// Where the server's files lie and who runs it.
#[derive(Clone)]
struct Layout {
    programs: Programs,
    access: Access,
    data: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    settings: Vec<String>,
    /// Its own configuration is that of another machine: this directory has one for here.
    config: Option<PathBuf>,
    /// Started again when it ends by itself.
    is_kept_up: bool,
}

impl Postgres {
    /// Starts the server of a platform on `root`, made at the first call. Waits until it answers.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        Self::start_new(Programs::find()?, root, &OF_PLATFORM, true).await
    }

    /// Starts a server on a new cluster below `root` that is thrown away soon.
    pub async fn scratch(programs: &Programs, root: &Path) -> anyhow::Result<Self> {
        Self::start_new(programs.clone(), root, &OF_SCRATCH, false).await
    }

    /// As [`Postgres::start`], for what fills a cluster that is then kept: a server that ends by itself is an error here.
    pub async fn fill(programs: &Programs, root: &Path) -> anyhow::Result<Self> {
        Self::start_new(programs.clone(), root, &OF_PLATFORM, false).await
    }

    async fn start_new(programs: Programs, root: &Path, settings: &[&str], is_kept_up: bool) -> anyhow::Result<Self> {
        let mut layout = Layout::prepare(programs, root)?;
        layout.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        layout.is_kept_up = is_kept_up;
        if !layout.data.join("PG_VERSION").exists() {
            let layout = layout.clone();
            tokio::task::spawn_blocking(move || layout.init()).await??;
        }
        // Also what an earlier version has made gets the rules of this one.
        layout.let_in(&layout.data)?;
        let leaving = layout.clone();
        tokio::task::spawn_blocking(move || end_leftover(&leaving.data)).await??;
        let postgres = Self::run(layout.clone())?;
        postgres.until_it_answers(&layout, START_WITHIN).await?;
        Ok(postgres)
    }

    /// Starts a server on what a base backup copied to `data` below `root`, with the log that follows. Returns once it is at its end
    /// and takes writes. Configuration in `data` is left as it is, and not used.
    pub async fn recover(programs: &Programs, root: &Path, recovery: &Recovery) -> anyhow::Result<Self> {
        let mut layout = Layout::prepare(programs.clone(), root)?;
        let config = root.join("config");
        programs.make_dir(&config)?;
        programs.write(&config.join("postgresql.conf"), "")?;
        layout.access = recovery.access.clone();
        layout.let_in(&config)?;
        layout.config = Some(config);
        let settings = if recovery.is_kept { &OF_PLATFORM[..] } else { &OF_SCRATCH[..] };
        layout.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // Until the end is reached nobody is let in, so who is let in may write.
        layout.settings.push("hot_standby=off".into());
        layout.settings.push(format!("restore_command={}", restore_command(recovery.wal.as_deref())));
        layout.settings.push("recovery_target_timeline=latest".into());
        layout.settings.push("recovery_target_action=promote".into());
        let signal = layout.data.join("recovery.signal");
        programs.write(&signal, "")?;
        let to_its_end = layout.clone();
        if let Some(until) = &recovery.until {
            layout.settings.push(format!("recovery_target_time={until}"));
        }
        let postgres = Self::run(layout.clone())?;
        match postgres.until_it_answers(&layout, RECOVER_WITHIN).await {
            Ok(()) => Ok(postgres),
            // Nothing was committed after that moment: all there is is what is asked for.
            Err(_)
                if recovery.until.is_some()
                    && signal.exists()
                    && layout.says("recovery ended before configured recovery target") =>
            {
                let postgres = Self::run(to_its_end.clone())?;
                postgres.until_it_answers(&to_its_end, RECOVER_WITHIN).await?;
                Ok(postgres)
            }
            Err(error) => Err(error),
        }
    }

    /// The address of the server of a platform on `root`, whether it runs or not.
    pub fn url_below(root: &Path) -> String {
        url_of(&socket_dir(root), USER, USER)
    }

    pub fn url(&self) -> String {
        url_of(&self.socket_dir, &self.access.role, &self.access.database)
    }

    fn run(layout: Layout) -> anyhow::Result<Self> {
        let (sender, ended) = watch::channel(false);
        let postgres = Self {
            socket_dir: layout.socket_dir.clone(),
            access: layout.access.clone(),
            pid: Arc::new(AtomicI32::new(0)),
            stopping: Arc::new(AtomicBool::new(false)),
            ended,
        };
        postgres.supervise(layout, sender)?;
        Ok(postgres)
    }

    /// Runs the child on a thread of its own for as long as the platform lives: the kernel's promise to end the child with its parent
    /// is tied to the thread that started it. The server of a platform that ends by itself is started again.
    fn supervise(&self, layout: Layout, ended: watch::Sender<bool>) -> anyhow::Result<()> {
        let (pid, stopping) = (self.pid.clone(), self.stopping.clone());
        std::thread::Builder::new().name("postgres".into()).spawn(move || {
            while !stopping.load(Ordering::SeqCst) {
                let outcome = layout.spawn().and_then(|mut child| {
                    pid.store(child.id() as i32, Ordering::SeqCst);
                    child.wait()
                });
                pid.store(0, Ordering::SeqCst);
                if stopping.load(Ordering::SeqCst) || !layout.is_kept_up {
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

    async fn until_it_answers(&self, layout: &Layout, within: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let maintenance = url_of(&self.socket_dir, &self.access.role, "postgres");
            match store::create_database(&maintenance, &self.access.database).await {
                Ok(()) => return Ok(()),
                Err(_) if *self.ended.borrow() => {
                    anyhow::bail!("PostgreSQL ended: {}", layout.last_words());
                }
                Err(error) if began.elapsed() > within => {
                    self.stopping.store(true, Ordering::SeqCst);
                    return Err(error).with_context(|| {
                        format!(
                            "PostgreSQL did not answer within {} s; its log is {}",
                            within.as_secs(),
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

    /// Ends the server with its checkpoint, however long that takes: what is on disk then is whole by itself.
    pub async fn stop_whole(mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let pid = self.pid.load(Ordering::SeqCst);
        if pid != 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for Postgres {
    /// Whoever gives up before `stop` leaves no server behind.
    fn drop(&mut self) {
        let pid = self.pid.load(Ordering::SeqCst);
        if pid != 0 && !self.stopping.swap(true, Ordering::SeqCst) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }
}

impl Layout {
    fn prepare(programs: Programs, root: &Path) -> anyhow::Result<Self> {
        let layout = Self {
            programs,
            access: Access::default(),
            data: root.join("data"),
            socket_dir: socket_dir(root),
            log: root.join("postgres.log"),
            settings: Vec::new(),
            config: None,
            is_kept_up: false,
        };
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        for dir in [&layout.data, &layout.socket_dir] {
            layout.programs.make_dir(dir)?;
        }
        Ok(layout)
    }

    fn init(&self) -> anyhow::Result<()> {
        let output = self
            .programs
            .command("initdb")
            .args(["-U", USER, "-A", "peer", "-E", "UTF8", "--locale=C.UTF-8", "-k", "-D"])
            .arg(&self.data)
            .output()
            .with_context(|| format!("running {}", self.programs.path("initdb").display()))?;
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
        Ok(())
    }

    /// Who this process is, and nobody else, is the database's user. The server's own user may look after it, and copy it.
    fn let_in(&self, config: &Path) -> anyhow::Result<()> {
        let mut map = String::new();
        let me = User::from_uid(geteuid())?.map_or_else(|| geteuid().to_string(), |user| user.name);
        let others = self.programs.user.as_ref().map(|user| user.name.clone());
        for name in [Some(me), others].into_iter().flatten() {
            map += &format!("unidesk \"{name}\" \"{}\"\n", self.access.role);
        }
        self.programs.write(&config.join("pg_ident.conf"), &map)?;
        let rules = "local all all peer map=unidesk\nlocal replication all peer map=unidesk\n";
        self.programs.write(&config.join("pg_hba.conf"), rules)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket_dir);
        for setting in ["listen_addresses=", "unix_socket_permissions=0700", "logging_collector=off"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        if let Some(config) = &self.config {
            for (setting, file) in
                [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
            {
                command.arg("-c").arg(format!("{setting}={}", config.join(file).display()));
            }
        }
        // A group of its own: the terminal's Ctrl-C must not reach it, we stop it ourselves, last.
        command.process_group(0).stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        tethered::spawn(&mut command)
    }

    fn says(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(words))
    }

    /// What it said when it ended.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let fatal = log.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let said = fatal.or_else(|| log.lines().next_back()).unwrap_or("nothing");
        format!("{} (its log is {})", said.trim(), self.log.display())
    }
}

/// A segment that was received in part has another name, and zeros at its end.
fn restore_command(wal: Option<&Path>) -> String {
    let Some(wal) = wal else { return "false".into() };
    // For a shell, and for PostgreSQL, which replaces what follows a percent sign.
    let dir = format!("'{}'", wal.display().to_string().replace('\'', "'\\''").replace('%', "%%"));
    format!("cp {dir}/%f %p 2>/dev/null || cp {dir}/%f.partial %p 2>/dev/null")
}

fn url_of(socket_dir: &Path, role: &str, database: &str) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-') {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect()
    };
    let (role, database, host) = (escaped(role), escaped(database), escaped(&socket_dir.display().to_string()));
    format!("postgres://{role}@localhost/{database}?host={host}")
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
