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
    ids::{AttemptId, TaskId},
    principal::{Principal, Scope},
};
use service_kit::ApiError;
use std::time::{Duration, Instant};
use store::{EventRow, LogTail, Store, StoreError};

const TAIL_BYTES: usize = 4 * 1024;
/// Whoever asks why does not wait longer for the last lines of a log.
const ARCHIVE_WITHIN: Duration = Duration::from_secs(3);
/// Most often the last piece has all of it.
const ARCHIVED_PIECES: usize = 8;
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
        Some(attempt) if task.view.state.is_terminal() => log_tail(&state, attempt.row.id).await.map_err(failed)?,
        _ => Vec::new(),
    };
    let nodes = state.fleet.current().await.map_err(failed)?;
    let now = state.store.now().await.map_err(failed)?;
    Ok(Json(explain(&Known { now, task: &task, nodes: &nodes, history: &history, before, log_tail: &log_tail })))
}

/// The end of a log. Evidence, and no more: without the object store there is less of it.
async fn log_tail(state: &AppState, attempt: AttemptId) -> Result<Vec<u8>, StoreError> {
    let LogTail { bytes, streams, mut before } = state.store.log_tail(attempt, TAIL_BYTES).await?;
    let Some(archive) = &state.archive else { return Ok(bytes) };
    let until = Instant::now() + ARCHIVE_WITHIN;
    let mut tail = bytes;
    for _ in 0..ARCHIVED_PIECES {
        let Some(piece) = before.filter(|_| tail.len() < TAIL_BYTES) else { break };
        let left = until.saturating_duration_since(Instant::now());
        let chunks = match tokio::time::timeout(left, archive.read(&piece)).await {
            Ok(Ok(chunks)) => chunks,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the archived end of a log could not be read");
                break;
            }
            Err(_) => break,
        };
        let mut earlier = Vec::new();
        chunks.iter().filter(|it| streams.contains(&it.stream)).for_each(|it| earlier.extend_from_slice(&it.data));
        earlier.extend_from_slice(&tail);
        tail = earlier;
        before = state.store.archived_before(attempt, piece.first_ordinal, &streams).await?;
    }
    Ok(tail.split_off(tail.len().saturating_sub(TAIL_BYTES)))
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
