//! One session: hello, then both directions until the line breaks.

use super::{Dialled, Link, SessionEnd, dial, gather::Gathering, log_pump::LogPump};
use crate::{
    agent::{Event, Millis},
    runtime::boot_millis,
};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held},
    node::Condition,
};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use protocol::{
    Frame, FromNode, HeldAttempt, Hello, MAX_FRAME_BYTES, ToNode, Welcome,
    delivery::{Heard, Incoming, Outgoing},
    frame::seq_of,
    silence_after,
    transport::{Message, Transport, TransportError},
    version,
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::sync::mpsc;

const WELCOME_WITHIN: Duration = Duration::from_secs(30);
/// How often the node is looked at. What it can't do (Docker is away) is told at once: until the server knows, it sends work here that
/// fails, and a task has only so many attempts.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Dials, says hello, and carries messages until the session ends.
pub(super) async fn run(link: &Link) -> SessionEnd {
    let mut transport = match dial(&link.url, &link.token, &link.trust).await {
        Dialled::Open(transport) => transport,
        Dialled::Unauthorised(detail) => return SessionEnd::Unauthorised(detail),
        Dialled::RetryAfter(after) => return SessionEnd::RetryAfter(after),
        Dialled::Failed(error) => return SessionEnd::Lost(error),
    };
    match greet(link, &mut transport).await {
        Ok((welcome, sent_at)) => {
            // The hello is recorded as a heartbeat is.
            link.handle.tell(Event::HeartbeatAcknowledged { sent_at });
            SessionEnd::Lost(converse(link, transport, welcome).await)
        }
        Err(end) => end,
    }
}

/// The inventory is taken after what runs was adopted, so that the server sees all of it.
async fn greet<T: Transport>(link: &Link, transport: &mut T) -> Result<(Welcome, Millis), SessionEnd> {
    let facts = link.facts.borrow().clone();
    let hello = Hello {
        versions: version::SUPPORTED,
        instance: link.instance,
        facts,
        metrics: link.metrics().await,
        inventory: link.handle.inventory().await,
    };
    let mut text = Frame::new(FromNode::Hello(Box::new(hello.clone()))).encode();
    if text.len() > MAX_FRAME_BYTES {
        // What has ended is reported once more after the hello anyway.
        let slim =
            |attempt: HeldAttempt| HeldAttempt { exit: None, ending: None, log_offsets: BTreeMap::new(), ..attempt };
        let mut hello = hello;
        hello.inventory.attempts = hello.inventory.attempts.into_iter().map(slim).collect();
        text = Frame::new(FromNode::Hello(Box::new(hello))).encode();
    }
    let sent_at = boot_millis();
    transport.send(Message::Text(text)).await.map_err(SessionEnd::Lost)?;
    let answer = tokio::time::timeout(WELCOME_WITHIN, transport.next())
        .await
        .map_err(|_| SessionEnd::Lost(TransportError::Silent))?;
    let text = match answer {
        Some(Ok(Message::Text(text))) => text,
        Some(Ok(Message::Binary(_))) => {
            return Err(SessionEnd::Lost(TransportError::Protocol("bytes instead of a welcome".into())));
        }
        Some(Err(error)) => return Err(SessionEnd::Lost(error)),
        None => return Err(SessionEnd::Lost(TransportError::Closed("no welcome".into()))),
    };
    match Frame::<ToNode>::decode(&text).map(|frame| frame.message) {
        Ok(ToNode::Welcome(welcome)) => Ok((welcome, sent_at)),
        Ok(ToNode::Refused(refused)) => Err(SessionEnd::Refused(refused)),
        _ => Err(SessionEnd::Lost(TransportError::Protocol("something else instead of a welcome".into()))),
    }
}

async fn converse<T: Transport>(link: &Link, transport: T, welcome: Welcome) -> TransportError {
    let (outgoing, mut reports) = mpsc::unbounded_channel();
    link.name.send_replace(welcome.name.clone());
    link.handle.session_opened(outgoing, &welcome.log_offsets);
    link.handle.tell(Event::Draining(welcome.draining));
    link.connected.send_replace(true);
    tracing::info!(node.name = %welcome.name, node.id = %welcome.node, server.version = %welcome.server_version, "connected");

    let (sink, mut stream) = transport.split();
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(100, 60_000));
    let silence = silence_after(heartbeat);
    let mut sender = Sender {
        sink,
        silence,
        outgoing: Outgoing::default(),
        gathering: Gathering::default(),
        stop_beat: None,
        beats: Beats::default(),
    };
    let mut incoming = Incoming::default();
    let mut pump = LogPump::new(link.handle.logs.clone());
    let mut facts = link.facts.clone();
    let mut stopping = link.stopping.clone();
    let mut look = tokio::time::interval(heartbeat.min(LOOK_EVERY));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The hello was the first one.
    look.reset();
    // All by a clock that runs through suspend: a laptop that wakes finds its line silent for too long, and redials at once.
    let mut last_beat = boot_millis();
    let mut told = None;
    let mut measuring: Option<futures::future::BoxFuture<'_, domain::node::NodeMetrics>> = None;
    let mut last_heard = boot_millis();
    loop {
        let outcome = tokio::select! {
            // Control before logs, always: a flood of output must not delay a heartbeat.
            biased;
            message = stream.next() => {
                last_heard = boot_millis();
                match message {
                    Some(Ok(message)) => hear(link, message, &mut incoming, &mut sender, &mut pump).await,
                    Some(Err(error)) => Err(error),
                    None => Err(TransportError::Closed("without a word".into())),
                }
            }
            // At once: until the server knows it, it sends what nobody here takes.
            Ok(()) = stopping.changed() => {
                sender.gathering.hold();
                measuring.get_or_insert_with(|| Box::pin(link.metrics()));
                Ok(())
            }
            Some(gathered) = sender.gathering.next(&mut reports, !sender.outgoing.is_empty()) => sender.send_held(gathered).await,
            mut metrics = async { measuring.as_mut().expect("polled only while measuring").await }, if measuring.is_some() => {
                measuring = None;
                // It may have begun before.
                let is_stopping = *link.stopping.borrow();
                if is_stopping {
                    metrics.conditions.insert(Condition::Stopping);
                }
                // The next look would be too late.
                let is_due = since(last_beat) + look.period() / 2 >= heartbeat;
                if is_due || told.as_ref() != Some(&metrics.conditions) {
                    (last_beat, told) = (boot_millis(), Some(metrics.conditions.clone()));
                    // After a suspend, exclusive work is stopped before the server learns that the node is back.
                    link.handle.tell(Event::Tick);
                    let number = sender.beats.sent(boot_millis());
                    if is_stopping {
                        sender.stop_beat.get_or_insert(number);
                    }
                    sender.send(FromNode::Heartbeat { metrics: Box::new(metrics), number, pieces: pump.pieces() }).await
                } else {
                    Ok(())
                }
            }
            _ = look.tick() => {
                // Asking Docker takes up to 10 s when it hangs; nothing else waits for that.
                if measuring.is_none() {
                    measuring = Some(Box::pin(link.metrics()));
                }
                if since(last_heard) > silence { Err(TransportError::Silent) } else { Ok(()) }
            }
            Ok(()) = facts.changed() => {
                let facts = facts.borrow_and_update().clone();
                sender.send(FromNode::Facts { facts: Box::new(facts) }).await
            }
            frame = pump.next() => match frame {
                Ok(frame) => sender.put(Message::Binary(frame.encode())).await,
                Err(error) => {
                    tracing::error!(%error, "a log could not be read from the spool");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(())
                }
            },
        };
        if let Err(error) = outcome {
            return error;
        }
    }
}

fn since(moment: Millis) -> Duration {
    Duration::from_millis(boot_millis().saturating_sub(moment))
}

struct Sender<T: Transport> {
    /// A peer that takes nothing for so long is given up.
    silence: Duration,
    sink: SplitSink<T, Message>,
    outgoing: Outgoing<(AttemptId, &'static str)>,
    gathering: Gathering,
    /// The first heartbeat that said that this agent stops.
    stop_beat: Option<u64>,
    beats: Beats,
}

/// When each heartbeat was sent that is not answered yet.
#[derive(Default)]
struct Beats {
    last: u64,
    sent_at: VecDeque<(u64, Millis)>,
}

/// More are waiting only where the server does not number its answers.
const MOST_BEATS: usize = 1_000;

impl Beats {
    fn sent(&mut self, at: Millis) -> u64 {
        self.last += 1;
        self.sent_at.push_back((self.last, at));
        if self.sent_at.len() > MOST_BEATS {
            self.sent_at.pop_front();
        }
        self.last
    }

    /// When the heartbeat of this number was sent. Those before it were not recorded, or count for less.
    fn answered(&mut self, number: u64) -> Option<Millis> {
        while self.sent_at.pop_front_if(|(before, _)| *before < number).is_some() {}
        self.sent_at.pop_front_if(|(first, _)| *first == number).map(|(_, at)| at)
    }
}

impl<T: Transport> Sender<T> {
    async fn put(&mut self, message: Message) -> Result<(), TransportError> {
        self.in_time(|sink| sink.send(message)).await
    }

    async fn send(&mut self, message: FromNode) -> Result<(), TransportError> {
        let seq = self.outgoing.number();
        self.put(Message::Text(Frame::numbered(seq, message).encode())).await
    }

    /// Sends what the server acknowledges once it has committed it: all of it in one write where the line takes that.
    async fn send_held(&mut self, messages: Vec<FromNode>) -> Result<(), TransportError> {
        self.gathering.sent(messages.len());
        for message in messages {
            let seq = match &message {
                FromNode::Report { held, report } => self.outgoing.hold((held.attempt, Report::kind(report))),
                _ => self.outgoing.number(),
            };
            let message = Message::Text(Frame::numbered(seq, message).encode());
            self.in_time(|sink| sink.feed(message)).await?;
        }
        self.in_time(|sink| sink.flush()).await
    }

    /// A peer that takes nothing is given up like one that says nothing: nobody listens while this waits.
    async fn in_time<'a, F>(
        &'a mut self,
        work: impl FnOnce(&'a mut SplitSink<T, Message>) -> F,
    ) -> Result<(), TransportError>
    where
        F: Future<Output = Result<(), TransportError>> + 'a,
    {
        tokio::time::timeout(self.silence, work(&mut self.sink)).await.unwrap_or(Err(TransportError::Silent))
    }
}

async fn hear<T: Transport>(
    link: &Link,
    message: Message,
    incoming: &mut Incoming,
    sender: &mut Sender<T>,
    pump: &mut LogPump,
) -> Result<(), TransportError> {
    let Message::Text(text) = message else { return Ok(()) };
    let frame = Frame::<ToNode>::decode(&text);
    match incoming.message(frame.as_ref().map_or_else(|_| seq_of(&text), |frame| frame.seq)) {
        Heard::New => {}
        Heard::Again => return Ok(()),
        Heard::Missing => return Err(TransportError::Protocol("a message of the server was lost on its way".into())),
    }
    let frame = match frame {
        Ok(frame) => frame,
        Err(error) => {
            tracing::warn!(%error, "a message of the server was skipped");
            return sender.send(FromNode::Error { code: "malformed".into(), detail: error.to_string() }).await;
        }
    };
    let stop = |held: Held| link.handle.tell(Event::Stop(held));
    match frame.message {
        ToNode::Assign(assign) => link.handle.tell(Event::Assigned(assign)),
        ToNode::Cancel { held } => link.handle.tell(Event::Cancel(held)),
        ToNode::Stop { held } => stop(held),
        ToNode::Evict { held } => link.handle.tell(Event::Evict(held)),
        ToNode::Ack { up_to } => {
            for (attempt, kind) in sender.outgoing.acknowledged(up_to) {
                link.handle.tell(Event::Acknowledged { attempt, kind });
            }
        }
        ToNode::LogAck { attempt, stream, next_offset } => {
            pump.acknowledged(attempt, stream, next_offset);
            if let Some(log) = link.handle.logs.get(attempt) {
                log.acknowledge(stream, next_offset);
            }
        }
        ToNode::Drain => {
            tracing::info!("draining: nothing new is taken");
            link.handle.tell(Event::Draining(true));
        }
        ToNode::Resume => {
            tracing::info!("open again for new work");
            link.handle.tell(Event::Draining(false));
        }
        ToNode::Error { code, detail } => tracing::warn!(%code, %detail, "the server did not understand something"),
        ToNode::Beat { number } => {
            if sender.stop_beat.is_some_and(|stop| number >= stop) {
                sender.gathering.release();
            }
            if let Some(sent_at) = sender.beats.answered(number) {
                link.handle.tell(Event::HeartbeatAcknowledged { sent_at });
            }
        }
        ToNode::Welcome(_) => {}
        ToNode::Refused(refused) => return Err(TransportError::Closed(refused.detail)),
        ToNode::Unknown => {
            return sender
                .send(FromNode::Error { code: "unknown_message".into(), detail: "skipped: this agent is older".into() })
                .await;
        }
    }
    Ok(())
}
