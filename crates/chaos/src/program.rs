//! A running program of the platform: started, stopped, killed, frozen, weighed.

use crate::wait::until;
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

/// A program says that it is ready, or ends, within this, also on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Usage {
    pub rss_kib: u64,
    pub fds: u64,
}

pub struct Program {
    pub name: String,
    child: tokio::process::Child,
    log: PathBuf,
    /// Where its own words begin: an earlier one of this name wrote before it.
    from: u64,
}

impl Program {
    /// Starts it; killed when dropped. Its output goes to the end of `logs/NAME`.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(logs)?;
        let log = logs.join(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let from = file.metadata()?.len();
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, from })
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(name: &str, command: Command, logs: &Path) -> anyhow::Result<Self> {
        let mut program = Self::spawn(name, command, logs)?;
        program.until_said("ready ").await?;
        Ok(program)
    }

    pub async fn until_said(&mut self, text: &str) -> anyhow::Result<()> {
        let what = format!("{} says {text:?}", self.name);
        let (said, _) = until(&what, SOON, async || {
            let said = self.said();
            (said.contains(text) || self.has_ended()).then_some(said)
        })
        .await
        .with_context(|| format!("{} said:\n{}", self.name, self.said()))?;
        anyhow::ensure!(said.contains(text), "{} ended instead:\n{said}", self.name);
        Ok(())
    }

    pub fn said(&self) -> String {
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.log).and_then(|mut file| {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(self.from))?;
            file.read_to_end(&mut bytes)
        });
        if read.is_err() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// 0 once it has ended.
    pub fn pid(&self) -> i32 {
        self.child.id().map_or(0, |id| id as i32)
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// As a power cut ends it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// As a person ends it.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        // A frozen one hears nothing.
        self.signal(Signal::SIGCONT)?;
        self.signal(Signal::SIGTERM)?;
        tokio::time::timeout(SOON, self.child.wait())
            .await
            .with_context(|| format!("{} did not stop within {SOON:?}", self.name))?
            .with_context(|| format!("waiting for {}", self.name))
    }

    pub fn usage(&self) -> Usage {
        usage(self.pid())
    }
}

pub fn usage(pid: i32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss_kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
    Usage { rss_kib: rss_kib.unwrap_or(0), fds }
}

/// `unidesk`, built beside this program, with its supervisors.
pub fn unidesk() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name("unidesk");
    for (needed, how) in [
        (&path, "cargo build -p unidesk"),
        (&here.with_file_name("unidesk-shim"), "cargo build -p shim"),
        // Without it no node takes an exclusive container, which would wait for ever.
        (&here.with_file_name("unidesk-shim-static"), "scripts/build-shim.sh"),
    ] {
        anyhow::ensure!(needed.exists(), "{} is missing; run: {how}", needed.display());
    }
    Ok(path)
}

/// `unidesk` with these arguments and nothing of the caller's own settings.
pub fn command(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(unidesk()?);
    command.args(arguments);
    clean(&mut command);
    Ok(command)
}

pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UNIDESK_")) {
        command.env_remove(name);
    }
}

/// The same command, run by another: a tracer, say.
pub fn prefixed(before: &[&str], command: Command) -> Command {
    let Some((first, rest)) = before.split_first() else { return command };
    let mut whole = Command::new(first);
    whole.args(rest).arg(command.get_program()).args(command.get_args());
    clean(&mut whole);
    whole
}
