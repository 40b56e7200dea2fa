//! BuildKit's trace as Docker passes it on: the part of its protobuf `StatusResponse` that a log needs.

use base64::Engine as _;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(message, repeated, tag = "1")]
    pub(super) vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "3")]
    pub(super) logs: Vec<VertexLog>,
}

/// A step of the build. Sent again whenever something about it changes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Vertex {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    /// `[2/3] RUN make`, `[internal] load metadata for IMAGE`.
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(bool, tag = "4")]
    pub(super) cached: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) started: Option<Moment>,
    #[prost(message, optional, tag = "6")]
    pub(super) completed: Option<Moment>,
    #[prost(string, tag = "7")]
    pub(super) error: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VertexLog {
    #[prost(string, tag = "1")]
    pub(super) vertex: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) message: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Moment {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl Moment {
    fn millis(self) -> i64 {
        self.seconds * 1_000 + i64::from(self.nanos) / 1_000_000
    }
}

impl Vertex {
    pub(super) fn duration_ms(&self) -> Option<u64> {
        let span = self.completed?.millis() - self.started?.millis();
        Some(u64::try_from(span).unwrap_or(0))
    }
}

/// The `aux` of a `moby.buildkit.trace` message; None when it is no such thing.
pub(super) fn decode(aux: &str) -> Option<Status> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(aux).ok()?;
    Status::decode(bytes.as_slice()).ok()
}
