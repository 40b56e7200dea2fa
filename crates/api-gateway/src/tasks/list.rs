//! `GET /tasks`: live ones first, then the newest, page by page.

use super::{bad_parameter, view};
use crate::{AppState, failed::failed};
use api_types::{
    page::{DEFAULT_LIMIT, MAX_LIMIT},
    task::{TaskPage, TaskQuery},
};
use axum::{Extension, Json, extract::State, http::Uri};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::{fault::did_you_mean, ids::TaskId, principal::Principal, task::TaskState};
use service_kit::{ApiError, request_body};
use store::{ListCursor, TaskFilter};

pub(crate) async fn list(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Json<TaskPage>, ApiError> {
    let query: TaskQuery = request_body::query(&uri)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad_parameter("limit", format!("limit is {limit}; 1 to {MAX_LIMIT} are taken.")));
    }
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let filter = filter(query)?;
    let found = state.store.list_tasks(principal.scope(), &filter, after, limit).await.map_err(failed)?;
    Ok(Json(TaskPage {
        tasks: found.tasks.into_iter().map(view::summary).collect(),
        found: found.found,
        live: found.live,
        counts_are_minimum: found.counts_are_minimum,
        next_cursor: found.next.map(write_cursor),
    }))
}

fn filter(query: TaskQuery) -> Result<TaskFilter, ApiError> {
    let states = query.state.as_deref().unwrap_or("").split(',').filter(|word| !word.is_empty());
    let states = states.map(read_state).collect::<Result<Vec<TaskState>, ApiError>>()?;
    let label = match query.label.as_deref().map(|label| label.split_once('=')) {
        None => None,
        Some(Some((key, value))) if !key.is_empty() => Some((key.to_owned(), value.to_owned())),
        Some(_) => return Err(bad_parameter("label", "A label is asked for as key=value.")),
    };
    if let Some(ending) = &query.id_suffix
        && (!(6..=36).contains(&ending.len()) || !ending.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
    {
        return Err(bad_parameter("id_suffix", "An id's ending has 6 hex digits or more."));
    }
    let (name, name_is_prefix) = match query.name {
        Some(name) => match name.strip_suffix('*') {
            Some(beginning) => (Some(beginning.to_owned()), true),
            None => (Some(name), false),
        },
        None => (None, false),
    };
    Ok(TaskFilter {
        states,
        project: query.project,
        node: query.node,
        name,
        name_is_prefix,
        label,
        id_suffix: query.id_suffix,
    })
}

fn read_state(word: &str) -> Result<TaskState, ApiError> {
    word.parse().map_err(|_| {
        let known = TaskState::ALL.map(TaskState::as_str);
        let hint = match did_you_mean(word, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}.", known.join(", ")),
        };
        let cut: String = word.chars().take(40).collect();
        bad_parameter("state", format!("{cut:?} is no state; {hint}"))
    })
}

/// One byte for `live`, then the id.
fn write_cursor((live, id): ListCursor) -> String {
    let mut bytes = vec![u8::from(live)];
    bytes.extend_from_slice(id.as_uuid().as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &str) -> Result<ListCursor, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    match bytes.split_first() {
        Some((live @ (0 | 1), id)) if id.len() == 16 => {
            let id = uuid::Uuid::from_slice(id).map_err(|_| bad_cursor())?;
            Ok((*live == 1, TaskId::from_uuid(id)))
        }
        _ => Err(bad_cursor()),
    }
}

fn bad_cursor() -> ApiError {
    bad_parameter("cursor", "This is no cursor; take next_cursor of the page before as it is.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_refused() {
        let cursor = (true, TaskId::from_uuid(uuid::Uuid::from_u128(7)));
        assert_eq!(read_cursor(&write_cursor(cursor)).ok(), Some(cursor));
        for hostile in ["", "x", "AAAA", "'; drop table tasks", &"A".repeat(10_000), "AgAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(read_cursor(hostile).is_err(), "{hostile}");
        }
    }
}
