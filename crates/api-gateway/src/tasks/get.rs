//! `GET /tasks/{id}`

use super::{find, task_id, view};
use crate::AppState;
use api_types::task::Task;
use axum::{
    Extension, Json,
    extract::{Path, State},
};
use domain::principal::Principal;
use service_kit::ApiError;

pub(crate) async fn get(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Task>, ApiError> {
    let task = find(&state, &principal, task_id(&id)?).await?;
    Ok(Json(view::detail(task)))
}
