//! `POST /tasks/{id}/cancel`: 200 when the task has ended by it, 202 when its node is told. Safe to repeat.

use super::{find, no_such_task, task_id, view};
use crate::{AppState, auth::permit, failed::failed};
use api_types::{Problem, task::Task};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use domain::{
    ids::TaskId,
    principal::{Origin, Permission},
    task::TaskState,
};
use service_kit::ApiError;
use store::Cancelled;

pub(crate) async fn cancel(
    State(state): State<AppState>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Task>), ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    let id = task_id(&id)?;
    let status = match state.store.cancel_task(origin.principal.scope(), id, &origin).await.map_err(failed)? {
        Cancelled::Done => StatusCode::OK,
        Cancelled::Requested => StatusCode::ACCEPTED,
        Cancelled::AlreadyEnded(ended) => return Err(already_ended(&state, &origin, id, ended).await?),
        Cancelled::NotFound => return Err(no_such_task(id)),
    };
    let task = find(&state, &origin.principal, id).await?;
    Ok((status, Json(view::detail(task))))
}

async fn already_ended(state: &AppState, origin: &Origin, id: TaskId, ended: TaskState) -> Result<ApiError, ApiError> {
    let task = find(state, &origin.principal, id).await?;
    let now = state.store.now().await.map_err(failed)?;
    let ago = task.view.ended_at.map_or(0, |at| (now - at).num_seconds().max(0) as u64);
    let what = match ended {
        TaskState::Succeeded => "succeeded",
        TaskState::Cancelled => "was cancelled",
        _ => "failed",
    };
    let detail = format!("The task {what} {}; there is nothing to cancel.", long_ago(ago));
    Ok(Problem::new("already-ended", detail).with("state", ended.as_str()).into())
}

/// `just now`, `1 minute ago`, `3 hours ago`.
fn long_ago(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..5 => return "just now".to_owned(),
        5..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::long_ago;

    #[test]
    fn people_read_the_largest_unit() {
        let said = [0, 59, 60, 200, 7_300, 200_000].map(long_ago);
        assert_eq!(said, ["just now", "59 seconds ago", "1 minute ago", "3 minutes ago", "2 hours ago", "2 days ago"]);
    }
}
