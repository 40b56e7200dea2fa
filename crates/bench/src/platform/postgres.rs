//! A private PostgreSQL that syncs, with statement statistics on: what is measured on it holds for the platform and for the limit alike.

use super::program::Program;
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const START_WITHIN: Duration = Duration::from_secs(60);

/// Durable as a careful owner runs it. Checkpoints are kept out of short runs by `max_wal_size`, for both sides of a comparison.
const SETTINGS: [&str; 10] = [
    "listen_addresses=",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "max_connections=200",
    "max_wal_size=8GB",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.max=2000",
    "pg_stat_statements.track_utility=on",
    "track_io_timing=off",
];

pub struct Postgres {
    root: PathBuf,
    logs: PathBuf,
    shared_buffers: String,
    server: Option<Program>,
}

impl Postgres {
    /// Makes a cluster under `root` and starts it.
    pub async fn start(root: &Path, logs: &Path, shared_buffers: &str) -> anyhow::Result<Self> {
        let mut postgres = Self {
            root: root.to_owned(),
            logs: logs.to_owned(),
            shared_buffers: shared_buffers.to_owned(),
            server: None,
        };
        fs::create_dir_all(root)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        for dir in [postgres.data(), postgres.socket_dir()] {
            fs::create_dir_all(&dir)?;
            if let Some(user) = server_user()? {
                chown(&dir, Some(user.uid), Some(user.gid))?;
            }
        }
        let mut init = server_command("initdb")?;
        init.args(["-U", "unidesk", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-k", "-N", "-D"]);
        let output = init.arg(postgres.data()).output().context("running initdb")?;
        anyhow::ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        postgres.run().await?;
        Ok(postgres)
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let mut command = server_command("postgres")?;
        command.arg("-D").arg(self.data()).arg("-k").arg(self.socket_dir());
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("shared_buffers={}", self.shared_buffers)]);
        let mut server = Program::spawn("postgres", command, &self.logs)?;
        let began = Instant::now();
        while crate::database::Database::connect(&self.url("postgres")).await.is_err() {
            anyhow::ensure!(!server.has_ended(), "PostgreSQL ended at its start:\n{}", server.said());
            anyhow::ensure!(began.elapsed() < START_WITHIN, "PostgreSQL does not answer:\n{}", server.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.server = Some(server);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    fn socket_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn url(&self, database: &str) -> String {
        self.url_of("unidesk", database)
    }

    /// For a user of the server's.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        let host = self.socket_dir().display().to_string().replace('/', "%2F");
        format!("postgres://{user}@localhost/{database}?host={host}")
    }

    /// Of the server; its children hang below it.
    pub fn pid(&self) -> i32 {
        self.server.as_ref().map_or(0, Program::pid)
    }

    /// All of its processes at once, as when the machine goes; then it is started again and recovers.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let children = super::usage::tree(server.pid());
        for pid in children.iter().filter(|pid| **pid != server.pid()) {
            // Gone by itself meanwhile: as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        server.kill().await?;
        while children.iter().any(|pid| Path::new(&format!("/proc/{pid}/stat")).exists()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.run().await
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.server.take() {
            // Connections are closed, not waited for.
            Some(mut server) => server.stop(Signal::SIGINT).await,
            None => Ok(()),
        }
    }
}

/// Whom the server runs as: root can't run it. None: as whoever runs this.
fn server_user() -> anyhow::Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    User::from_name("postgres")?.context("there is no user postgres; apt-get install postgresql").map(Some)
}

fn server_command(program: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(binaries()?.join(program));
    command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
    if let Some(user) = server_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// `UNIDESK_PG_BIN`, or the newest of Debian's.
fn binaries() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("UNIDESK_PG_BIN") {
        return Ok(given.into());
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("PostgreSQL is missing; apt-get install postgresql")
}
