//! Reads every history again by the rules themselves, which are `domain`'s.

use super::Broken;
use crate::{
    StoreError,
    json::{JsonText, read_json},
    rows::word,
};
use domain::lifecycle::{Event, replay::Replay};
use futures::{StreamExt, TryStreamExt};
use sqlx::PgConnection;
use std::future;
use uuid::Uuid;

struct Entry {
    task_id: Uuid,
    id: i64,
    state: String,
    events: JsonText,
    is_last: bool,
    live_attempt_id: Option<Uuid>,
}

/// One history at a time, whatever their number. A history is told of once: what comes after its first unlawful entry means nothing.
pub(super) fn unlawful(connection: &mut PgConnection) -> Broken<'_> {
    let entries = sqlx::query_as!(
        Entry,
        r#"SELECT e.task_id, e.id, e.state, e.events AS "events: JsonText", (lead(e.id) OVER (PARTITION BY e.task_id ORDER BY e.id) IS NULL) AS "is_last!",
                  s.live_attempt_id AS "live_attempt_id?"
           FROM task_events e LEFT JOIN task_state s ON s.task_id = e.task_id ORDER BY e.task_id, e.id"#
    )
    .fetch(connection);
    entries
        .err_into::<StoreError>()
        .scan(None, |reading: &mut Option<Reading>, entry| {
            future::ready(Some(match entry {
                Ok(entry) => {
                    if reading.as_ref().is_none_or(|reading| reading.task != entry.task_id) {
                        *reading = Some(Reading { task: entry.task_id, replay: Some(Replay::default()) });
                    }
                    Ok(reading.as_mut().and_then(|reading| reading.read(entry)))
                }
                Err(error) => Err(error),
            }))
        })
        .try_filter_map(|breach| future::ready(Ok(breach)))
        .boxed()
}

struct Reading {
    task: Uuid,
    /// None after the first breach.
    replay: Option<Replay>,
}

impl Reading {
    fn read(&mut self, entry: Entry) -> Option<String> {
        let replay = self.replay.as_mut()?;
        let lawful = (|| {
            let events: Vec<Event> = read_json(entry.events).map_err(|error| error.to_string())?;
            replay.entry(&events, word(&entry.state).map_err(|error| error.to_string())?)?;
            let live = replay.live().map(|live| live.as_uuid());
            if entry.is_last && live != entry.live_attempt_id {
                let name = |id: Option<Uuid>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
                return Err(format!(
                    "attempt {} lives by the history, and {} by the task's row",
                    name(live),
                    name(entry.live_attempt_id)
                ));
            }
            Ok(())
        })();
        let what: String = lawful.err()?;
        self.replay = None;
        Some(format!("task {}, entry {}: {what}", entry.task_id, entry.id))
    }
}
