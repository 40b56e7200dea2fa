//! `GET /tasks/{id}`

use super::{find, task_id, view};
use crate::{AppState, failed::failed};
use api_types::task::Task;
use axum::{
    Extension, Json,
    extract::{Path, State},
};
use domain::{ids::AttemptId, principal::Principal, task::TaskState};
use service_kit::ApiError;

pub(crate) async fn get(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Task>, ApiError> {
    let task = find(&state, &principal, task_id(&id)?).await?;
    let outputs = match task.spec.outputs.is_empty() {
        true => Vec::new(),
        false => {
            let with_some = task.attempts.iter().rev().filter(|attempt| attempt.row.outputs_stored > 0);
            let attempts: Vec<AttemptId> = with_some.map(|attempt| attempt.row.id).collect();
            state.store.outputs_of(&attempts).await.map_err(failed)?
        }
    };
    let artifacts = outputs.into_iter().filter_map(view::output).collect();
    // What has succeeded goes on nowhere, although some may still be there.
    let keeps_some = task.spec.checkpoints.is_some() && task.view.state != TaskState::Succeeded;
    let checkpoint = match keeps_some {
        false => None,
        true => state.store.newest_checkpoints(task.view.id, 1).await.map_err(failed)?.pop(),
    };
    Ok(Json(Task { artifacts, checkpoint: checkpoint.and_then(view::checkpoint), ..view::detail(task) }))
}
