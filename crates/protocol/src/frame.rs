//! A control message as text: its sequence number and the message. Zero needs no acknowledgement.

use crate::MAX_FRAME_BYTES;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame<M> {
    /// Counts messages that are acknowledged; lives as long as the session.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seq: u64,
    #[serde(flatten)]
    pub message: M,
}

fn is_zero(seq: &u64) -> bool {
    *seq == 0
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message has {0} bytes; at most {MAX_FRAME_BYTES} are taken")]
    TooLong(usize),
    #[error("the message is not understood")]
    Malformed(#[source] serde_json::Error),
    #[error("the binary message is of no known kind")]
    UnknownKind,
    #[error("the binary message is cut short")]
    Truncated,
}

impl<M: Serialize> Frame<M> {
    pub fn new(message: M) -> Self {
        Self { seq: 0, message }
    }
    pub fn numbered(seq: u64, message: M) -> Self {
        Self { seq, message }
    }
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("frames are maps with string keys, which JSON can hold")
    }
}

impl<M: DeserializeOwned> Frame<M> {
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        if text.len() > MAX_FRAME_BYTES {
            return Err(DecodeError::TooLong(text.len()));
        }
        serde_json::from_str(text).map_err(DecodeError::Malformed)
    }
}
