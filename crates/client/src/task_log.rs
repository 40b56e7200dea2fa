//! A task's log: as bytes, or followed piece by piece.

use crate::{
    Client, ClientError,
    error::{reason, refusal},
    follow::{Decoded, Followed, follow},
    sse::Message,
};
use api_types::log::{LogEnd, LogPiece, LogQuery};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use domain::ids::TaskId;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use std::time::Instant;

/// A piece of a log, its bytes decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number of the attempt.
    pub attempt: u32,
    /// `stdout`, `stderr`, `build`, `system`.
    pub stream: String,
    /// Of its first byte in its stream.
    pub offset: u64,
    /// Its place among the pieces of all streams.
    pub ordinal: u64,
    pub bytes: Bytes,
    /// So many bytes are missing here for good.
    pub gap: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogItem {
    Piece(Piece),
    /// Another attempt of the task begins here.
    Attempt(u32),
    /// This was all; nothing follows.
    End(LogEnd),
}

#[derive(Deserialize)]
struct AttemptBegins {
    number: u32,
}

impl Client {
    /// Follows the log until the task (or the attempt that `query` names) has ended. `query.follow` is set by this function.
    pub fn follow_log(
        &self,
        id: TaskId,
        query: &LogQuery,
    ) -> impl Stream<Item = Result<Followed<LogItem>, ClientError>> + Send + use<> {
        follow(self, &log_path(id, &LogQuery { follow: true, ..query.clone() }), decode)
    }

    /// The same pieces, up to what is there now.
    pub fn log_pieces(
        &self,
        id: TaskId,
        query: &LogQuery,
    ) -> impl Stream<Item = Result<Followed<LogItem>, ClientError>> + Send + use<> {
        follow(self, &log_path(id, &LogQuery { follow: false, ..query.clone() }), decode)
    }

    /// The log's bytes up to what is there now, the chosen streams merged. An early end of the connection is an error, never
    /// a short log.
    pub async fn log_bytes(
        &self,
        id: TaskId,
        query: &LogQuery,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>, ClientError> {
        let began = Instant::now();
        let url = self.url(&log_path(id, &LogQuery { follow: false, ..query.clone() }));
        let response = self.http.get(&url).send().await.map_err(|error| self.unreachable(error, 1, began))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.unwrap_or_default();
            return Err(refusal(&url, status, &body));
        }
        let client = self.clone();
        Ok(response.bytes_stream().map(move |chunk| {
            chunk.map_err(|source| ClientError::Unreachable {
                url: client.base_url.to_string(),
                why: reason(&source),
                tries: 1,
                waited: began.elapsed(),
                source,
            })
        }))
    }
}

fn log_path(id: TaskId, query: &LogQuery) -> String {
    let mut path = format!("/tasks/{id}/logs?follow={}", query.follow);
    if let Some(attempt) = query.attempt {
        path += &format!("&attempt={attempt}");
    }
    // Names of streams are words; anything else would be refused anyway.
    if let Some(stream) =
        query.stream.as_ref().filter(|names| names.bytes().all(|b| b.is_ascii_lowercase() || b == b','))
    {
        path += &format!("&stream={stream}");
    }
    if let Some(offset) = query.offset {
        path += &format!("&offset={offset}");
    }
    path
}

fn decode(message: Message) -> Decoded<LogItem> {
    let decoded = match message.event.as_str() {
        "log" => decode_piece(&message.data).map(LogItem::Piece),
        "attempt" => serde_json::from_str::<AttemptBegins>(&message.data)
            .map(|begins| LogItem::Attempt(begins.number))
            .map_err(|error| error.to_string()),
        "end" => {
            return match serde_json::from_str(&message.data) {
                Ok(end) => Decoded::Last(Some(LogItem::End(end))),
                Err(error) => Decoded::Wrong(format!("the end of the log is not understood: {error}")),
            };
        }
        _ => return Decoded::Skip,
    };
    decoded.map_or_else(|error| Decoded::Wrong(format!("a piece of the log is not understood: {error}")), Decoded::Item)
}

fn decode_piece(data: &str) -> Result<Piece, String> {
    let piece: LogPiece = serde_json::from_str(data).map_err(|error| error.to_string())?;
    Ok(Piece {
        attempt: piece.number,
        stream: piece.stream,
        offset: piece.offset,
        ordinal: piece.ordinal,
        bytes: BASE64_STANDARD.decode(&piece.data).map_err(|error| error.to_string())?.into(),
        gap: piece.gap,
    })
}
