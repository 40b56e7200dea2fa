//! From the platform to a node.

use crate::{Refused, Stream};
use domain::{
    ids::{AttemptId, Held, NodeId, ProjectId, TaskId},
    lease::Lease,
    spec::TaskSpec,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToNode {
    Welcome(Welcome),
    Refused(Refused),
    /// Run this. Acknowledged by the report `accepted`, once it is on the node's disk.
    Assign(Box<Assign>),
    /// A person wants it stopped: it ends as `cancelled`.
    Cancel {
        held: Held,
    },
    /// It no longer holds its task: stop it, remove what it left. What it still reports changes nothing.
    Stop {
        held: Held,
    },
    /// Its node is to be empty: stop it as its task says and end it as a planned stop. It runs again elsewhere.
    Evict {
        held: Held,
    },
    /// Takes nothing new; `resume` ends that. Running work goes on.
    Drain,
    Resume,
    /// The reports up to this sequence number are committed.
    Ack {
        up_to: u64,
    },
    /// Every byte of this stream before `next_offset` is committed.
    LogAck {
        attempt: AttemptId,
        stream: Stream,
        next_offset: u64,
    },
    /// Something sent was not understood; it was skipped.
    Error {
        code: String,
        detail: String,
    },
    /// Answers a heartbeat once it is recorded, so that both sides know the other is alive.
    Beat {
        /// That of the heartbeat. 0: an older server, which says nothing of which one it answers.
        #[serde(default, skip_serializing_if = "crate::from_node::is_zero")]
        number: u64,
    },
    /// A message of a newer version: answered with `error` and skipped.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The picked protocol version.
    pub version: u32,
    pub server_version: String,
    pub node: NodeId,
    pub name: String,
    /// Frames of an older session change nothing.
    pub session_epoch: i64,
    pub heartbeat_ms: u64,
    /// Which bytes are committed, for each attempt of the inventory.
    #[serde(default)]
    pub log_offsets: Vec<LogOffset>,
    /// The node is draining: it takes nothing new.
    #[serde(default)]
    pub draining: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOffset {
    pub attempt: AttemptId,
    pub stream: Stream,
    pub next_offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    pub held: Held,
    pub task: TaskId,
    pub project: ProjectId,
    /// 1 for the first attempt.
    pub number: u32,
    /// GPUs reserved for it, by id.
    #[serde(default)]
    pub gpu_ids: Vec<String>,
    /// There may be no room for it yet: it is kept until there is, and begun then. Only to agents that say that they can
    /// ([`domain::placement::AHEAD`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
    /// For exclusive work: the agent ends it by itself when this runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The common part is read by the agent; `payload` inside it only by the executor.
    pub spec: TaskSpec,
}
