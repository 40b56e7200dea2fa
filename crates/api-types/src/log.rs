//! Logs. `GET /tasks/{id}/logs` gives the bytes; asked for `text/event-stream` it gives these as events.

use domain::ids::AttemptId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// Number of the attempt; the last one by default.
    pub attempt: Option<u32>,
    /// `stdout`, `stderr`, `build`, `system`, several by comma; `stdout,stderr` by default.
    pub stream: Option<String>,
    /// First byte of the one named stream.
    pub offset: Option<u64>,
    pub follow: bool,
}

/// The `data` of a `log` event. Its `id` is the cursor to resume from (`Last-Event-ID`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogPiece {
    pub attempt: AttemptId,
    pub number: u32,
    pub stream: String,
    pub offset: u64,
    pub ordinal: u64,
    /// The bytes in base64 (standard alphabet); empty for a gap.
    pub data: String,
    /// So many bytes are missing here for good.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gap: Option<u64>,
}

/// The `data` of the last event, `end`: the attempt ended and this was all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEnd {
    pub number: u32,
    pub state: String,
    pub bytes: u64,
    pub complete: bool,
}
