//! A control message as text: its number in the session, and the message.

use crate::{Assign, FromNode, MAX_FRAME_BYTES, ToNode};
use domain::{
    attempt::Report,
    ids::{Held, ProjectId, TaskId},
    lease::Lease,
    spec::TaskSpec,
};
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

impl<M: Message> Frame<M> {
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        if text.len() > MAX_FRAME_BYTES {
            return Err(DecodeError::TooLong(text.len()));
        }
        M::decode_frequent(text).map_or_else(|| serde_json::from_str(text).map_err(DecodeError::Malformed), Ok)
    }
}

/// What one side says.
pub trait Message: Sized + DeserializeOwned {
    /// The message of which there is one or more for every task. A tagged enum inside a flattened frame is read into a tree twice before it
    /// becomes itself; here each field goes where it belongs. None: it is another message, or is not understood so: the general way decides.
    fn decode_frequent(text: &str) -> Option<Frame<Self>>;
}

impl Message for FromNode {
    fn decode_frequent(text: &str) -> Option<Frame<Self>> {
        #[derive(Deserialize)]
        struct Said {
            #[serde(default)]
            seq: u64,
            r#type: Type,
            held: Held,
            report: Report,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Type {
            Report,
        }
        // As we write it. Written otherwise, it is read the general way.
        if !text.contains(r#""type":"report""#) {
            return None;
        }
        let Said { seq, r#type: Type::Report, held, report } = serde_json::from_str(text).ok()?;
        Some(Frame { seq, message: Self::Report { held, report } })
    }
}

impl Message for ToNode {
    fn decode_frequent(text: &str) -> Option<Frame<Self>> {
        #[derive(Deserialize)]
        struct Said {
            #[serde(default)]
            seq: u64,
            r#type: Type,
            held: Held,
            task: TaskId,
            project: ProjectId,
            number: u32,
            #[serde(default)]
            gpu_ids: Vec<String>,
            #[serde(default)]
            ahead: bool,
            #[serde(default)]
            lease: Option<Lease>,
            spec: TaskSpec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Type {
            Assign,
        }
        if !text.contains(r#""type":"assign""#) {
            return None;
        }
        let Said { seq, r#type: Type::Assign, held, task, project, number, gpu_ids, ahead, lease, spec } =
            serde_json::from_str(text).ok()?;
        let assign = Assign { held, task, project, number, gpu_ids, ahead, lease, spec };
        Some(Frame { seq, message: Self::Assign(Box::new(assign)) })
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
