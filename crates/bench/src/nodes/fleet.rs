//! Many nodes in one thread: one reactor, one heap of times, no task and no timer per node.

use super::{
    figures::{Figures, Spread, unix_micros},
    histogram::Histogram,
    line::{Driven, Line, Traffic},
    node::{self, Effect, Node},
};
use anyhow::Context as _;
use domain::{
    backoff,
    ids::{AttemptId, InstanceId},
    node::NodeFacts,
};
use mio::{Events, Poll, Token};
use protocol::{silence_after, transport::Message};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io::Write as _,
    net::SocketAddr,
    rc::Rc,
    sync::mpsc,
    time::{Duration, Instant},
};
use uuid::Uuid;

const BACKOFF_BASE_MS: u64 = 1_000;
const BACKOFF_CAP_MS: u64 = 30_000;
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A connection that is not open after so long is given up.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
const REFUSED_WAIT: Duration = Duration::from_secs(300);
const FIGURES_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Dial,
    /// The line of this number should be open by now.
    Open(u32),
    Beat(u32),
    Due(AttemptId),
    /// What was said on the line of this number, either way, has travelled far enough.
    Travelled(u32),
}

struct Seat {
    token: String,
    node: Node,
    line: Line,
    /// Which of the node's lines it is: timers of an older one mean nothing.
    lines: u32,
    failures: u32,
    /// Answers in a row that the server is busy.
    busy: u32,
    dialled_at: Instant,
    opened_at: Instant,
    heard_at: Instant,
    /// The heartbeat that is not answered yet.
    beat_sent: Option<(u64, Instant)>,
    heartbeat: Duration,
    /// Under way on a long line: what the node will hear, and what will leave.
    coming: VecDeque<(Instant, Message)>,
    going: VecDeque<(Instant, Message)>,
}

pub struct Fleet {
    /// How long a message takes one way, beside what the machine itself takes.
    travel: Duration,
    server: SocketAddr,
    facts: NodeFacts,
    seats: Vec<Seat>,
    poll: Poll,
    timers: BinaryHeap<Reverse<(Instant, usize, Timer)>>,
    traffic: Rc<Traffic>,
    figures: Figures,
    beats: Histogram,
    connects: Histogram,
    told: Figures,
    /// Filled and emptied again by each call.
    heard: Vec<Message>,
    out: Vec<Message>,
    effects: Vec<Effect>,
}

/// What the parent may ask for, a line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Spreads begin anew.
    Reset,
    /// Every line is cut at once, as by a switch that loses power.
    Cut,
    Stop,
}

impl Fleet {
    /// `dial_over`: the first connections are spread over so long.
    pub fn new(server: SocketAddr, tokens: Vec<String>, slots: u64, dial_over: Duration) -> anyhow::Result<Self> {
        let now = Instant::now();
        let count = tokens.len();
        let mut timers = BinaryHeap::with_capacity(2 * count);
        for at in 0..count {
            let wait = dial_over.mul_f64(at as f64 / count.max(1) as f64);
            timers.push(Reverse((now + wait, at, Timer::Dial)));
        }
        let seat = |token: String| Seat {
            token,
            node: Node::new(InstanceId::from_uuid(Uuid::new_v4())),
            line: Line::Down,
            lines: 0,
            failures: 0,
            busy: 0,
            dialled_at: now,
            opened_at: now,
            heard_at: now,
            beat_sent: None,
            heartbeat: Duration::from_millis(protocol::HEARTBEAT_MS),
            coming: VecDeque::new(),
            going: VecDeque::new(),
        };
        Ok(Self {
            travel: Duration::ZERO,
            server,
            facts: node::facts(slots),
            seats: tokens.into_iter().map(seat).collect(),
            poll: Poll::new().context("a reactor")?,
            timers,
            traffic: Rc::default(),
            figures: Figures { nodes: count as u64, ..Figures::default() },
            beats: Histogram::default(),
            connects: Histogram::default(),
            told: Figures::default(),
            heard: Vec::new(),
            out: Vec::new(),
            effects: Vec::new(),
        })
    }

    /// As if the platform were so far away.
    #[must_use]
    pub fn with_round_trip(self, round_trip: Duration) -> Self {
        Self { travel: round_trip / 2, ..self }
    }

    /// Its nodes take work ahead of their slots, and begin it when one is free.
    #[must_use]
    pub fn that_can_wait(mut self, slots: u64) -> Self {
        self.facts.features.insert(domain::placement::AHEAD.to_owned());
        self.seats.iter_mut().for_each(|seat| seat.node.slots = Some(slots));
        self
    }

    /// Runs until told to stop, or until whoever gives the orders is gone.
    pub fn run(mut self, orders: &mpsc::Receiver<Order>) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut tell_at = Instant::now();
        loop {
            let next = self.timers.peek().map_or(tell_at, |Reverse((at, ..))| (*at).min(tell_at));
            let wait = next.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("waiting for sockets"),
            }
            for event in &events {
                self.ready(event.token().0);
            }
            let now = Instant::now();
            while let Some(Reverse((at, ..))) = self.timers.peek()
                && *at <= now
            {
                if let Some(Reverse((_, seat, timer))) = self.timers.pop() {
                    self.rang(seat, timer, now);
                }
            }
            match orders.try_recv() {
                Ok(Order::Reset) => {
                    self.beats = Histogram::default();
                    self.connects = Histogram::default();
                }
                Ok(Order::Cut) => (0..self.seats.len()).for_each(|at| self.over(at, None)),
                Ok(Order::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if tell_at <= now {
                tell_at = now + FIGURES_EVERY;
                self.tell()?;
            }
        }
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        let figures = &mut self.figures;
        figures.beat_us = Spread::from(&self.beats);
        figures.connect_us = Spread::from(&self.connects);
        figures.bytes_in = self.traffic.bytes_in.get();
        figures.bytes_out = self.traffic.bytes_out.get();
        figures.frames_in = self.traffic.frames_in.get();
        figures.frames_out = self.traffic.frames_out.get();
        if self.told != *figures {
            self.told = figures.clone();
            let mut line = serde_json::to_string(figures)?;
            line.push('\n');
            std::io::stdout().lock().write_all(line.as_bytes()).context("telling figures")?;
        }
        Ok(())
    }

    fn after(&mut self, seat: usize, wait: Duration, timer: Timer) {
        self.timers.push(Reverse((Instant::now() + wait, seat, timer)));
    }

    fn rang(&mut self, at: usize, timer: Timer, now: Instant) {
        let seat = &mut self.seats[at];
        match timer {
            Timer::Dial => self.dial(at),
            Timer::Open(line) => {
                if seat.lines == line && !seat.node.is_open() && !matches!(seat.line, Line::Down) {
                    self.over(at, None);
                }
            }
            Timer::Beat(line) => {
                if seat.lines != line || !seat.node.is_open() {
                    return;
                }
                if now.duration_since(seat.heard_at) > silence_after(seat.heartbeat) {
                    self.over(at, None);
                    return;
                }
                let (number, beat) = seat.node.beat();
                seat.beat_sent = Some((number, now));
                let every = seat.heartbeat;
                self.figures.beats_sent += 1;
                self.out.push(beat);
                self.flush(at);
                self.after(at, every, timer);
            }
            Timer::Due(attempt) => {
                seat.node.clock = unix_micros();
                let used = seat.node.used;
                let mut effects = std::mem::take(&mut self.effects);
                seat.node.due(attempt, &mut self.out, &mut effects);
                self.figures.add_used(&used, &seat.node.used);
                self.follow(at, &mut effects, now);
                self.effects = effects;
                self.flush(at);
            }
            Timer::Travelled(line) => {
                if seat.lines != line {
                    return;
                }
                let has_come = |queue: &mut VecDeque<(Instant, Message)>| {
                    queue.pop_front_if(|(when, _)| *when <= now).map(|(_, message)| message)
                };
                self.heard.extend(std::iter::from_fn(|| has_come(&mut seat.coming)));
                let leaving: Vec<Message> = std::iter::from_fn(|| has_come(&mut seat.going)).collect();
                self.hear(at);
                self.send(at, leaving);
            }
        }
    }

    fn dial(&mut self, at: usize) {
        let dialled = Line::dial(self.server, self.poll.registry(), Token(at), &self.traffic);
        let seat = &mut self.seats[at];
        seat.lines += 1;
        seat.dialled_at = Instant::now();
        match dialled {
            Ok(line) => {
                seat.line = line;
                let timer = Timer::Open(seat.lines);
                self.after(at, OPEN_WITHIN, timer);
            }
            Err(_) => self.over(at, None),
        }
    }

    fn ready(&mut self, at: usize) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        let driven = seat.line.drive(self.server, &seat.token, &mut self.heard);
        if !self.travel.is_zero() && !self.heard.is_empty() {
            let when = Instant::now() + self.travel;
            seat.coming.extend(self.heard.drain(..).map(|message| (when, message)));
            let timer = Timer::Travelled(seat.lines);
            self.timers.push(Reverse((when, at, timer)));
        }
        match driven {
            Driven::Nothing => self.hear(at),
            Driven::Opened => {
                let hello = seat.node.hello(&self.facts);
                self.out.push(hello);
                self.flush(at);
                // The answer may have arrived with the end of the handshake.
                self.ready(at);
            }
            Driven::Over(retry_after) => {
                // What was said before the end still counts.
                self.hear(at);
                self.over(at, retry_after);
            }
        }
    }

    fn hear(&mut self, at: usize) {
        if self.heard.is_empty() {
            return;
        }
        let now = Instant::now();
        let seat = &mut self.seats[at];
        seat.heard_at = now;
        seat.node.clock = unix_micros();
        let (held, used) = (seat.node.attempts() as u64, seat.node.used);
        let mut effects = std::mem::take(&mut self.effects);
        for message in self.heard.drain(..) {
            if let Message::Text(text) = message {
                seat.node.hear(&text, &mut self.out, &mut effects);
            }
        }
        self.figures.add_used(&used, &seat.node.used);
        self.figures.attempts = self.figures.attempts + seat.node.attempts() as u64 - held;
        let refused = self.follow(at, &mut effects, now);
        self.effects = effects;
        match refused {
            Some(wait) => self.over(at, Some(wait)),
            None => self.flush(at),
        }
    }

    /// Some: the node was refused, and comes back after so long.
    fn follow(&mut self, at: usize, effects: &mut Vec<Effect>, now: Instant) -> Option<Duration> {
        let mut refused = None;
        for effect in effects.drain(..) {
            let seat = &mut self.seats[at];
            match effect {
                Effect::Opened { heartbeat } => {
                    seat.opened_at = now;
                    seat.heartbeat = heartbeat;
                    seat.beat_sent = None;
                    let timer = Timer::Beat(seat.lines);
                    self.connects.add(now.duration_since(seat.dialled_at));
                    self.figures.sessions += 1;
                    self.figures.connected += 1;
                    if self.figures.connected == self.figures.nodes {
                        self.figures.all_connected_at = unix_micros();
                    }
                    self.after(at, heartbeat, timer);
                }
                Effect::Refused(after) => {
                    self.figures.refused += 1;
                    refused = Some(after.unwrap_or(REFUSED_WAIT));
                }
                Effect::BeatAnswered(number) => {
                    if let Some((sent, when)) = seat.beat_sent.take_if(|(sent, _)| *sent == number) {
                        debug_assert_eq!(sent, number);
                        self.beats.add(now.duration_since(when));
                    }
                    self.figures.beats_answered += 1;
                }
                Effect::Assigned(_) => {
                    self.figures.assigned += 1;
                    self.figures.last_assign_at = unix_micros();
                }
                Effect::EndAcknowledged => {
                    self.figures.ended += 1;
                    self.figures.last_end_at = unix_micros();
                }
                Effect::Complaint => self.figures.complaints += 1,
                Effect::Wake(attempt, wait) => self.after(at, wait, Timer::Due(attempt)),
            }
        }
        refused
    }

    fn flush(&mut self, at: usize) {
        if self.travel.is_zero() {
            let all = std::mem::take(&mut self.out);
            self.send(at, all);
        } else if !self.out.is_empty() {
            let when = Instant::now() + self.travel;
            let seat = &mut self.seats[at];
            seat.going.extend(self.out.drain(..).map(|message| (when, message)));
            let timer = Timer::Travelled(seat.lines);
            self.timers.push(Reverse((when, at, timer)));
        }
    }

    fn send(&mut self, at: usize, mut messages: Vec<Message>) {
        if self.seats[at].line.send(&mut messages).is_err() {
            self.over(at, None);
            messages.clear();
        }
        // Its room is used again.
        if self.out.is_empty() {
            self.out = messages;
        }
    }

    /// The line is gone: redialled as the agent would.
    fn over(&mut self, at: usize, asked: Option<Duration>) {
        let seat = &mut self.seats[at];
        self.figures.failures += 1;
        if seat.node.is_open() {
            self.figures.connected -= 1;
            self.figures.lost_at = unix_micros();
            let is_healthy = seat.opened_at.elapsed() >= HEALTHY_AFTER;
            seat.failures = if is_healthy { 1 } else { seat.failures.saturating_add(1) };
        } else if asked.is_none() {
            seat.failures = seat.failures.saturating_add(1);
        }
        seat.busy = if asked.is_some() { seat.busy.saturating_add(1) } else { 0 };
        let tries = if seat.busy == 0 { seat.failures } else { seat.busy };
        seat.node.closed();
        seat.coming.clear();
        seat.going.clear();
        seat.line = Line::Down;
        seat.beat_sent = None;
        let jittered = backoff::delay_ms(tries, BACKOFF_BASE_MS, BACKOFF_CAP_MS, rand::random());
        let wait = asked.unwrap_or_default() + Duration::from_millis(jittered);
        self.after(at, wait, Timer::Dial);
    }
}
