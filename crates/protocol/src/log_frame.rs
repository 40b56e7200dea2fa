//! Log bytes as a binary message: a short header, then the bytes as they were written.

use crate::frame::DecodeError;
use bytes::{BufMut, Bytes, BytesMut};
use domain::ids::{AttemptId, Fence, Held};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which of an attempt's logs a byte belongs to. Offsets count within one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// Of the image.
    Build,
    /// The agent's own lines: what was fetched, what was left out, the log limit.
    System,
}

impl Stream {
    pub const ALL: [Stream; 4] = [Self::Stdout, Self::Stderr, Self::Build, Self::System];

    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Build => 3,
            Self::System => 4,
        }
    }
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.number() == number)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Build => "build",
            Self::System => "system",
        }
    }
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == word)
    }
}

/// A piece of one stream. Storing it twice changes nothing: its key is (attempt, stream, offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFrame {
    pub held: Held,
    pub stream: Stream,
    /// Counts the pieces of an attempt over all streams, so that the merged view keeps the order of reading.
    pub ordinal: u64,
    /// Of the first byte, in its stream.
    pub offset: u64,
    pub payload: LogPayload,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPayload {
    Bytes(Bytes),
    /// So many bytes are missing here for good.
    Gap(u64),
}

impl LogPayload {
    /// Bytes that this covers in its stream.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Gap(len) => *len,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// Kinds 16 to 31 are reserved for streams (exec, port-forward, file copy), 32 for channels.
const KIND_LOG: u8 = 1;
const KIND_LOG_GAP: u8 = 2;
const HEADER_BYTES: usize = 1 + 16 + 8 + 1 + 8 + 8;

impl LogFrame {
    pub fn next_offset(&self) -> u64 {
        self.offset.saturating_add(self.payload.len())
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.payload.len().min(1 << 20) as usize);
        out.put_u8(match self.payload {
            LogPayload::Bytes(_) => KIND_LOG,
            LogPayload::Gap(_) => KIND_LOG_GAP,
        });
        out.put_slice(self.held.attempt.as_uuid().as_bytes());
        out.put_i64(self.held.fence.get());
        out.put_u8(self.stream.number());
        out.put_u64(self.ordinal);
        out.put_u64(self.offset);
        match &self.payload {
            LogPayload::Bytes(bytes) => out.put_slice(bytes),
            LogPayload::Gap(len) => out.put_u64(*len),
        }
        out.freeze()
    }

    pub fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let kind = *message.first().ok_or(DecodeError::Truncated)?;
        if kind != KIND_LOG && kind != KIND_LOG_GAP {
            return Err(DecodeError::UnknownKind);
        }
        let header: &[u8; HEADER_BYTES] = message.first_chunk().ok_or(DecodeError::Truncated)?;
        let attempt = Uuid::from_bytes(field(header, 1));
        let fence = i64::from_be_bytes(field(header, 17));
        let stream = Stream::from_number(header[25]).ok_or(DecodeError::UnknownKind)?;
        let ordinal = u64::from_be_bytes(field(header, 26));
        let offset = u64::from_be_bytes(field(header, 34));
        let rest = message.slice(HEADER_BYTES..);
        let payload = if kind == KIND_LOG {
            LogPayload::Bytes(rest)
        } else {
            LogPayload::Gap(u64::from_be_bytes(*rest.first_chunk().ok_or(DecodeError::Truncated)?))
        };
        // Offsets are stored as 63-bit numbers.
        let end = offset.checked_add(payload.len()).filter(|end| *end < 1 << 62).ok_or(DecodeError::Truncated)?;
        debug_assert!(end >= offset);
        let held = Held { attempt: AttemptId::from_uuid(attempt), fence: Fence::from_i64(fence) };
        Ok(Self { held, stream, ordinal: ordinal & (i64::MAX as u64), offset, payload })
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_travel_unchanged(stream in 1u8..=4, ordinal in 0u64..1 << 60, offset in 0u64..1 << 60, data in prop::collection::vec(any::<u8>(), 0..2000), gap in any::<bool>()) {
            let payload = if gap { LogPayload::Gap(data.len() as u64) } else { LogPayload::Bytes(data.into()) };
            let held = Held { attempt: AttemptId::from_uuid(Uuid::from_u128(5)), fence: Fence::from_i64(9) };
            let frame = LogFrame { held, stream: Stream::from_number(stream).expect("known"), ordinal, offset, payload };
            prop_assert_eq!(LogFrame::decode(&frame.encode()).expect("decodes"), frame);
        }

        #[test]
        fn hostile_bytes_are_refused_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = LogFrame::decode(&data.into());
        }
    }
}
