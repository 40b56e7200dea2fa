//! A private PostgreSQL that can be killed, frozen and given a wrong clock. It syncs: what it loses, the platform has lost.

use crate::{inside::run, program::Program, wait::until};
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const START_WITHIN: Duration = Duration::from_secs(60);

pub struct Postgres {
    root: PathBuf,
    logs: PathBuf,
    env: Vec<(String, String)>,
    server: Option<Program>,
}

impl Postgres {
    /// Makes a database cluster under `root`.
    pub fn init(root: &Path, logs: &Path) -> anyhow::Result<Self> {
        let postgres = Self::at(root, logs);
        fs::create_dir_all(root)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
        let user = user()?;
        for dir in [postgres.data(), postgres.socket_dir()] {
            fs::create_dir_all(&dir)?;
            chown(&dir, Some(user.uid), Some(user.gid))?;
        }
        let mut command = server_command("initdb")?;
        command.args(["-U", "unidesk", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-k", "-N", "-D"]);
        let output = command.arg(postgres.data()).output().context("running initdb")?;
        anyhow::ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(postgres)
    }

    /// The same files elsewhere; `template` must be stopped.
    pub fn copy_of(template: &Path, root: &Path, logs: &Path) -> anyhow::Result<Self> {
        run("cp", &["-a", &template.display().to_string(), &root.display().to_string()])?;
        Ok(Self::at(root, logs))
    }

    fn at(root: &Path, logs: &Path) -> Self {
        Self { root: root.to_owned(), logs: logs.to_owned(), env: Vec::new(), server: None }
    }

    /// Its processes get these variables from the next start on.
    pub fn with_env(mut self, env: Vec<(String, String)>) -> Self {
        self.env = env;
        self
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut command = server_command("postgres")?;
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.socket_dir());
        for setting in
            ["listen_addresses=", "fsync=on", "full_page_writes=on", "synchronous_commit=on", "max_connections=200"]
        {
            command.args(["-c", setting]);
        }
        // One that was killed may have left children, which must see that it is gone.
        let command = std::cell::RefCell::new(Some(command));
        let mut server = Program::spawn("postgres", command.take().context("one command")?, &self.logs)?;
        until("PostgreSQL answers", START_WITHIN, async || {
            self.sql("SELECT 1").is_ok().then_some(()).or_else(|| server.has_ended().then_some(()))
        })
        .await?;
        anyhow::ensure!(!server.has_ended(), "PostgreSQL ended at its start:\n{}", server.said());
        self.server = Some(server);
        Ok(())
    }

    pub fn url(&self) -> String {
        url(&self.socket_dir())
    }

    /// What one statement answers, a line a row, columns by `|`.
    pub fn sql(&self, statement: &str) -> anyhow::Result<Vec<String>> {
        let mut psql = Command::new(binaries()?.join("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "unidesk", "-d", "postgres", "-h"]);
        psql.arg(self.socket_dir()).args(["-c", statement]).env("PGCONNECT_TIMEOUT", "5").stdin(Stdio::null());
        let output = psql.output().context("running psql")?;
        anyhow::ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// All its processes: the server and its children.
    pub fn pids(&self) -> Vec<i32> {
        let Some(server) = self.server.as_ref().map(Program::pid).filter(|pid| *pid != 0) else { return Vec::new() };
        let mut all = children(server);
        all.push(server);
        all
    }

    /// As a power cut: every process at once.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let children = self.pids();
        if let Some(mut server) = self.server.take() {
            server.kill().await?;
        }
        for pid in children {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(())
    }

    pub fn signal_all(&self, signal: Signal) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal_all(Signal::SIGCONT);
        if let Some(mut server) = self.server.take() {
            // Connections are closed, not waited for.
            server.signal(Signal::SIGINT)?;
            until("PostgreSQL ends", START_WITHIN, async || server.has_ended().then_some(())).await?;
        }
        Ok(())
    }
}

pub fn url(socket_dir: &Path) -> String {
    format!("postgres://unidesk@localhost/postgres?host={}", socket_dir.display().to_string().replace('/', "%2F"))
}

fn children(of: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(of) {
            found.push(pid);
        }
    }
    found
}

fn user() -> anyhow::Result<User> {
    User::from_name("postgres")?.context("there is no user postgres; apt-get install postgresql")
}

fn server_command(program: &str) -> anyhow::Result<Command> {
    let user = user()?;
    let mut command = Command::new(binaries()?.join(program));
    command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
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
