//! Finding our containers again: by name and by all labels, never by name alone.

use super::{
    create,
    docker::{DockerError, Engine, QUICK},
    image::INSTANCE_LABEL,
};
use crate::executor::{Adopted, Job};
use bollard::{
    models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, ContainerSummary},
    query_parameters::ListContainersOptionsBuilder,
};
use domain::ids::{AttemptId, InstanceId};
use std::collections::HashMap;

const TASK: &str = "unidesk.task";
const ATTEMPT: &str = "unidesk.attempt";
const FENCE: &str = "unidesk.fence";
const NODE: &str = "unidesk.node";

/// Written into the attempt's directory before the start is asked for.
pub(super) const STARTED_MARK: &str = "container-started";

pub(super) fn labels(job: &Job) -> HashMap<String, String> {
    [
        (TASK, job.task.to_string()),
        (ATTEMPT, job.held.attempt.to_string()),
        (FENCE, job.held.fence.to_string()),
        (NODE, job.node_name.clone()),
        (INSTANCE_LABEL, job.instance.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) enum Found {
    Ours(Box<ContainerInspectResponse>),
    /// The name is taken by something that this installation did not make for this attempt.
    Foreign,
    Missing,
}

pub(super) async fn look(engine: &Engine, job: &Job) -> Result<Found, DockerError> {
    let name = create::name(job);
    match engine.call(QUICK, |docker| async move { docker.inspect_container(&name, None).await }).await {
        Ok(container) => {
            let there = container.config.as_ref().and_then(|config| config.labels.as_ref());
            let is_ours = there.is_some_and(|there| {
                [ATTEMPT, FENCE, INSTANCE_LABEL].iter().all(|name| there.get(*name) == labels(job).get(*name))
            });
            Ok(if is_ours { Found::Ours(Box::new(container)) } else { Found::Foreign })
        }
        Err(error) if error.is_missing() => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}

pub(super) async fn find(engine: &Engine, job: &Job) -> Adopted {
    match look(engine, job).await {
        Ok(Found::Ours(container)) => {
            let state = container.state.unwrap_or_default();
            if !was_started(&state) {
                Adopted::NotStarted
            } else if is_over(&state) {
                Adopted::Exited
            } else {
                Adopted::Running
            }
        }
        Ok(Found::Foreign | Found::Missing) if job.dir.join(STARTED_MARK).exists() => Adopted::Gone,
        Ok(Found::Foreign | Found::Missing) => Adopted::NotStarted,
        Err(error) => {
            tracing::warn!(attempt.id = %job.held.attempt, %error, "Docker can't be asked for the container");
            Adopted::Unknown
        }
    }
}

/// Remembers on disk that the start was asked for, so that a container that is gone later is known to have run.
pub(super) fn mark_started(job: &Job) -> std::io::Result<()> {
    std::fs::File::create(job.dir.join(STARTED_MARK))?.sync_all()
}

pub(super) fn is_started(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().is_some_and(was_started)
}

fn was_started(state: &ContainerState) -> bool {
    !matches!(state.status, None | Some(Status::EMPTY | Status::CREATED))
}

pub(super) fn is_over(state: &ContainerState) -> bool {
    matches!(state.status, Some(Status::EXITED | Status::DEAD | Status::REMOVING))
}

/// All containers of this installation: (id, attempt).
pub(super) async fn own_containers(
    engine: &Engine,
    instance: InstanceId,
) -> Result<Vec<(String, AttemptId)>, DockerError> {
    let filter = HashMap::from([("label", vec![format!("{INSTANCE_LABEL}={instance}"), ATTEMPT.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let containers = engine.call(QUICK, |docker| async move { docker.list_containers(Some(options)).await }).await?;
    let of = |container: ContainerSummary| Some((container.id?, container.labels?.get(ATTEMPT)?.parse().ok()?));
    Ok(containers.into_iter().filter_map(of).collect())
}
