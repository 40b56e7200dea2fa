//! `GET /tasks/{id}/events`: the task's history as a stream of events, from its beginning or from where the reader stopped, and on
//! until the task has ended.

use super::{bad_header, find, task_id};
use crate::{
    AppState,
    streaming::{self, Changes, Cut, Sink},
};
use api_types::event::TaskEvent;
use axum::{
    Extension,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use domain::{
    ids::TaskId,
    principal::{Principal, Scope},
    task::TaskState,
};
use serde_json::{Value, json};
use service_kit::{ApiError, serve::HangUp};
use std::time::Duration;
use store::{EventRow, Store, Topic};

const PAGE: i64 = 200;
const POLL: Duration = Duration::from_secs(1);

/// Where a reader stands. One entry of the history holds all events of one moment: of the entry after `after_seq`, the first `seen`
/// are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    after_seq: i64,
    seen: usize,
}

pub(crate) async fn events(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    hang_up: Option<Extension<HangUp>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = task_id(&id)?;
    let cursor = match streaming::last_event_id(&headers) {
        None => Cursor { after_seq: 0, seen: 0 },
        Some(text) => read_cursor(text)
            .ok_or_else(|| bad_header("Last-Event-ID", "This is the id of no event of this stream."))?,
    };
    let changes = Changes::of(state.store.wakeups(), vec![Topic::Task(id)]);
    let is_over = find(&state, &principal, id).await?.view.state;
    let (store, scope) = (state.store.clone(), principal.scope());
    let hang_up = hang_up.map(|Extension(hang_up)| hang_up);
    Ok(streaming::answer(&state.service, streaming::EVENTS, hang_up, move |sink| {
        follow(store, scope, id, cursor, is_over, sink, changes)
    }))
}

async fn follow(
    store: Store,
    scope: Scope,
    id: TaskId,
    mut cursor: Cursor,
    mut at: TaskState,
    mut sink: Sink,
    mut changes: Changes,
) -> Result<(), Cut> {
    // A comment at once, so that the reader knows that it is heard.
    sink.send(": here\n\n").await?;
    loop {
        let page = store.task_history(scope, id, cursor.after_seq, PAGE).await?;
        let is_whole = page.len() < PAGE as usize;
        let mut text = String::new();
        for entry in page {
            at = entry.state;
            let after_seq = entry.seq;
            // Only the last one of an entry has the entry's number, so that a cut in between loses none.
            write_events(&mut text, &entry, cursor.seen, |event| match event {
                None => after_seq.to_string(),
                Some(event) => format!("{after_seq}.{event}"),
            });
            cursor = Cursor { after_seq, seen: 0 };
        }
        sink.send(text).await?;
        if is_whole && at.is_terminal() {
            return sink.send(streaming::event("", "end", &json!({ "state": at }))).await;
        }
        if is_whole {
            sink.wait(&mut changes, POLL).await?;
        }
    }
}

/// Writes the events of an entry after the first `seen`. `id`: of the entry as a whole, or of the event with this index in it.
pub(crate) fn write_events(text: &mut String, entry: &EventRow, seen: usize, id: impl Fn(Option<usize>) -> String) {
    let last = entry.events.len().saturating_sub(1);
    for (n, event) in entry.events.iter().enumerate().skip(seen) {
        let event = event.clone();
        let event = TaskEvent { seq: entry.seq, task: entry.task, at: entry.at, state: entry.state, event };
        let data = serde_json::to_value(&event).unwrap_or(Value::Null);
        let name = data.get("event").and_then(Value::as_str).unwrap_or("event").to_owned();
        text.push_str(&streaming::event(&id((n != last).then_some(n)), &name, &data));
    }
}

/// `12`: all of entry 12 is known. `12.0`: its first event is.
fn read_cursor(text: &str) -> Option<Cursor> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    match text.split_once('.') {
        None => Some(Cursor { after_seq: number(text)?, seen: 0 }),
        Some((seq, n)) => Some(Cursor {
            after_seq: number(seq)?.checked_sub(1)?,
            seen: usize::try_from(number(n)?).ok()?.checked_add(1)?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_inside_an_entry_goes_on_inside_it() {
        assert_eq!(read_cursor("12"), Some(Cursor { after_seq: 12, seen: 0 }));
        assert_eq!(read_cursor("12.0"), Some(Cursor { after_seq: 11, seen: 1 }));
        for hostile in ["", "x", "-1", "1.", ".1", "1.2.3", "99999999999999999999"] {
            assert_eq!(read_cursor(hostile), None, "{hostile}");
        }
    }
}
