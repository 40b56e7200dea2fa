//! Artifacts as people see them, and their removal.

use crate::{
    refusals::{bad_parameter, cut, failed, in_time, in_use, no_such_artifact, permit},
    routes::Shared,
};
use api_types::{
    Problem,
    artifact::{Artifact, ArtifactList, Upload},
    page::{DEFAULT_LIMIT, MAX_LIMIT},
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::Uri,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::{
    artifact::{ArtifactRef, ArtifactState, is_artifact_name},
    fault::Fault,
    ids::{ArtifactId, DEFAULT_PROJECT, ProjectId},
    principal::{Origin, Permission, Principal, Scope},
};
use serde::Deserialize;
use service_kit::{ApiError, request_body};
use store::{ArtifactFilter, ArtifactView, NewArtifact, RemovedArtifact, Store};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProjectQuery {
    project: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListQuery {
    project: Option<String>,
    name: Option<String>,
    state: Option<String>,
    label: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) async fn get(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<Artifact>, ApiError> {
    permit(&principal, Permission::Look)?;
    find(&shared.store, &principal, &name, &uri).await.map(view).map(Json)
}

pub(crate) async fn list(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Json<ArtifactList>, ApiError> {
    permit(&principal, Permission::Look)?;
    let query: ListQuery = request_body::query(&uri)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad_parameter("limit", format!("limit is {limit}; 1 to {MAX_LIMIT} are taken.")));
    }
    let read = |text: String| {
        let last = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|last| String::from_utf8(last).ok());
        last.and_then(|last| last.parse::<ArtifactId>().ok())
            .ok_or_else(|| bad_parameter("cursor", "This is no cursor; take next_cursor of the page before as it is."))
    };
    let before = query.cursor.map(read).transpose()?;
    if let Some(name) = query.name.as_ref().filter(|name| !is_artifact_name(name)) {
        return Err(bad_parameter("name", format!("{:?} is no name of an artifact.", cut(name))));
    }
    let states = query.state.as_deref().map(read_states).transpose()?;
    let labels = query.label.iter().flat_map(|labels| labels.split(',')).map(|label| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (label.to_owned(), None),
    });
    let filter = ArtifactFilter { name: query.name, states, labels: labels.collect() };
    let scope = match query.project {
        Some(slug) => Scope::Project(project(&shared.store, &principal, Some(&slug)).await?),
        None => principal.scope(),
    };
    let page = shared.store.list_artifacts(scope, &filter, before, limit as usize).await.map_err(failed)?;
    Ok(Json(ArtifactList {
        artifacts: page.artifacts.into_iter().map(view).collect(),
        next_cursor: page.next.map(|next| BASE64_URL_SAFE_NO_PAD.encode(next.to_string())),
    }))
}

fn read_states(text: &str) -> Result<Vec<ArtifactState>, ApiError> {
    use ArtifactState::{Corrupt, Deleted, Expired, Ready, Uploading};
    let all = [Uploading, Ready, Corrupt, Expired, Deleted];
    if text == "all" {
        return Ok(all.to_vec());
    }
    let read = |word: &str| {
        ArtifactState::parse(word).ok_or_else(|| {
            let known = all.map(ArtifactState::as_str).join(", ");
            bad_parameter("state", format!("{:?} is no state; {known} and all are.", cut(word)))
        })
    };
    text.split(',').map(read).collect()
}

/// The first of two steps: nobody can name it from now on. Its bytes are deleted later, unless another artifact has the same. Refused while tasks
/// that have not ended read it.
pub(crate) async fn remove(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<Artifact>, ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    let found = find(&shared.store, &origin.principal, &name, &uri).await?;
    let removed = shared.store.remove_artifact(found.id, shared.times.grace, &origin).await.map_err(failed)?;
    match removed {
        RemovedArtifact::Removed(artifact) => Ok(Json(view(artifact))),
        RemovedArtifact::InUse { artifact, tasks } => Err(in_use(&artifact, &tasks)),
        RemovedArtifact::NotFound => Err(no_such_artifact("It was there a moment ago.")),
    }
}

/// What a path names, in the project that the query or the caller's key says.
pub(crate) async fn find(
    store: &Store,
    principal: &Principal,
    name: &str,
    uri: &Uri,
) -> Result<ArtifactView, ApiError> {
    let ProjectQuery { project: slug } = request_body::query(uri)?;
    let wanted: ArtifactRef =
        name.parse().map_err(|error| no_such_artifact(format!("{:?} names no artifact: {error}.", cut(name))))?;
    let project = project(store, principal, slug.as_deref()).await?;
    let found = store.find_artifact(principal.scope(), project, &wanted).await.map_err(failed)?;
    found.ok_or_else(|| no_such_artifact(format!("No artifact {wanted} in the projects you can see.")))
}

/// An artifact by its id only: what is uploaded has no other name.
pub(crate) async fn find_by_id(store: &Store, principal: &Principal, id: &str) -> Result<ArtifactView, ApiError> {
    let id: ArtifactId =
        id.parse().map_err(|_| no_such_artifact(format!("{:?} is not the id of an artifact.", cut(id))))?;
    let name = ArtifactRef::Id(id);
    let found = in_time(store.find_artifact(principal.scope(), DEFAULT_PROJECT, &name)).await.map_err(failed)?;
    found.ok_or_else(|| no_such_artifact(format!("No artifact {id} in the projects you can see.")))
}

/// The project of this slug; without one the caller's own. One that the caller can't see does not exist.
pub(crate) async fn project(store: &Store, principal: &Principal, slug: Option<&str>) -> Result<ProjectId, ApiError> {
    let Some(slug) = slug else { return Ok(principal.project.unwrap_or(DEFAULT_PROJECT)) };
    let found = store.project_by_slug(slug).await.map_err(failed)?;
    found.filter(|found| principal.project.is_none_or(|own| own == *found)).ok_or_else(|| {
        let detail = format!("There is no project {:?} among those you can see.", cut(slug));
        let fault = Fault::new("#/project", "no_such_project", detail.clone());
        Problem::new("no-such-project", detail).errors(vec![fault]).into()
    })
}

/// What is told of an announced upload. `new`: as it would be announced now, if the one of before is over.
pub(crate) fn upload(artifact: ArtifactView, new: &NewArtifact) -> Upload {
    let (part_size, least_part) = match artifact.part_size {
        Some(part_size) => (part_size, artifact.least_part),
        None => (new.part_size, new.least_part),
    };
    Upload { artifact: view(artifact), part_size, least_part }
}

pub(crate) fn view(artifact: ArtifactView) -> Artifact {
    let is_uploading = artifact.state == ArtifactState::Uploading;
    Artifact {
        id: artifact.id,
        project: artifact.project_slug,
        name: artifact.name,
        version: artifact.version,
        kind: artifact.kind,
        state: artifact.state,
        size: artifact.size,
        sha256: artifact.sha256,
        media_type: artifact.media_type,
        file_name: artifact.file_name,
        labels: artifact.labels,
        pinned: artifact.pinned,
        attempt: artifact.attempt,
        created_by: artifact.created_by,
        created_at: artifact.created_at,
        ready_at: artifact.ready_at,
        stored_bytes: artifact.stored_bytes.filter(|_| is_uploading),
    }
}
