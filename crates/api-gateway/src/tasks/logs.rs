//! `GET /tasks/{id}/logs`: the bytes as they are, or as events that name their place, so that a reader goes on exactly where it was
//! cut.

use super::{
    bad_header, bad_parameter, find,
    log_reader::{LogReader, Position, Read, Wanted},
    task_id,
};
use crate::{
    AppState,
    failed::failed,
    streaming::{self, Changes, Cut, Sink},
};
use api_types::log::{LogPiece, LogQuery};
use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use domain::{
    ids::{AttemptId, TaskId},
    principal::Principal,
};
use serde_json::{Value, json};
use service_kit::{ApiError, request_body, serve::HangUp};
use std::time::Duration;
use store::{LogChunk, Topic};

const POLL: Duration = Duration::from_millis(500);
/// By their numbers, from 1.
const STREAMS: [&str; 4] = ["stdout", "stderr", "build", "system"];
/// Messages to a reader are about so large.
const MESSAGE_BYTES: usize = 64 * 1024;

pub(crate) async fn logs(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    uri: Uri,
    hang_up: Option<Extension<HangUp>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = task_id(&id)?;
    let query: LogQuery = request_body::query(&uri)?;
    let streams = read_streams(query.stream.as_deref().unwrap_or("stdout,stderr"))?;
    if query.offset.is_some() && streams.len() != 1 {
        return Err(bad_parameter("offset", "An offset counts in one stream: name one with stream=."));
    }
    let position = match streaming::last_event_id(&headers) {
        None => None,
        Some(text) => Some(
            read_position(text)
                .ok_or_else(|| bad_header("Last-Event-ID", "This is the id of no event of this stream."))?,
        ),
    };
    let task = find(&state, &principal, id).await?;
    if let Some(number) = query.attempt
        && state.store.attempt_by_number(principal.scope(), id, Some(number)).await.map_err(failed)?.is_none()
    {
        let detail = format!("The task has {} attempts so far; there is no attempt {number}.", task.view.attempts);
        return Err(bad_parameter("attempt", detail));
    }
    let wanted = Wanted {
        scope: principal.scope(),
        task: id,
        attempt: query.attempt,
        streams,
        offset: query.offset.unwrap_or(0),
        follow: query.follow,
    };
    let changes = Changes::of(state.store.wakeups(), vec![Topic::Task(id)]);
    let as_events = streaming::wants_events(&headers);
    let archive = state.archive.clone();
    let mut reader = LogReader::new(state.store.clone(), archive, wanted, position.filter(|_| as_events));
    // What can't be read at all is refused. Once the answer has begun it can only be cut.
    let first = reader.next().await?;
    let content_type = if as_events { streaming::EVENTS } else { streaming::BYTES };
    let hang_up = hang_up.map(|Extension(hang_up)| hang_up);
    Ok(streaming::answer(&state.service, content_type, hang_up, move |sink| {
        produce(reader, first, id, as_events, sink, changes)
    }))
}

async fn produce(
    mut reader: LogReader,
    first: Read,
    task: TaskId,
    as_events: bool,
    mut sink: Sink,
    mut changes: Changes,
) -> Result<(), Cut> {
    if as_events {
        sink.send(": here\n\n").await?;
    }
    let mut first = Some(first);
    loop {
        let read = match first.take() {
            Some(first) => first,
            None => reader.next().await?,
        };
        match read {
            Read::Chunks { attempt, number, chunks } if as_events => {
                let mut text = String::new();
                for chunk in chunks {
                    text.push_str(&log_event(attempt, number, &chunk));
                    if text.len() >= MESSAGE_BYTES {
                        sink.send(std::mem::take(&mut text)).await?;
                    }
                }
                sink.send(text).await?;
            }
            Read::Chunks { chunks, .. } => send_bytes(&mut sink, chunks).await?,
            Read::NextAttempt { attempt, number } => {
                changes.topics = vec![Topic::Task(task), Topic::Log(attempt)];
                if as_events {
                    let data = json!({ "attempt": attempt, "number": number });
                    sink.send(streaming::event(&format!("{number}.start"), "attempt", &data)).await?;
                }
            }
            Read::Wait(attempt) => {
                let is_heard = attempt.is_none_or(|attempt| changes.topics.contains(&Topic::Log(attempt)));
                if let (false, Some(attempt)) = (is_heard, attempt) {
                    // Heard from now on: once more, since something may have come before that.
                    changes.topics = vec![Topic::Task(task), Topic::Log(attempt)];
                    continue;
                }
                wait(&mut sink, &mut changes, as_events).await?;
            }
            Read::End(end) => {
                if as_events {
                    let data = serde_json::to_value(&end).unwrap_or(Value::Null);
                    sink.send(streaming::event("", "end", &data)).await?;
                }
                return Ok(());
            }
        }
    }
}

async fn wait(sink: &mut Sink, changes: &mut Changes, as_events: bool) -> Result<(), Cut> {
    if as_events { sink.wait(changes, POLL).await } else { sink.wait_quietly(changes, POLL).await }
}

async fn send_bytes(sink: &mut Sink, chunks: Vec<LogChunk>) -> Result<(), Cut> {
    let mut small: Vec<u8> = Vec::new();
    for chunk in chunks {
        small.extend_from_slice(&chunk.data);
        if small.len() >= MESSAGE_BYTES {
            sink.send(Bytes::from(std::mem::take(&mut small))).await?;
        }
    }
    sink.send(small).await
}

fn log_event(attempt: AttemptId, number: u32, chunk: &LogChunk) -> String {
    let piece = LogPiece {
        attempt,
        number,
        stream: STREAMS[usize::from(chunk.stream - 1) % STREAMS.len()].to_owned(),
        offset: chunk.start,
        ordinal: chunk.ordinal,
        data: BASE64_STANDARD.encode(&chunk.data),
        gap: chunk.gap,
    };
    let data = serde_json::to_value(&piece).unwrap_or(Value::Null);
    streaming::event(&format!("{number}.{}", chunk.ordinal), "log", &data)
}

fn read_streams(text: &str) -> Result<Vec<u8>, ApiError> {
    let number = |word: &str| STREAMS.iter().position(|known| *known == word).map(|n| n as u8 + 1);
    let streams: Option<Vec<u8>> = text.split(',').map(number).collect();
    let mut streams = streams.ok_or_else(|| {
        bad_parameter("stream", format!("A stream is one of {}, or several by comma.", STREAMS.join(", ")))
    })?;
    streams.sort_unstable();
    streams.dedup();
    Ok(streams)
}

/// `2.57`: of attempt 2, all up to ordinal 57 is known. `2.start`: attempt 2 has begun.
fn read_position(text: &str) -> Option<Position> {
    let (attempt, ordinal) = text.split_once('.')?;
    let next_ordinal = match ordinal {
        "start" => 0,
        ordinal => u64::from(ordinal.parse::<u32>().ok()?) + 1,
    };
    Some(Position { attempt: attempt.parse().ok()?, next_ordinal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_what_the_last_event_said() {
        assert_eq!(read_position("2.57"), Some(Position { attempt: 2, next_ordinal: 58 }));
        assert_eq!(read_position("2.start"), Some(Position { attempt: 2, next_ordinal: 0 }));
        for hostile in ["", "2", "2.", ".5", "2.x", "-1.5", "2.5.6", "2.99999999999999999999"] {
            assert_eq!(read_position(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn streams_are_named_by_their_words() {
        assert_eq!(read_streams("stderr,stdout,stderr").ok(), Some(vec![1, 2]));
        assert!(read_streams("").is_err() && read_streams("stdin").is_err());
    }
}
