//! A Docker daemon of the run's own, with its own files, socket and containers: it may be restarted and frozen, and what is left in it
//! was left by the platform.

use crate::{
    inside::{docker_host, run},
    program::Program,
    wait::until,
};
use nix::sys::signal::Signal;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const START_WITHIN: Duration = Duration::from_secs(60);

pub struct Docker {
    dir: PathBuf,
    logs: PathBuf,
    daemon: Option<Program>,
}

impl Docker {
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut docker = Self { dir: dir.to_owned(), logs: dir.join("logs"), daemon: None };
        docker.up().await?;
        // It may answer before its bridge has an address.
        Ok(docker)
    }

    async fn up(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(self.dir.join("docker")).arg("--exec-root").arg(self.dir.join("docker-run"));
        command.arg("--pidfile").arg(self.dir.join("docker.pid")).arg("-H").arg(docker_host(&self.dir));
        let mut daemon = Program::spawn("dockerd", command, &self.logs)?;
        until("dockerd answers", START_WITHIN, async || {
            (run("docker", &["info"]).is_ok() || daemon.has_ended()).then_some(())
        })
        .await?;
        anyhow::ensure!(!daemon.has_ended(), "dockerd ended at its start:\n{}", daemon.said());
        self.daemon = Some(daemon);
        Ok(())
    }

    /// As `systemctl restart docker`: its containers end with it.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.up().await
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.daemon.as_ref().map_or(Ok(()), |daemon| daemon.signal(signal))
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop().await?;
        }
        Ok(())
    }

    /// Ids of containers, running or not; of one agent's, or all.
    pub fn containers(&self, instance: Option<&str>) -> anyhow::Result<Vec<String>> {
        let label = instance.map_or("label=unidesk.instance".to_owned(), |id| format!("label=unidesk.instance={id}"));
        Ok(run("docker", &["ps", "-aq", "--filter", &label])?.lines().map(str::to_owned).collect())
    }

    /// Removes all containers.
    pub fn clear(&self) -> anyhow::Result<()> {
        for container in self.containers(None)? {
            run("docker", &["rm", "-f", "-v", &container])?;
        }
        Ok(())
    }

    /// Freezes or thaws what an agent's containers do.
    pub fn pause(&self, instance: &str, paused: bool) -> anyhow::Result<()> {
        for container in self.containers(Some(instance))? {
            // One that ended meanwhile can't be paused, and need not be.
            let _ = run("docker", &[if paused { "pause" } else { "unpause" }, &container]);
        }
        Ok(())
    }
}

/// Where containers reach the run itself.
pub fn bridge_address() -> anyhow::Result<String> {
    let said = run("ip", &["-4", "-o", "addr", "show", "docker0"])?;
    let address =
        said.split_whitespace().skip_while(|word| *word != "inet").nth(1).and_then(|word| word.split('/').next());
    address.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("docker0 has no address: {said}"))
}
