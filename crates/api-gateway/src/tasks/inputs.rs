//! What the inputs of a submission mean: names become versions before a task is accepted, so that every attempt reads the same.

use crate::{AppState, failed::failed};
use api_types::Problem;
use domain::{
    artifact::ArtifactRef,
    fault::Fault,
    ids::ProjectId,
    spec::{Input, PinnedArtifact, TaskSpec},
};
use service_kit::ApiError;
use std::collections::BTreeMap;
use store::{NewTask, Submitted};

/// What becomes of a task of which not all inputs are there.
pub(super) enum Unpinned {
    /// It was accepted before, when they were: its key stands for it.
    Stands(Submitted),
    Refused(Box<Problem>),
}

/// A name, in the project that it means something in.
type Name = (ProjectId, String);

fn name_of(task: &NewTask, input: &Input) -> Name {
    (task.project, input.artifact.to_string())
}

/// Pins all inputs of these tasks, and says of which tasks some are not there, by their place. Tasks that read nothing cost nothing.
pub(super) async fn pin(state: &AppState, tasks: &mut [NewTask]) -> Result<BTreeMap<usize, Unpinned>, ApiError> {
    let mut wanted: BTreeMap<Name, ArtifactRef> = BTreeMap::new();
    for task in tasks.iter() {
        for input in &task.spec.inputs {
            wanted.entry(name_of(task, input)).or_insert_with(|| input.artifact.clone());
        }
    }
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: Vec<(ProjectId, ArtifactRef)> = wanted.iter().map(|((at, _), name)| (*at, name.clone())).collect();
    let found = state.store.pin_inputs(&names).await.map_err(failed)?;
    let found: BTreeMap<Name, PinnedArtifact> =
        wanted.into_keys().zip(found).filter_map(|(name, found)| Some((name, found?))).collect();
    let mut faulty: BTreeMap<usize, Vec<Fault>> = BTreeMap::new();
    for (place, task) in tasks.iter_mut().enumerate() {
        let names: Vec<Name> = task.spec.inputs.iter().map(|input| name_of(task, input)).collect();
        for (at, (input, name)) in task.spec.inputs.iter_mut().zip(&names).enumerate() {
            input.pinned = found.get(name).cloned();
            if input.pinned.is_none() {
                faulty.entry(place).or_default().push(no_such_artifact(at, &input.artifact));
            }
        }
    }
    if faulty.is_empty() {
        return Ok(BTreeMap::new());
    }
    // A request that was accepted once is accepted for ever, whatever was removed since.
    let refused: Vec<&NewTask> = faulty.keys().filter_map(|place| tasks.get(*place)).collect();
    let standing = state.store.standing(&refused).await.map_err(failed)?;
    let answer = |((place, faults), stands): ((usize, Vec<Fault>), Option<Submitted>)| {
        let refused = || Unpinned::Refused(Box::new(Problem::invalid_task(faults)));
        (place, stands.map_or_else(refused, Unpinned::Stands))
    };
    Ok(faulty.into_iter().zip(standing).map(answer).collect())
}

fn no_such_artifact(at: usize, name: &ArtifactRef) -> Fault {
    let detail = format!("There is no artifact {name} in the task's project, or it is not ready.");
    Fault::new(format!("#/inputs/{at}/artifact"), "no_such_artifact", detail).hint("unidesk artifact list")
}

/// It was there when it was looked up, and was removed before the task was accepted.
pub(super) fn gone() -> Box<Problem> {
    let fault = Fault::new("#/inputs", "no_such_artifact", "An artifact that it reads was removed at this moment.");
    Box::new(Problem::invalid_task(vec![fault]))
}

/// As a user wrote it.
pub(super) fn as_written(spec: &TaskSpec) -> TaskSpec {
    let mut spec = spec.clone();
    spec.inputs.iter_mut().for_each(|input| input.pinned = None);
    spec
}
