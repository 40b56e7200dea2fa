//! A Redis of its own for Celery: on a socket, its log of changes synced each second, as its makers advise.

use super::install::Scratch;
use crate::platform::program::Program;
use anyhow::Context as _;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const START_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn start(scratch: &Scratch, socket: &Path, logs: &Path) -> anyhow::Result<Program> {
    let mut command = server(scratch).await?;
    let dir = socket.with_extension("data");
    fs::create_dir_all(&dir)?;
    command.args(["--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    command.arg("--unixsocket").arg(socket).arg("--dir").arg(&dir);
    let mut program = Program::spawn("redis", command, logs)?;
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        anyhow::ensure!(!program.has_ended(), "Redis ended at its start:\n{}", program.said());
        anyhow::ensure!(began.elapsed() < START_WITHIN, "Redis does not answer:\n{}", program.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(program)
}

/// The machine's own, or Debian's unpacked.
async fn server(scratch: &Scratch) -> anyhow::Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(own) = std::env::split_paths(&path).map(|dir| dir.join("redis-server")).find(|file| file.exists()) {
        return Ok(Command::new(own));
    }
    let root = scratch.debian_package("redis-server").await?;
    let libraries: Vec<PathBuf> =
        fs::read_dir(root.join("usr/lib")).context("Redis has no libraries")?.flatten().map(|dir| dir.path()).collect();
    let mut command = Command::new(root.join("usr/bin/redis-server"));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    Ok(command)
}
