//! `POST /tasks/{id}/retry`: queues an ended task once more, under its own id.

use super::{find, no_such_task, task_id, view};
use crate::{AppState, auth::permit, failed::failed};
use api_types::{Problem, task::Task};
use axum::{
    Extension, Json,
    extract::{Path, State},
};
use domain::{
    principal::{Origin, Permission},
    spec::Input,
};
use service_kit::ApiError;
use store::Retried;

pub(crate) async fn retry(
    State(state): State<AppState>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
) -> Result<Json<Task>, ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    let id = task_id(&id)?;
    match state.store.retry_task(origin.principal.scope(), id, &origin).await.map_err(failed)? {
        Retried::Queued => {}
        Retried::NotFound => return Err(no_such_task(id)),
        Retried::NotEnded(at) => {
            let detail = format!("The task is {at}; it can be run once more when it has ended, or cancelled now.");
            return Err(Problem::new("not-ended", detail).with("state", at.as_str()).into());
        }
        Retried::InputsGone(inputs) => return Err(inputs_gone(&inputs)),
    }
    Ok(Json(view::detail(find(&state, &origin.principal, id).await?)))
}

/// What a task reads is kept while it lives, and not longer.
fn inputs_gone(inputs: &[Input]) -> ApiError {
    let name = |input: &Input| match &input.pinned {
        Some(pinned) => format!("{}@{}", pinned.name, pinned.version),
        None => input.artifact.to_string(),
    };
    let names = inputs.iter().map(name).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "The task read {names}, which can't be read any more. Submit another task that names what is there; unidesk artifact list shows it."
    );
    Problem::new("artifact-not-ready", detail).with("inputs", names).into()
}
