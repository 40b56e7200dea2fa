//! `GET /events`: the events of all tasks that the caller may see, from the beginning, from now on or from where the reader stopped;
//! without an end, unless the reader wants one.

use crate::{
    AppState,
    failed::failed,
    streaming::{self, Changes, Cut, Sink},
    tasks::{bad_header, events::write_events},
};

use api_types::event::{Begin, EventsQuery};
use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use domain::principal::{Principal, Scope};
use serde_json::json;
use service_kit::{ApiError, request_body, serve::HangUp};
use std::time::Duration;
use store::{FeedCursor, Store};

const PAGE: i64 = 200;
const POLL: Duration = Duration::from_secs(1);
/// What happens within such a time is read at once: a busy platform is not asked once per event and reader.
const GATHER: Duration = Duration::from_millis(50);

/// Where a reader stands: after this place, of whose next entry the first `seen` events are known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    place: FeedCursor,
    seen: usize,
}

pub(crate) async fn events(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
    hang_up: Option<Extension<HangUp>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query: EventsQuery = request_body::query(&uri)?;
    let changes = Changes::of_every_task(state.store.wakeups());
    let end = state.store.feed_end().await.map_err(failed)?;
    let cursor = match streaming::last_event_id(&headers) {
        None => {
            let place = if query.from == Begin::Beginning { FeedCursor::beginning() } else { end };
            Cursor { place, seen: 0 }
        }
        Some(text) => {
            let cursor = read_cursor(text)
                .ok_or_else(|| bad_header("Last-Event-ID", "This is the id of no event of this stream."))?;
            if cursor.place.is_ahead_of(&end) {
                let detail = "This event is not known here: the database was restored to an earlier moment. Begin anew, without Last-Event-ID.";
                return Err(bad_header("Last-Event-ID", detail));
            }
            cursor
        }
    };
    let (store, scope) = (state.store.clone(), principal.scope());
    let hang_up = hang_up.map(|Extension(hang_up)| hang_up);
    Ok(streaming::answer(&state.service, streaming::EVENTS, hang_up, move |sink| {
        follow(store, scope, cursor, query.follow, sink, changes)
    }))
}

async fn follow(
    store: Store,
    scope: Scope,
    cursor: Cursor,
    goes_on: bool,
    mut sink: Sink,
    mut changes: Changes,
) -> Result<(), Cut> {
    let Cursor { mut place, mut seen } = cursor;
    // Its id lets a reader come back that was cut before it saw anything.
    let id = if seen == 0 { place.to_string() } else { String::new() };
    sink.send(streaming::event(&id, "here", &json!({}))).await?;
    loop {
        let page = store.feed_after(scope, &place, PAGE).await?;
        let mut text = String::new();
        for (n, entry) in page.entries.iter().enumerate() {
            let (before, after) = (page.place_after(n), page.place_after(n + 1));
            write_events(&mut text, entry, std::mem::take(&mut seen), |event| match event {
                None => after.to_string(),
                Some(event) => format!("{before}.{event}"),
            });
        }
        sink.send(text).await?;
        place = page.next;
        if !page.has_more && !goes_on {
            return sink.send(streaming::event(&place.to_string(), "end", &json!({}))).await;
        }
        if !page.has_more {
            sink.wait(&mut changes, POLL).await?;
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// A place; with `.3` after it, also the first four events of the entry that follows.
fn read_cursor(text: &str) -> Option<Cursor> {
    match text.split_once('.') {
        None => Some(Cursor { place: text.parse().ok()?, seen: 0 }),
        Some((place, n)) => {
            let n: usize = n.parse().ok().filter(|_| n.bytes().all(|byte| byte.is_ascii_digit()))?;
            Some(Cursor { place: place.parse().ok()?, seen: n.checked_add(1)? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_inside_an_entry_goes_on_inside_it() {
        let cursor = |text: &str| read_cursor(text).map(|cursor| (cursor.place.to_string(), cursor.seen));
        assert_eq!(cursor("10:20:10"), Some(("10:20:10".into(), 0)));
        assert_eq!(cursor("10:20:~10:21:~4.2"), Some(("10:20:~10:21:~4".into(), 3)));
        for hostile in ["", "x", "12", "10:20:.", "10:20:.x", "10:20:.-1", "10:20:.1.2", "10:20:.+1"] {
            assert_eq!(cursor(hostile), None, "{hostile}");
        }
    }
}
