//! Start, signal, remove.

use super::{
    ContainerExecutor,
    adopt::{self, Found},
    create::name,
    docker::{DockerError, Engine, QUICK, SLOW},
};
use crate::executor::{Failure, Job, Signal};
use bollard::query_parameters::{KillContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use domain::outcome::FailureKind;
use std::time::{Duration, Instant};

/// How long a signal is tried again while Docker does not answer, and a removal waits for another one under way.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

impl ContainerExecutor {
    pub(super) async fn start_container(&self, job: &Job) -> Result<(), Failure> {
        adopt::mark_started(job)
            .map_err(|error| Failure::node(format!("The attempt's directory can't be written: {error}.")))?;
        let name = name(job);
        // Starting what runs already is fine with Docker.
        let started = self.engine.call(SLOW, |docker| async move { docker.start_container(&name, None).await }).await;
        started.map_err(|error| refused_start(error, job))
    }
}

/// Why a container did not start: its program, its user or its directory, or else the machine.
fn refused_start(error: DockerError, job: &Job) -> Failure {
    let DockerError::Refused { message, .. } = &error else { return error.into_failure("starting the container") };
    let program = message.split_once("exec: \"").and_then(|(_, rest)| rest.split_once('"')).map(|(program, _)| program);
    let user = |text: String| Failure::new(FailureKind::ExitNonzero, text);
    match program {
        Some(program) if message.contains("permission denied") => {
            user(format!("{program:?} is in the image but may not be executed (exit code 126)."))
        }
        Some(program) if message.contains("not found") || message.contains("no such file") => user(format!(
            "{program:?} was not found in the image (exit code 127). Check `command` and the image's ENTRYPOINT."
        )),
        _ if message.contains("unable to find user") || message.contains("unable to find group") => {
            user(format!("The container can't run as its user: {message}."))
        }
        _ if message.contains("chdir to cwd") || message.contains("not a directory") => {
            user(format!("The working directory {:?} can't be used: {message}.", job.spec.workdir))
        }
        _ => error.into_failure("starting the container"),
    }
}

/// Best effort within 20 s: a container that has ended or is gone needs no signal.
pub(super) async fn send_signal(engine: &Engine, job: &Job, signal: Signal) {
    let signal = match signal {
        Signal::Stop => job.spec.stop.signal.as_str(),
        Signal::Kill => "SIGKILL",
    };
    let sent = tokio::time::timeout(PATIENCE, async {
        loop {
            match send_once(engine, job, signal).await {
                Err(error) if error.is_away() => tokio::time::sleep(Duration::from_millis(500)).await,
                other => break other,
            }
        }
    });
    match sent.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_missing() || error.is_conflict() => {}
        Ok(Err(error)) => {
            tracing::warn!(attempt.id = %job.held.attempt, signal, %error, "the signal could not be sent")
        }
        Err(_) => {
            tracing::warn!(attempt.id = %job.held.attempt, signal, "Docker does not answer; the signal was not sent")
        }
    }
}

async fn send_once(engine: &Engine, job: &Job, signal: &str) -> Result<(), DockerError> {
    let Found::Ours(container) = adopt::look(engine, job).await? else { return Ok(()) };
    if container.state.as_ref().is_none_or(adopt::is_over) {
        return Ok(());
    }
    let options = KillContainerOptionsBuilder::default().signal(signal).build();
    let name = name(job);
    engine.call(QUICK, |docker| async move { docker.kill_container(&name, Some(options)).await }).await
}

/// Ok once the container is gone. Errors: Docker can't be asked or can't do it now; ask again later.
pub(super) async fn remove(engine: &Engine, job: &Job) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let removed = async {
            let Found::Ours(container) = adopt::look(engine, job).await? else { return Ok(()) };
            // By id: the name might belong to another one by now.
            let id = container.id.unwrap_or_else(|| name(job));
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            engine.call(SLOW, |docker| async move { docker.remove_container(&id, Some(options)).await }).await
        };
        match removed.await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_missing() => return Ok(()),
            // Another removal of it is under way.
            Err(error) if error.is_conflict() && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into_failure("removing the container")),
        }
    }
}
