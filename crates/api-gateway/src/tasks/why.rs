//! `GET /tasks/{id}/why`: gathers what is known; the answer is made by [`crate::why`].

use super::{find, task_id};
use crate::{
    AppState,
    failed::failed,
    why::{Known, explain},
};
use api_types::why::Why;
use axum::{
    Extension, Json,
    extract::{Path, State},
};
use domain::{
    ids::TaskId,
    principal::{Principal, Scope},
};
use service_kit::ApiError;
use store::{EventRow, Store, StoreError};

const TAIL_BYTES: usize = 4 * 1024;
const HISTORY_PAGE: i64 = 200;
/// A task with a longer history is shown by the first part of it; no real one has so many entries.
const HISTORY_PAGES: usize = 100;

pub(crate) async fn why(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Why>, ApiError> {
    let id = task_id(&id)?;
    let task = find(&state, &principal, id).await?;
    let history = history(&state.store, principal.scope(), id).await.map_err(failed)?;
    let before = if task.view.queued { state.store.tasks_before(id).await.map_err(failed)? } else { 0 };
    let log_tail = match task.attempts.last() {
        Some(attempt) if task.view.state.is_terminal() => {
            state.store.log_tail(attempt.row.id, TAIL_BYTES).await.map_err(failed)?
        }
        _ => Vec::new(),
    };
    let nodes = state.fleet.current().await.map_err(failed)?;
    let now = state.store.now().await.map_err(failed)?;
    Ok(Json(explain(&Known { now, task: &task, nodes: &nodes, history: &history, before, log_tail: &log_tail })))
}

async fn history(store: &Store, scope: Scope, id: TaskId) -> Result<Vec<EventRow>, StoreError> {
    let mut all: Vec<EventRow> = Vec::new();
    for _ in 0..HISTORY_PAGES {
        let after = all.last().map_or(0, |entry| entry.seq);
        let page = store.task_history(scope, id, after, HISTORY_PAGE).await?;
        let is_last = page.len() < HISTORY_PAGE as usize;
        all.extend(page);
        if is_last {
            break;
        }
    }
    Ok(all)
}
