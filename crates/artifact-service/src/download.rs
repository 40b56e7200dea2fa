//! Where the bytes of an artifact are.

use crate::{
    looking::{find, view},
    refusals::{failed, no_such_artifact, objects, objects_failed, permit},
    routes::Shared,
};
use api_types::{
    Problem,
    artifact::{Download, SignedRequest},
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use domain::{
    artifact::ArtifactState,
    principal::{Permission, Principal},
};
use service_kit::ApiError;
use store::ArtifactView;

pub(crate) async fn download(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (artifact, get) = address(&shared, &principal, &name, &headers, &uri).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Download { artifact: view(artifact), get })).into_response())
}

pub(crate) async fn content(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (_, get) = address(&shared, &principal, &name, &headers, &uri).await?;
    Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, get.url), (header::CACHE_CONTROL, "no-store".to_owned())])
        .into_response())
}

async fn address(
    shared: &Shared,
    principal: &Principal,
    name: &str,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(ArtifactView, SignedRequest), ApiError> {
    permit(principal, Permission::Look)?;
    objects(shared)?;
    let artifact = find(&shared.store, principal, name, uri).await?;
    let get = address_of(shared, headers, &artifact).await?;
    Ok((artifact, get))
}

/// Where the bytes of this artifact are. The caller may read it.
pub(crate) async fn address_of(
    shared: &Shared,
    headers: &HeaderMap,
    artifact: &ArtifactView,
) -> Result<SignedRequest, ApiError> {
    let objects = objects(shared)?;
    let object = match (artifact.state, artifact.object) {
        (ArtifactState::Ready, Some(object)) => object,
        (state, _) => {
            let detail = match state {
                ArtifactState::Uploading => "It is still uploaded; nobody can read it before all of it is there.",
                ArtifactState::Corrupt => {
                    "Its bytes were found not to be what they were, so they are handed out to nobody."
                }
                _ => "It was removed.",
            };
            return Err(Problem::new("artifact-not-ready", detail).with("state", state.as_str()).into());
        }
    };
    let key = shared.store.object_key(object).await.map_err(failed)?;
    let key = key.ok_or_else(|| no_such_artifact("It was removed a moment ago."))?;
    objects.signer(headers).get(&key, &artifact.file_name).await.map_err(objects_failed)
}
