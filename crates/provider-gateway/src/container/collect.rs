//! Watching a container to its end: its output, then its true exit facts. Docker being away only delays this.

use super::{
    ContainerExecutor,
    adopt::{self, Found},
    create,
    docker::{DockerError, QUICK},
    exit, logs,
    usage::Usage,
};
use crate::executor::{Failure, Job};
use bollard::models::ContainerState;
use domain::{Timestamp, outcome::ExitFacts};
use nix::sys::signal::Signal as UnixSignal;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Docker learns of an OOM kill on another path than of the exit, and sometimes later.
const OOM_LATENESS: Duration = Duration::from_millis(100);

impl ContainerExecutor {
    pub(super) async fn collect_container(&self, job: &Job) -> Result<ExitFacts, Failure> {
        let usage = Usage::default();
        let mut lost_at = None;
        let mut stderr_head = Vec::new();
        let state = self.watch(job, &usage, &mut lost_at, &mut stderr_head).await?;
        let mut exit = exit::facts(&state);
        usage.add_to(&mut exit);
        if exit::died_with_docker(&exit, &self.daemon(job, lost_at).await) {
            return Err(Failure::node(format!(
                "Docker was restarted on this machine and took the container with it (exit code {}).",
                exit.code.unwrap_or(-1)
            )));
        }
        if let (Some(code @ (126 | 127)), Some(why)) = (exit.code, not_executed(&stderr_head)) {
            job.log.note(&format!("{why} (exit code {code})")).await;
            exit.not_started = Some(why);
        }
        Ok(exit)
    }

    /// Returns once the container has ended and all its output is in the log.
    async fn watch(
        &self,
        job: &Job,
        usage: &Usage,
        lost_at: &mut Option<Timestamp>,
        stderr_head: &mut Vec<u8>,
    ) -> Result<ContainerState, Failure> {
        let name = create::name(job);
        let mut pause = FIRST_PAUSE;
        let mut ended: Option<ContainerState> = None;
        loop {
            match self.engine.streaming().await {
                Ok(docker) => {
                    let copied = tokio::select! {
                        copied = logs::copy(&docker, &name, &job.log, ended.is_none(), stderr_head) => copied,
                        () = usage.watch(&self.engine, &name) => continue,
                    };
                    match (copied, ended.take()) {
                        // The second reading, after the end: the first may have missed the last lines.
                        (logs::Ended::Closed, Some(state)) => return Ok(state),
                        (logs::Ended::Closed, None) => {}
                        (logs::Ended::Broken(error), _) => {
                            let error = self.engine.explain(error, QUICK);
                            if error.is_away() {
                                lost_at.get_or_insert_with(chrono::Utc::now);
                                self.engine.forget();
                            }
                        }
                    }
                }
                Err(error) => self.note_trouble(job, &error, lost_at),
            }
            match adopt::look(&self.engine, job).await {
                Ok(Found::Ours(container)) => {
                    let state = container.state.unwrap_or_default();
                    if adopt::is_over(&state) {
                        ended = Some(self.with_late_oom(job, state).await);
                        // At once the first time; again and again only when the second reading breaks.
                        if pause == FIRST_PAUSE {
                            pause = FIRST_PAUSE * 2;
                            continue;
                        }
                    }
                }
                Ok(Found::Foreign | Found::Missing) => {
                    return Err(Failure::node(
                        "The container was removed by somebody else before its end was recorded.",
                    ));
                }
                Err(error) => self.note_trouble(job, &error, lost_at),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn note_trouble(&self, job: &Job, error: &DockerError, lost_at: &mut Option<Timestamp>) {
        if error.is_away() && lost_at.is_none() {
            *lost_at = Some(chrono::Utc::now());
            tracing::warn!(attempt.id = %job.held.attempt, %error, "Docker went away; waiting for it");
        } else {
            tracing::debug!(attempt.id = %job.held.attempt, %error, "Docker can't be asked about the container");
        }
    }

    async fn with_late_oom(&self, job: &Job, mut state: ContainerState) -> ContainerState {
        for _ in 0..5 {
            if state.exit_code != Some(137) || state.oom_killed == Some(true) || self.was_signalled(job.held.attempt) {
                break;
            }
            tokio::time::sleep(OOM_LATENESS).await;
            if let Ok(Found::Ours(container)) = adopt::look(&self.engine, job).await {
                state = container.state.unwrap_or(state);
            }
        }
        state
    }

    async fn daemon(&self, job: &Job, lost_at: Option<Timestamp>) -> exit::Daemon {
        let bridge =
            self.engine.call(QUICK, |docker| async move { docker.inspect_network("bridge", None).await }).await;
        let started_at = bridge.ok().and_then(|network| network.created?.parse().ok());
        exit::Daemon {
            lost_at,
            started_at,
            has_live_restore: self.engine.known_facts().is_some_and(|facts| facts.has_live_restore),
            was_signalled: self.was_signalled(job.held.attempt),
            stop_signal: job.spec.stop.signal.parse::<UnixSignal>().ok().map(|signal| signal as i32),
        }
    }
}

/// Docker's init, or ours in its place, starts the program, and says among the program's own output why it could not:
/// `[FATAL tini (7)] exec nosuch failed: No such file or directory`.
fn not_executed(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find(|line| line.starts_with("[FATAL tini") || line.starts_with("[FATAL unidesk-shim]"))?;
    let (program, reason) = line.split_once("exec ")?.1.split_once(" failed: ")?;
    Some(match reason {
        "No such file or directory" => format!("the program {program:?} was not found in the image"),
        other => format!("the program {program:?} could not be executed: {other}"),
    })
}
