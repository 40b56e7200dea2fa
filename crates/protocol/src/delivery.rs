//! What one end of a session keeps in mind so that everything arrives once and in order, or the session ends and all that was not
//! acknowledged is said again in the next. Pure: both ends use it, and a test drives two of them against each other.
//!
//! A WebSocket loses nothing from the middle. This holds without that: behind a proxy that does, over another transport, and when
//! the fault is our own.

use crate::{LogFrame, Stream};
use domain::ids::AttemptId;
use std::collections::{BTreeMap, VecDeque};

/// What to do with a message that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    New,
    /// It was heard before: to be skipped.
    Again,
    /// Something before it never came: the session must end.
    Missing,
}

/// What an end has heard in this session.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    last_seq: u64,
    /// How far the pieces of each stream have come.
    reached: BTreeMap<(AttemptId, Stream), u64>,
    pieces: u64,
}

impl Incoming {
    /// A control message. 0 is the number of what an older peer does not number: always taken.
    pub fn message(&mut self, seq: u64) -> Heard {
        let expected = self.last_seq + 1;
        if seq == 0 {
            Heard::New
        } else if seq < expected {
            Heard::Again
        } else if seq > expected {
            Heard::Missing
        } else {
            self.last_seq = seq;
            Heard::New
        }
    }

    /// A piece of a log. Whether one before it is missing is not seen here: where a stream begins, and over what a peer may step
    /// since an earlier session brought it, is known where it is stored.
    pub fn piece(&mut self, frame: &LogFrame) -> Heard {
        let reached = self.reached.entry((frame.held.attempt, frame.stream)).or_insert(frame.offset);
        if frame.next_offset() <= *reached {
            return Heard::Again;
        }
        *reached = frame.next_offset();
        self.pieces += 1;
        Heard::New
    }

    /// The peer says how many pieces it has sent: only so is it known that the last of a stream is missing. 0: an older peer, which
    /// does not say.
    pub fn pieces_sent(&self, count: u64) -> Heard {
        if count > self.pieces { Heard::Missing } else { Heard::New }
    }

    /// Nothing more comes of this attempt.
    pub fn forget(&mut self, attempt: AttemptId) {
        self.reached.retain(|(of, _), _| *of != attempt);
    }
}

/// Numbers messages, and remembers what those stood for that the peer has yet to acknowledge.
#[derive(Clone, Debug)]
pub struct Outgoing<K> {
    last_seq: u64,
    waiting: VecDeque<(u64, K)>,
}

impl<K> Default for Outgoing<K> {
    fn default() -> Self {
        Self { last_seq: 0, waiting: VecDeque::new() }
    }
}

impl<K> Outgoing<K> {
    /// The number of a message that is said once.
    pub fn number(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }
    /// The number of a message that counts once it is acknowledged.
    pub fn hold(&mut self, key: K) -> u64 {
        let seq = self.number();
        self.waiting.push_back((seq, key));
        seq
    }
    /// What is acknowledged by this that was not before, in the order in which it was sent.
    pub fn acknowledged(&mut self, up_to: u64) -> impl Iterator<Item = K> {
        let count = self.waiting.partition_point(|(seq, _)| *seq <= up_to);
        self.waiting.drain(..count).map(|(_, key)| key)
    }
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Log bytes that were sent and are not acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// (sent up to, acknowledged up to)
    streams: BTreeMap<(AttemptId, Stream), (u64, u64)>,
    in_flight_bytes: u64,
    pieces: u64,
}

impl Window {
    pub fn sent(&mut self, frame: &LogFrame) {
        let key = (frame.held.attempt, frame.stream);
        let (sent, _) = self.streams.entry(key).or_insert((frame.offset, frame.offset));
        *sent = frame.next_offset();
        self.in_flight_bytes += frame.payload.len();
        self.pieces += 1;
    }

    /// Returns how many bytes are acknowledged that were not before.
    pub fn acknowledged(&mut self, attempt: AttemptId, stream: Stream, next_offset: u64) -> u64 {
        let Some((sent, acknowledged)) = self.streams.get_mut(&(attempt, stream)) else { return 0 };
        let up_to = next_offset.min(*sent);
        let bytes = up_to.saturating_sub(*acknowledged);
        *acknowledged = (*acknowledged).max(up_to);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        bytes
    }

    /// Forgets streams of which all is acknowledged, where nothing more comes of the attempt.
    pub fn forget_unless(&mut self, more_comes: impl Fn(AttemptId) -> bool) {
        self.streams.retain(|(attempt, _), (sent, acknowledged)| sent != acknowledged || more_comes(*attempt));
    }

    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }
    /// Pieces that were sent in this session.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }
}
