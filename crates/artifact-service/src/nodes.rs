//! What nodes ask for the attempts that they hold: where the bytes of an input are, and where those of an output go. Each time the database is asked
//! whether the node holds the task; the end of an upload is decided under the task's lock.

use crate::{
    ObjectStore,
    download::address_of,
    looking::{self, view},
    refusals::{bad_field, failed, in_time, no_such_artifact, not_held, objects},
    routes::Shared,
    upload::{finish, fresh_key, hand_out},
};
use api_types::{
    Problem,
    artifact::{Artifact, CompleteArtifact, CreateOutput, Download, PartsRequest, Upload},
};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use domain::{
    artifact::{ArtifactRef, MAX_SIZE, part_size},
    ids::{Fence, Held, NodeId},
    principal::{Origin, Scope},
};
use service_kit::{ApiError, request_body};
use std::collections::BTreeMap;
use store::{ArtifactView, HeldTask, Holder, NewArtifact};

/// The attempt, its fence, and which of its task's inputs or outputs.
type Place = Path<(String, String, String)>;

fn read((attempt, fence, index): (String, String, String), node: NodeId) -> Result<(Holder, u32), ApiError> {
    let index = index.parse().map_err(|_| unreadable())?;
    Ok((holder(node, &attempt, &fence)?, index))
}

fn unreadable() -> ApiError {
    no_such_artifact("The path names an attempt by its id, its fence, and the place of an input or output.")
}

pub(crate) fn holder(node: NodeId, attempt: &str, fence: &str) -> Result<Holder, ApiError> {
    match (attempt.parse(), fence.parse()) {
        (Ok(attempt), Ok(fence)) => Ok(Holder { node, held: Held { attempt, fence: Fence::from_i64(fence) } }),
        _ => Err(unreadable()),
    }
}

pub(crate) async fn held(shared: &Shared, who: Holder) -> Result<HeldTask, ApiError> {
    match in_time(shared.store.held_task(who)).await.map_err(failed)? {
        Some(task) => Ok(task),
        None => Err(not_held(shared, who).await),
    }
}

fn no_such_place(what: &str, index: u32) -> ApiError {
    no_such_artifact(format!("The task has no {what} {index}; the first one is 0."))
}

pub(crate) async fn input(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path(place): Place,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    objects(&shared)?;
    let (who, index) = read(place, node)?;
    let task = held(&shared, who).await?;
    let pinned = task.spec.inputs.get(index as usize).and_then(|input| input.pinned.as_ref());
    let pinned = pinned.ok_or_else(|| no_such_place("input", index))?;
    let name = ArtifactRef::Id(pinned.id);
    let found = in_time(shared.store.find_artifact(Scope::Project(task.project), task.project, &name)).await;
    let artifact = found.map_err(failed)?.ok_or_else(|| no_such_artifact("It was removed."))?;
    let get = address_of(&shared, &headers, &artifact).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Download { artifact: view(artifact), get })).into_response())
}

pub(crate) async fn begin(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path(place): Place,
    request: Request,
) -> Result<Json<Upload>, ApiError> {
    let objects = objects(&shared)?;
    let (who, index) = read(place, node)?;
    let wanted: CreateOutput = request_body::typed(request).await?;
    if wanted.size.is_some_and(|size| size > MAX_SIZE) {
        return Err(bad_field("#/size", "out_of_range", format!("An artifact has at most {MAX_SIZE} bytes.")));
    }
    let task = held(&shared, who).await?;
    let output = task.spec.outputs.get(index as usize).ok_or_else(|| no_such_place("output", index))?;
    let new = announced(objects, &task, output.name.clone(), &wanted);
    let by = (task.created_by, task.created_by_name.as_str());
    let begun = in_time(shared.store.begin_output(who, index, &new, by, shared.times.grace)).await.map_err(failed)?;
    let Some(artifact) = begun else { return Err(not_held(&shared, who).await) };
    Ok(Json(looking::upload(artifact, &new)))
}

/// What an attempt is about to upload.
pub(crate) fn announced(objects: &ObjectStore, task: &HeldTask, name: String, wanted: &CreateOutput) -> NewArtifact {
    NewArtifact {
        project: task.project,
        kind: wanted.kind,
        size: wanted.size,
        media_type: "application/octet-stream".to_owned(),
        file_name: file_name(&wanted.file_name, &name),
        name,
        labels: BTreeMap::new(),
        pinned: false,
        part_size: part_size(wanted.size),
        least_part: objects.least_part(wanted.kind, wanted.size),
        key: fresh_key(),
        idempotency: None,
    }
}

/// What a task calls its files is its own business: what can't be a file's name everywhere is replaced, and nothing is refused for it.
fn file_name(given: &str, otherwise: &str) -> String {
    let mut name: String = given.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).collect();
    while name.len() > 255 {
        name.pop();
    }
    if matches!(name.as_str(), "" | "." | "..") { otherwise.to_owned() } else { name }
}

/// The upload of an output that was begun.
async fn begun(shared: &Shared, who: Holder, index: u32) -> Result<ArtifactView, ApiError> {
    let task = held(shared, who).await?;
    if task.spec.outputs.get(index as usize).is_none() {
        return Err(no_such_place("output", index));
    }
    let found = in_time(shared.store.output(who.held.attempt, index)).await.map_err(failed)?;
    found.ok_or_else(|| {
        let detail = "This output was not begun, or its upload was given up. Begin it once more.";
        Problem::new("upload-ended", detail).with("state", "expired").into()
    })
}

pub(crate) async fn parts(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path(place): Place,
    request: Request,
) -> Result<Response, ApiError> {
    let (who, index) = read(place, node)?;
    let headers = request.headers().clone();
    let asked: PartsRequest = request_body::typed(request).await?;
    hand_out(&shared, &headers, &begun(&shared, who, index).await?, &asked).await
}

pub(crate) async fn complete(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Extension(origin): Extension<Origin>,
    Path(place): Place,
    request: Request,
) -> Result<Json<Artifact>, ApiError> {
    let (who, index) = read(place, node)?;
    let asked: CompleteArtifact = request_body::typed(request).await?;
    finish(&shared, begun(&shared, who, index).await?, &asked, &origin, Some(who)).await
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn any_name_of_a_file_becomes_one_that_can_be_told() {
        assert_eq!(file_name("model.pt", "resnet"), "model.pt");
        assert_eq!(file_name("a/b\nc", "resnet"), "a_b_c");
        assert_eq!(file_name("..", "resnet"), "resnet");
        assert_eq!(file_name("", "resnet"), "resnet");
        let long = file_name(&"é".repeat(200), "resnet");
        assert_eq!(long, "é".repeat(127));
    }
}
