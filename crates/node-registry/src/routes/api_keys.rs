//! API keys of people and programs.

use super::{bad_cursor, bad_field, cut, failed, missing, page, permit, write_cursor};
use crate::issue;
use api_types::{
    Problem,
    access::{ApiKey, ApiKeyList, CreateApiKey, CreatedApiKey},
};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{StatusCode, Uri, header},
    response::IntoResponse,
};
use domain::{
    fault::Fault,
    ids::{ApiKeyId, DEFAULT_PROJECT},
    principal::{Origin, Permission, Principal, Role},
};
use service_kit::{ApiError, request_body};
use store::{ApiKeyRecord, Store};

pub(super) async fn create(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let wanted: CreateApiKey = request_body::typed(request).await?;
    let name = wanted.name.trim().to_owned();
    if !(1..=100).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(bad_field("#/name", "bad_name", "A key's name is one line of 1 to 100 characters."));
    }
    if wanted.expires_in_days.is_some_and(|days| !(1..=3_650).contains(&days)) {
        return Err(bad_field("#/expires_in_days", "out_of_range", "A key expires in 1 to 3650 days, or never."));
    }
    let project = match &wanted.project {
        None => DEFAULT_PROJECT,
        Some(slug) => store.project_by_slug(slug).await.map_err(failed)?.ok_or_else(|| no_such_project(slug))?,
    };
    let issued = issue::create_api_key(&store, project, &name, wanted.role, wanted.expires_in_days, &origin).await;
    let (id, key) = issued.map_err(failed)?;
    let body = CreatedApiKey { id, name, role: wanted.role, key };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)))
}

pub(super) async fn list(
    State(store): State<Store>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Json<ApiKeyList>, ApiError> {
    permit(&principal, Permission::Administer)?;
    let (limit, cursor) = page(&uri)?;
    let before = cursor.map(|id| id.parse().map_err(|_| bad_cursor())).transpose()?;
    let keys = store.list_api_keys(before, limit).await.map_err(failed)?;
    let next_cursor = keys.last().filter(|_| keys.len() == limit).map(|last| write_cursor(&last.id.to_string()));
    Ok(Json(ApiKeyList { api_keys: keys.into_iter().map(view).collect(), next_cursor }))
}

pub(super) async fn revoke(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let no_such_key =
        || missing("no-such-token", format!("There is no API key {:?}; GET /api/v1/api-keys lists them.", cut(&id)));
    let key: ApiKeyId = id.parse().map_err(|_| no_such_key())?;
    if store.revoke_api_key(key, &origin).await.map_err(failed)? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_key())
    }
}

fn no_such_project(slug: &str) -> ApiError {
    let detail = format!("There is no project {:?}.", cut(slug));
    let fault = Fault::new("#/project", "no_such_project", detail.clone());
    Problem::new("no-such-project", detail).errors(vec![fault]).into()
}

fn view(key: ApiKeyRecord) -> ApiKey {
    ApiKey {
        id: key.id,
        name: key.name,
        role: key.role,
        // An admin's key acts in all of them.
        project: (key.role != Role::Admin).then_some(key.project_slug),
        created_by: key.created_by,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
    }
}
