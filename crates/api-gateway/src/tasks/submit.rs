//! `POST /tasks`: accepts one task.

use super::{
    inputs::{self, Unpinned},
    submission::{Projects, check, deleted_since, idempotency_key, key_reused},
    view,
};
use crate::{AppState, auth::permit, failed::failed, fleet};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use domain::principal::{Permission, Principal};
use service_kit::{ApiError, request_body};
use std::sync::Arc;
use store::Submitted;

pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(crate) async fn submit(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    permit(&principal, Permission::RunTasks)?;
    let key = idempotency_key(request.headers())?;
    let body = request_body::json(request, request_body::MAX_BODY_BYTES).await?;
    let checked = check(&body).map_err(ApiError)?;
    let project = Projects::new(&state, &principal).resolve(checked.project.as_deref()).await?.map_err(ApiError)?;
    let mut new = checked.into_new(&principal, project, key.map(|key| (key, None)));
    let (answer, written) = match inputs::pin(&state, std::slice::from_mut(&mut new)).await?.pop_first() {
        Some((_, Unpinned::Refused(problem))) => return Err(ApiError(problem)),
        Some((_, Unpinned::Stands(answer))) => (Some(answer), None),
        None => {
            let mut written = state.submissions.call_unless_busy(Arc::from([new.clone()])).await.map_err(failed)?;
            (written.answers.pop(), Some(written))
        }
    };
    let (mut task, is_replayed) = match (answer, written) {
        // As it was accepted: nothing need be read again.
        (Some(Submitted::Accepted { id }), Some(submission)) => {
            (view::accepted(id, &new, &submission, &principal), false)
        }
        (Some(Submitted::Replayed { id }), _) => {
            let first = state.store.get_task(principal.scope(), id).await.map_err(failed)?;
            (view::detail(first.ok_or_else(|| ApiError(deleted_since(id)))?), true)
        }
        (Some(Submitted::KeyReused { first }), _) => {
            return Err(ApiError(key_reused(&state, &principal, first, &new.spec).await?));
        }
        (Some(Submitted::InputGone), _) => return Err(ApiError(inputs::gone())),
        (None | Some(Submitted::Accepted { .. }), _) => {
            return Err(ApiError::new("internal", "The store gave no answer."));
        }
    };
    let id = task.id;
    // The task is accepted: a warning that can't be had now is no reason to say otherwise.
    if let Ok(nodes) = state.fleet.candidates().await
        && !task.state.is_terminal()
    {
        task.warnings.extend(fleet::impossible(&nodes, &new.spec.needs()).map(fleet::Impossible::into_warning));
    }
    let status = if is_replayed { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = (status, Json(task)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/tasks/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
