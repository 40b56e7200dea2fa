//! A control message as text: its number in the session, and the message.

use crate::MAX_FRAME_BYTES;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame<M> {
    /// Counts the messages of one side in the session, from 1 on, hello and welcome aside. 0: not counted, by an older peer.
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

/// The number of a message that is not understood otherwise; 0 where there is none.
pub fn seq_of(text: &str) -> u64 {
    #[derive(Deserialize)]
    struct Numbered {
        #[serde(default)]
        seq: u64,
    }
    serde_json::from_str::<Numbered>(text).map_or(0, |numbered| numbered.seq)
}
