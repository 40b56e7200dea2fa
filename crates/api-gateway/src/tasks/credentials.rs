//! `POST /tasks/{id}/credentials`: for programs that move the files of a task in place of its node's agent.

use super::{find, task_id};
use crate::{AppState, auth::permit, failed::failed};
use api_types::{Problem, access::AttemptCredential};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::{TimeDelta, Utc};
use domain::{
    attempt::AttemptRow,
    principal::{Origin, Permission},
};
use service_kit::ApiError;

/// An admin's: whoever has it decides what a task's outputs are.
pub(crate) async fn issue(
    State(state): State<AppState>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let task = find(&state, &origin.principal, task_id(&id)?).await?;
    let live = task.attempts.iter().map(|attempt| &attempt.row).rfind(|attempt| !attempt.state.is_terminal());
    let attempt = live.ok_or_else(|| no_attempt(task.view.state))?;
    let issued = state.access.issue_attempt_token(origin.principal.id, attempt.held(), attempt.node).await;
    let (token, holds_s) =
        issued.map_err(failed)?.ok_or_else(|| ApiError::new("internal", "No key signs tokens on this server."))?;
    let expires_at = Utc::now() + TimeDelta::seconds(i64::try_from(holds_s).unwrap_or(0));
    state.store.note_credential(task.view.project, attempt.held(), expires_at, &origin).await.map_err(failed)?;
    let AttemptRow { id, fence, .. } = attempt;
    let path = format!("/api/v1/node/attempts/{id}/{fence}");
    let credential = AttemptCredential { token, token_type: "Bearer".to_owned(), expires_at, attempt: *id, path };
    let mut response = Json(credential).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn no_attempt(state: domain::task::TaskState) -> ApiError {
    let problem = if state.is_terminal() {
        Problem::new("already-ended", format!("The task has {state}: no attempt moves files any more."))
    } else {
        let detail = format!("The task is {state}: no attempt holds it, so there is none to give a credential for.");
        Problem::new("not-placed", detail)
    };
    problem.with("state", state.as_str()).into()
}
