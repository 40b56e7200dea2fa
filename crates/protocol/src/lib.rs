//! What a node and the platform say to each other over one WebSocket.
//!
//! Owns: the frames, their sizes, the versions, and how log bytes are packed.
//! Must not know: sockets, the database, Docker. Values of `domain` travel as they are; the golden files in
//! `tests/golden/v1` pin how each looks on the wire, so a change of a domain type cannot change the protocol unseen.
//! Begin at [`ToNode`] and [`FromNode`].

pub mod delivery;
pub mod frame;
mod from_node;
mod handshake;
mod log_frame;
mod to_node;
pub mod transport;
pub mod version;

pub use domain::reconcile::HeldAttempt;
pub use frame::{DecodeError, Frame, Message};
pub use from_node::{Completeness, FromNode, Hello, Inventory};
pub use handshake::{RefusalCode, Refused};
pub use log_frame::{LogFrame, LogPayload, Stream};
pub use to_node::{Assign, LogOffset, ToNode, Welcome};

/// The WebSocket subprotocol that both sides name.
pub const SUBPROTOCOL: &str = "unidesk.provider.v1";
/// Where an agent connects.
pub const CONNECT_PATH: &str = "/v1/provider/connect";
/// The largest message, which is one frame, in either direction.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// The largest piece of log in one frame.
pub const MAX_LOG_BYTES: usize = 64 * 1024;
/// How often an agent sends a heartbeat, unless the server says otherwise.
pub const HEARTBEAT_MS: u64 = 15_000;
/// So many heartbeats in a row may be missed.
pub const MISSED_HEARTBEATS: u32 = 3;

/// A peer that was silent for longer is given up and redialled. Both sides count from the heartbeat that the welcome names.
pub fn silence_after(heartbeat: std::time::Duration) -> std::time::Duration {
    heartbeat * MISSED_HEARTBEATS
}
