//! A running program of the platform: started, killed, weighed.

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::process::Child;

/// A program says that it is ready, or ends, within this, also on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);

pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where its own words begin: an earlier one of this name wrote before it.
    from: u64,
}

impl Program {
    /// Starts it; killed when dropped. What it says goes to the end of `logs/NAME`.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(logs)?;
        let log = logs.join(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let from = file.metadata()?.len();
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, from })
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(name: &str, command: Command, logs: &Path) -> anyhow::Result<Self> {
        let mut program = Self::spawn(name, command, logs)?;
        let began = Instant::now();
        while !program.said().contains("ready ") {
            anyhow::ensure!(!program.has_ended(), "{name} ended instead of being ready:\n{}", program.said());
            anyhow::ensure!(began.elapsed() < READY_WITHIN, "{name} is not ready:\n{}", program.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(program)
    }

    pub fn said(&self) -> String {
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.log).and_then(|mut file| {
            file.seek(std::io::SeekFrom::Start(self.from))?;
            file.read_to_end(&mut bytes)
        });
        if read.is_err() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().map_or(0, |id| id as i32)
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// As a power cut ends it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// As a person ends it.
    pub async fn stop(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("stopping {}", self.name))?;
        if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        Ok(())
    }
}

/// `unidesk`, built beside this program.
pub fn unidesk() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("unidesk");
    anyhow::ensure!(
        path.exists(),
        "{} is missing; build both alike: cargo build -p unidesk -p shim -p bench",
        path.display()
    );
    Ok(path)
}

/// `unidesk` with these arguments and nothing of the caller's own settings.
pub fn unidesk_command(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(unidesk()?);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UNIDESK_")) {
        command.env_remove(name);
    }
    Ok(command)
}
