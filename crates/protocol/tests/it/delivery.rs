//! Both ends of a session over a network that repeats, reorders and loses single frames, and cuts the line: whatever it does, reports,
//! commands and log bytes arrive once and in order, and once it is honest again nothing is left on its way.

use bytes::Bytes;
use domain::{
    attempt::Report,
    ids::{AttemptId, Fence, Held},
    node::NodeMetrics,
};
use proptest::prelude::*;
use protocol::{
    Frame, FromNode, LogFrame, LogPayload, Stream, ToNode,
    delivery::{Heard, Incoming, Outgoing, Window},
};
use std::collections::VecDeque;
use uuid::Uuid;

const WINDOW_BYTES: u64 = 100;
const LONGEST_PIECE: u64 = 40;
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

fn held(n: usize) -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(n as u128)), fence: Fence::from_i64(1) }
}
fn number_of(held: Held) -> usize {
    held.attempt.as_uuid().as_u128() as usize
}
/// The byte that was written at an offset of a stream.
fn byte_at(stream: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8)) as u8 ^ stream as u8
}
fn bytes_of(stream: usize, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|offset| byte_at(stream, offset)).collect()
}

#[derive(Clone, Debug)]
enum Wire {
    Text(String),
    Binary(Bytes),
}

/// What outlives a session stands in the node; the rest goes with it.
#[derive(Default)]
struct Node {
    said: usize,
    unacknowledged: VecDeque<usize>,
    written: [u64; 2],
    acknowledged: [u64; 2],
    heard: Vec<usize>,
    session: Option<NodeSession>,
}
#[derive(Default)]
struct NodeSession {
    incoming: Incoming,
    outgoing: Outgoing<usize>,
    window: Window,
    cursor: [u64; 2],
}

#[derive(Default)]
struct Server {
    recorded: Vec<usize>,
    logs: [Vec<u8>; 2],
    commands: usize,
    session: Option<ServerSession>,
}
#[derive(Default)]
struct ServerSession {
    incoming: Incoming,
    numbers: Outgoing<()>,
    /// Heard, and not committed yet.
    reports: Vec<(u64, usize)>,
    pieces: Vec<LogFrame>,
}

#[derive(Default)]
struct World {
    node: Node,
    server: Server,
    up: VecDeque<Wire>,
    down: VecDeque<Wire>,
    /// Sessions that one end gave up because the other's words did not fit.
    given_up: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Report,
    Write { stream: usize, bytes: u64 },
    Command,
    Pump { piece: u64 },
    Beat,
    Deliver { up: bool },
    Commit,
    Repeat { up: bool, at: usize },
    Swap { up: bool, at: usize, with: usize },
    Drop { up: bool, at: usize },
    Cut,
    Connect,
}

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Report => {
                self.node.unacknowledged.push_back(self.node.said);
                self.send_report(self.node.said);
                self.node.said += 1;
            }
            Step::Write { stream, bytes } => self.node.written[stream] += bytes,
            Step::Command => {
                self.server.commands += 1;
                self.tell(ToNode::Cancel { held: held(self.server.commands - 1) });
            }
            Step::Pump { piece } => self.pump(piece),
            Step::Beat => {
                let Some(session) = &mut self.node.session else { return };
                let metrics = Box::new(NodeMetrics::default());
                let beat = FromNode::Heartbeat { metrics, number: 1, pieces: session.window.pieces() };
                let seq = session.outgoing.number();
                self.up.push_back(Wire::Text(Frame::numbered(seq, beat).encode()));
            }
            Step::Deliver { up: true } => self.deliver_up(),
            Step::Deliver { up: false } => self.deliver_down(),
            Step::Commit => self.commit(),
            Step::Repeat { up, at } => {
                let wire = self.wire(up);
                if let Some(frame) = wire.get(at % wire.len().max(1)).cloned() {
                    wire.push_back(frame);
                }
            }
            Step::Swap { up, at, with } => {
                let wire = self.wire(up);
                if !wire.is_empty() {
                    let len = wire.len();
                    wire.swap(at % len, with % len);
                }
            }
            Step::Drop { up, at } => {
                let wire = self.wire(up);
                wire.remove(at % wire.len().max(1));
            }
            Step::Cut => self.cut(),
            Step::Connect => self.connect(),
        }
        self.check();
    }

    fn wire(&mut self, up: bool) -> &mut VecDeque<Wire> {
        if up { &mut self.up } else { &mut self.down }
    }

    fn cut(&mut self) {
        (self.node.session, self.server.session) = (None, None);
        self.up.clear();
        self.down.clear();
    }

    fn give_up(&mut self) {
        self.given_up += 1;
        self.cut();
    }

    /// Hello and welcome: without them there is no session.
    fn connect(&mut self) {
        if self.node.session.is_some() {
            return;
        }
        self.server.session = Some(ServerSession::default());
        let stored = [0, 1].map(|stream| self.server.logs[stream].len() as u64);
        self.node.acknowledged = stored;
        self.node.session = Some(NodeSession { cursor: stored, ..NodeSession::default() });
        for report in self.node.unacknowledged.clone() {
            self.send_report(report);
        }
        for command in self.node.heard.len()..self.server.commands {
            self.tell(ToNode::Cancel { held: held(command) });
        }
    }

    fn send_report(&mut self, report: usize) {
        let Some(session) = &mut self.node.session else { return };
        let seq = session.outgoing.hold(report);
        let message = FromNode::Report { held: held(report), report: Report::Accepted };
        self.up.push_back(Wire::Text(Frame::numbered(seq, message).encode()));
    }

    fn tell(&mut self, message: ToNode) {
        let Some(session) = &mut self.server.session else { return };
        self.down.push_back(Wire::Text(Frame::numbered(session.numbers.number(), message).encode()));
    }

    fn pump(&mut self, piece: u64) {
        let Some(session) = &mut self.node.session else { return };
        for (n, stream) in STREAMS.into_iter().enumerate() {
            session.cursor[n] = session.cursor[n].max(self.node.acknowledged[n]);
            while session.window.in_flight_bytes() < WINDOW_BYTES && session.cursor[n] < self.node.written[n] {
                let (from, to) = (session.cursor[n], (session.cursor[n] + piece).min(self.node.written[n]));
                let payload = LogPayload::Bytes(bytes_of(n, from, to).into());
                let frame = LogFrame { held: held(0), stream, ordinal: 0, offset: from, payload };
                session.window.sent(&frame);
                session.cursor[n] = to;
                self.up.push_back(Wire::Binary(frame.encode()));
            }
        }
    }

    fn deliver_up(&mut self) {
        let (Some(wire), Some(session)) = (self.up.pop_front(), &mut self.server.session) else { return };
        let heard = match wire {
            Wire::Binary(bytes) => {
                let frame = LogFrame::decode(&bytes).expect("as it was sent");
                let heard = session.incoming.piece(&frame);
                if heard == Heard::New {
                    session.pieces.push(frame);
                }
                heard
            }
            Wire::Text(text) => {
                let frame = Frame::<FromNode>::decode(&text).expect("as it was sent");
                match (session.incoming.message(frame.seq), frame.message) {
                    (Heard::New, FromNode::Report { held, .. }) => {
                        session.reports.push((frame.seq, number_of(held)));
                        Heard::New
                    }
                    (Heard::New, FromNode::Heartbeat { pieces, number, .. }) => {
                        let heard = session.incoming.pieces_sent(pieces);
                        // By its number the node finds out that something before it is missing.
                        self.tell(ToNode::Beat { number });
                        heard
                    }
                    (heard, _) => heard,
                }
            }
        };
        if heard == Heard::Missing {
            self.give_up();
        }
    }

    /// As the store does it: the same report again changes nothing, a stream grows at its end only.
    fn commit(&mut self) {
        let Some(session) = &mut self.server.session else { return };
        let (reports, pieces) = (std::mem::take(&mut session.reports), std::mem::take(&mut session.pieces));
        for (seq, report) in reports {
            if !self.server.recorded.contains(&report) {
                self.server.recorded.push(report);
            }
            self.tell(ToNode::Ack { up_to: seq });
        }
        for frame in pieces {
            let n = usize::from(frame.stream.number() - 1);
            let LogPayload::Bytes(bytes) = &frame.payload else { unreachable!("nothing was lost on disk") };
            let stored = self.server.logs[n].len() as u64;
            if frame.offset > stored {
                return self.give_up();
            }
            let known = (stored - frame.offset).min(bytes.len() as u64) as usize;
            self.server.logs[n].extend_from_slice(&bytes[known..]);
            let next_offset = self.server.logs[n].len() as u64;
            self.tell(ToNode::LogAck { attempt: frame.held.attempt, stream: frame.stream, next_offset });
        }
    }

    fn deliver_down(&mut self) {
        let (Some(Wire::Text(text)), Some(session)) = (self.down.pop_front(), &mut self.node.session) else { return };
        let frame = Frame::<ToNode>::decode(&text).expect("as it was sent");
        match (session.incoming.message(frame.seq), frame.message) {
            (Heard::Missing, _) => self.give_up(),
            (Heard::Again, _) => {}
            (Heard::New, ToNode::Ack { up_to }) => {
                for report in session.outgoing.acknowledged(up_to) {
                    assert!(self.server.recorded.contains(&report), "report {report} is acknowledged and not recorded");
                    assert_eq!(self.node.unacknowledged.pop_front(), Some(report), "acknowledged in order");
                }
            }
            (Heard::New, ToNode::LogAck { attempt, stream, next_offset }) => {
                let n = usize::from(stream.number() - 1);
                assert!(next_offset <= self.server.logs[n].len() as u64, "bytes are acknowledged and not stored");
                session.window.acknowledged(attempt, stream, next_offset);
                self.node.acknowledged[n] = self.node.acknowledged[n].max(next_offset);
            }
            (Heard::New, ToNode::Cancel { held }) => self.node.heard.push(number_of(held)),
            (Heard::New, ToNode::Beat { .. }) => {}
            (Heard::New, other) => unreachable!("{other:?}"),
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        assert!(self.server.recorded.iter().copied().eq(0..self.server.recorded.len()), "{:?}", self.server.recorded);
        assert!(self.node.heard.iter().copied().eq(0..self.node.heard.len()), "{:?}", self.node.heard);
        for (n, log) in self.server.logs.iter().enumerate() {
            assert_eq!(*log, bytes_of(n, 0, log.len() as u64), "stream {n}");
        }
        if let Some(session) = &self.node.session {
            assert!(session.window.in_flight_bytes() < WINDOW_BYTES + LONGEST_PIECE, "more than the window");
        }
    }

    /// An honest network. A lost frame is found at the next heartbeat, at the latest.
    fn heal(&mut self) {
        for _ in 0..1_000 {
            for step in [Step::Connect, Step::Pump { piece: LONGEST_PIECE }, Step::Beat] {
                self.step(&step);
            }
            while !self.up.is_empty() {
                self.step(&Step::Deliver { up: true });
            }
            self.step(&Step::Commit);
            while !self.down.is_empty() {
                self.step(&Step::Deliver { up: false });
            }
            let all_sent = self.node.session.is_some()
                && self.node.unacknowledged.is_empty()
                && self.node.acknowledged == self.node.written
                && self.node.heard.len() == self.server.commands;
            if all_sent {
                return;
            }
        }
        panic!("a session stays open in which something is missing for ever");
    }
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..16;
    prop_oneof![
        3 => Just(Step::Report),
        3 => (0usize..2, 1u64..200).prop_map(|(stream, bytes)| Step::Write { stream, bytes }),
        2 => Just(Step::Command),
        4 => (1..=LONGEST_PIECE).prop_map(|piece| Step::Pump { piece }),
        2 => Just(Step::Beat),
        12 => any::<bool>().prop_map(|up| Step::Deliver { up }),
        4 => Just(Step::Commit),
        2 => (any::<bool>(), at.clone()).prop_map(|(up, at)| Step::Repeat { up, at }),
        2 => (any::<bool>(), at.clone(), at.clone()).prop_map(|(up, at, with)| Step::Swap { up, at, with }),
        1 => (any::<bool>(), at).prop_map(|(up, at)| Step::Drop { up, at }),
        1 => Just(Step::Cut),
        4 => Just(Step::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_the_network_does_all_arrives_once_and_in_order(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::default();
        steps.iter().for_each(|step| world.step(step));
        world.heal();
        prop_assert_eq!(world.server.recorded.len(), world.node.said);
        for (n, log) in world.server.logs.iter().enumerate() {
            prop_assert_eq!(log.len() as u64, world.node.written[n]);
        }
        let session = world.node.session.expect("it is connected");
        prop_assert_eq!(session.window.in_flight_bytes(), 0);
        prop_assert!(session.outgoing.is_empty());
    }
}

/// Connected, with a report, a command and a few bytes on their way in each direction.
fn busy() -> World {
    let mut world = World::default();
    let steps = [
        Step::Connect,
        Step::Report,
        Step::Write { stream: 0, bytes: 80 },
        Step::Pump { piece: LONGEST_PIECE },
        Step::Report,
        Step::Command,
        Step::Command,
    ];
    steps.iter().for_each(|step| world.step(step));
    world
}

#[test]
fn repeated_frames_cost_no_session() {
    let mut world = busy();
    for at in 0..world.up.len() {
        world.step(&Step::Repeat { up: true, at });
    }
    world.step(&Step::Repeat { up: false, at: 0 });
    world.heal();
    assert_eq!((world.given_up, world.server.recorded.len(), world.node.heard.len()), (0, 2, 2));
}

#[test]
fn each_single_frame_that_is_lost_ends_the_session_and_nothing_else() {
    let frames = busy();
    for (up, count) in [(true, frames.up.len()), (false, frames.down.len())] {
        for at in 0..count {
            let mut world = busy();
            world.step(&Step::Drop { up, at });
            world.heal();
            // The last command of all is found missing by whatever is said next, which is an acknowledgement here.
            assert_eq!(world.given_up, 1, "frame {at}, up: {up}");
            assert_eq!((world.server.recorded.len(), world.server.logs[0].len(), world.node.heard.len()), (2, 80, 2));
        }
    }
}

#[test]
fn a_repeated_piece_does_not_hide_that_the_last_one_is_missing() {
    let mut world = busy();
    let is_piece = |frame: &Wire| matches!(frame, Wire::Binary(_));
    let first = world.up.iter().position(is_piece).expect("a piece");
    let last = world.up.iter().rposition(is_piece).expect("a piece");
    world.step(&Step::Repeat { up: true, at: first });
    world.step(&Step::Drop { up: true, at: last });
    world.heal();
    assert_eq!((world.given_up, world.server.logs[0].len()), (1, 80));
}

#[test]
fn a_peer_that_numbers_nothing_is_heard_all_the_same() {
    let mut incoming = Incoming::default();
    assert_eq!([0, 1, 0, 2, 0].map(|seq| incoming.message(seq)), [Heard::New; 5]);
    assert_eq!((incoming.message(2), incoming.message(4)), (Heard::Again, Heard::Missing));
    assert_eq!(incoming.pieces_sent(0), Heard::New);
}

#[test]
fn a_window_keeps_nothing_of_logs_that_are_over() {
    let mut window = Window::default();
    let piece = |attempt: usize, offset| LogFrame {
        held: held(attempt),
        stream: Stream::Stdout,
        ordinal: 0,
        offset,
        payload: LogPayload::Bytes(Bytes::from_static(&[7; 10])),
    };
    window.sent(&piece(1, 0));
    window.sent(&piece(2, 0));
    assert_eq!(window.acknowledged(held(1).attempt, Stream::Stdout, 10), 10);
    window.forget_unless(|_| false);
    // The second's bytes are still on their way, and count until they are acknowledged.
    assert_eq!(window.in_flight_bytes(), 10);
    assert_eq!(window.acknowledged(held(1).attempt, Stream::Stdout, 10), 0);
    assert_eq!(window.acknowledged(held(2).attempt, Stream::Stdout, 1_000), 10);
    assert_eq!(window.in_flight_bytes(), 0);
}
