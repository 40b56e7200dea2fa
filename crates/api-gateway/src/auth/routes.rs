//! An API key for a short-lived token, and who one is.

use super::nobody;
use crate::{AppState, failed::failed};
use api_types::access::{TokenAnswer, TokenRequest, WhoAmI};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use domain::principal::{Principal, Role};
use service_kit::{ApiError, request_body};

/// `POST /auth/token`
pub(crate) async fn exchange(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let TokenRequest { api_key } = request_body::typed(request).await?;
    let key = state.access.by_key(&api_key).await.map_err(failed)?;
    let key = key.ok_or_else(|| nobody("The API key is not valid: mistyped, expired or revoked."))?;
    let issued = state.access.issue_token(&key).await.map_err(failed)?;
    let (access_token, expires_in_s) =
        issued.ok_or_else(|| ApiError::new("internal", "No key signs tokens on this server."))?;
    let mut response =
        Json(TokenAnswer { access_token, token_type: "Bearer".to_owned(), expires_in_s }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /auth/whoami`
pub(crate) async fn whoami(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<WhoAmI>, ApiError> {
    let key = state.access.by_id(principal.id.as_uuid()).await.map_err(failed)?;
    let project = key.filter(|key| key.role != Role::Admin).map(|key| key.project_slug.clone());
    Ok(Json(WhoAmI {
        kind: principal.kind.as_str().to_owned(),
        name: principal.name,
        role: principal.role,
        project,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}
