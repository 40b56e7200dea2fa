//! One session with one node: what it says is recorded and then acknowledged, what it must know is sent.

use super::{
    acks::Acks,
    admission::Place,
    handshake::{self, Greeted},
    outbound::Outbound,
    recorder::{Recorder, batch_of_pieces, batch_of_reports, record_logs, record_reports},
    socket::Door,
    teller::Listening,
};
use domain::{
    attempt::Report,
    ids::{AttemptId, NodeId},
    node::NodeMetrics,
};
use futures::{FutureExt, SinkExt, future::BoxFuture};
use protocol::{
    Frame, FromNode, LogFrame, ToNode,
    delivery::{Heard, Incoming, Outgoing},
    frame::seq_of,
    transport::{Message, Transport, TransportError},
};
use std::{
    collections::{BTreeSet, VecDeque},
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};
use store::{NodeReport, SessionKey};

/// A line that is dead must not keep its session for long.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);
/// What most tasks have. Reports of more urgent ones have a writer of their own.
const USUAL_PRIORITY: i32 = 0;
/// Messages of one node before others have their turn.
const MESSAGES_PER_TURN: usize = 64;

/// Who connected.
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// The node's newest session when the connection was taken.
    pub(super) newest_epoch: i64,
}

/// Runs until the line breaks, the node is revoked, a newer session takes over, or the service stops.
///
/// What is done once in a session is boxed: a task is as large as the largest of what it awaits, for as long as it lives.
pub(super) async fn run<T: Transport + 'static>(door: Door, caller: Caller, place: Place, mut transport: T) {
    let greeting = handshake::greet(&door, &caller, place, &mut transport);
    let greeted = match greeting.boxed().await {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(error) => {
            tracing::info!(node.name = %caller.name, error = %service_kit::lifecycle::Chain(&error), "a node did not get through its hello");
            return;
        }
    };
    let Caller { node, name, .. } = caller;
    let key = greeted.key;
    let _counted = door.figures.opened(key.epoch);
    tracing::info!(node.name = %name, node.id = %node, session = key.epoch, "a node connected");
    let reason = converse(&door, greeted, transport).await;
    // Liveness at once: no new work goes to a node whose socket is gone.
    if let Err(error) = store::in_time(door.store.close_session(key)).boxed().await {
        tracing::debug!(%error, "the end of a session could not be recorded; the sweep will notice");
    }
    tracing::info!(node.name = %name, node.id = %node, session = key.epoch, reason = %reason, "a node's session ended");
}

async fn converse<T: Transport>(door: &Door, greeted: Greeted, transport: T) -> String {
    let Greeted { key, stop, inventory } = greeted;
    let outbound = Outbound::new();
    for held in stop {
        outbound.send(ToNode::Stop { held });
    }
    let listening = door.teller.listen(key, inventory, outbound.clone());
    let acks = Acks::default();
    let mut session = Session {
        door,
        acks: &acks,
        urgent: BTreeSet::new(),
        key,
        listening: &listening,
        outbound: &outbound,
        transport,
        incoming: Incoming::default(),
        numbers: Outgoing::default(),
        unsent: VecDeque::new(),
        is_flushed: true,
        reports: Recorder::default(),
        urgent_reports: Recorder::default(),
        logs: Recorder::default(),
        facts: None,
    };
    let reason = tokio::select! {
        () = door.service.stopping().cancelled() => "the server is going down".to_owned(),
        reason = poll_fn(|context| session.poll(context)) => reason,
    };
    // The last words: a node whose token was revoked can't come back to hear that its work must stop.
    let last_words = tokio::time::timeout(LAST_WORDS_WITHIN, session.say_the_last()).boxed().await;
    if !matches!(last_words, Ok(Ok(()))) {
        tracing::debug!(node.id = %key.node, "a session ended before all was said");
    }
    reason
}

/// Both directions of one session, driven by hand: one wake-up does all that can be done, and an idle session is nothing but this,
/// its socket and its place among those of the gateway.
struct Session<'a, T> {
    door: &'a Door,
    key: SessionKey,
    listening: &'a Listening,
    outbound: &'a Outbound,
    transport: T,
    incoming: Incoming,
    numbers: Outgoing<()>,
    /// Taken from the outbound queue, and not taken by the transport yet.
    unsent: VecDeque<ToNode>,
    is_flushed: bool,
    acks: &'a Acks,
    /// Attempts whose reports wait behind those of no other. All reports of an attempt go the same way, so that they keep their order.
    urgent: BTreeSet<AttemptId>,
    urgent_reports: Recorder<'a, (u64, NodeReport)>,
    reports: Recorder<'a, (u64, NodeReport)>,
    logs: Recorder<'a, LogFrame>,
    /// Facts that are being recorded: nothing more is read meanwhile.
    facts: Option<BoxFuture<'a, ()>>,
}

impl<'a, T: Transport> Session<'a, T> {
    /// Ready with the reason why the session is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            if let Some(reason) = self.outbound.closing() {
                return Poll::Ready(reason.to_owned());
            }
            let said = |error: TransportError| service_kit::lifecycle::Chain(&error).to_string();
            let done = self.read(context).map_err(said);
            let done = done.and_then(|()| self.record(context)).and_then(|()| self.send(context).map_err(said));
            if let Err(reason) = done {
                return Poll::Ready(reason);
            }
            if self.outbound.sleep(context) {
                return Poll::Pending;
            }
        }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<(), TransportError> {
        for _ in 0..MESSAGES_PER_TURN {
            if let Some(facts) = &mut self.facts {
                match facts.as_mut().poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(()) => {
                        self.facts = None;
                        self.outbound.heard();
                    }
                }
            }
            match futures::Stream::poll_next(std::pin::Pin::new(&mut self.transport), context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(TransportError::Closed("without a word".into())),
                Poll::Ready(Some(message)) => {
                    self.outbound.heard();
                    self.hear(message?)?;
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn record(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let (door, key, outbound, listening, acks) = (self.door, self.key, self.outbound, self.listening, self.acks);
        self.urgent_reports.poll(context, |waiting| {
            record_reports(&door.urgent_reports, acks, key, batch_of_reports(waiting), outbound, listening).boxed()
        })?;
        self.reports.poll(context, |waiting| {
            record_reports(&door.reports, acks, key, batch_of_reports(waiting), outbound, listening).boxed()
        })?;
        self.logs.poll(context, |waiting| record_logs(door, key, batch_of_pieces(waiting), outbound).boxed())
    }

    /// Sends what is wanted. A node that takes nothing is given up by [`super::teller`], not waited for.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), TransportError> {
        loop {
            let mut wanted = self.outbound.take();
            match self.unsent.is_empty() {
                // The memory of what was sent goes with it.
                true => self.unsent = wanted,
                false => self.unsent.append(&mut wanted),
            }
            if self.unsent.is_empty() && self.is_flushed {
                return Ok(());
            }
            while let Some(message) = self.unsent.pop_front() {
                match self.transport.poll_ready_unpin(context) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => {
                        self.unsent.push_front(message);
                        self.is_flushed = false;
                        self.outbound.takes(false);
                        return Ok(());
                    }
                }
                if let ToNode::Assign(assign) = &message
                    && assign.spec.priority > USUAL_PRIORITY
                {
                    self.urgent.insert(assign.held.attempt);
                }
                let message = encode(&mut self.numbers, message);
                self.transport.start_send_unpin(message)?;
                self.is_flushed = false;
            }
            match self.transport.poll_flush_unpin(context) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => {
                    self.outbound.takes(false);
                    return Ok(());
                }
            }
            self.is_flushed = true;
            self.outbound.takes(true);
        }
    }

    async fn say_the_last(&mut self) -> Result<(), TransportError> {
        self.unsent.append(&mut self.outbound.take());
        while let Some(message) = self.unsent.pop_front() {
            self.transport.feed(encode(&mut self.numbers, message)).await?;
        }
        self.transport.flush().await
    }

    fn hear(&mut self, message: Message) -> Result<(), TransportError> {
        // It keeps all that was not acknowledged, and says it in its next session.
        let lost = || Err(TransportError::Protocol("a message of the node was lost on its way".into()));
        let malformed = |detail: String| ToNode::Error { code: "malformed".into(), detail };
        let handed_on = match message {
            Message::Binary(bytes) => match LogFrame::decode(&bytes) {
                Ok(frame) if self.incoming.piece(&frame) == Heard::Again => return Ok(()),
                Ok(frame) => self.logs.take(frame),
                Err(error) => {
                    self.outbound.send(malformed(error.to_string()));
                    true
                }
            },
            Message::Text(text) => {
                let frame = Frame::<FromNode>::decode(&text);
                match self.incoming.message(frame.as_ref().map_or_else(|_| seq_of(&text), |frame| frame.seq)) {
                    Heard::New => {}
                    Heard::Again => return Ok(()),
                    Heard::Missing => return lost(),
                }
                match frame {
                    Ok(frame) => {
                        match &frame.message {
                            FromNode::Heartbeat { pieces, .. }
                                if self.incoming.pieces_sent(*pieces) == Heard::Missing =>
                            {
                                return lost();
                            }
                            FromNode::Report { held, report: Report::Released } => self.incoming.forget(held.attempt),
                            _ => {}
                        }
                        self.hear_frame(frame)
                    }
                    Err(error) => {
                        tracing::warn!(node.id = %self.key.node, %error, "a message of a node was skipped");
                        self.outbound.send(malformed(error.to_string()));
                        true
                    }
                }
            }
        };
        match handed_on {
            true => Ok(()),
            false => Err(TransportError::Protocol("more was sent than the window allows".into())),
        }
    }

    /// False: too much is waiting.
    fn hear_report(&mut self, seq: u64, report: NodeReport) -> bool {
        self.acks.heard(seq);
        let is_urgent = match report.report {
            // The last of an attempt.
            Report::Released => self.urgent.remove(&report.held.attempt),
            _ => self.urgent.contains(&report.held.attempt),
        };
        if is_urgent { self.urgent_reports.take((seq, report)) } else { self.reports.take((seq, report)) }
    }

    /// False: too much is waiting.
    fn hear_frame(&mut self, frame: Frame<FromNode>) -> bool {
        let (key, outbound) = (self.key, self.outbound);
        match frame.message {
            FromNode::Report { held, report } => return self.hear_report(frame.seq, NodeReport { held, report }),
            FromNode::Heartbeat { metrics, number, .. } => beat(self.door, key, *metrics, number, outbound),
            FromNode::Facts { facts } => {
                let store = &self.door.store;
                let recording = async move {
                    if let Err(error) = store::in_time(store.update_facts(key, &facts)).await {
                        tracing::warn!(%error, "a node's facts could not be recorded; its next hello brings them again");
                    }
                };
                self.facts = Some(recording.boxed());
            }
            FromNode::Error { code, detail } => {
                tracing::warn!(node.id = %key.node, %code, %detail, "a node did not understand something")
            }
            FromNode::Hello(_) => {
                outbound.send(ToNode::Error { code: "unexpected".into(), detail: "a second hello".into() })
            }
            FromNode::Unknown => outbound
                .send(ToNode::Error { code: "unknown_message".into(), detail: "skipped: this server is older".into() }),
        }
        true
    }
}

fn encode(numbers: &mut Outgoing<()>, message: ToNode) -> Message {
    Message::Text(Frame::numbered(numbers.number(), message).encode())
}

/// Recorded with those of other nodes in one statement. Answered once it is committed: the agent counts on that.
fn beat(door: &Door, key: SessionKey, metrics: NodeMetrics, number: u64, outbound: &Outbound) {
    let outbound = outbound.clone();
    door.beats.record(
        key,
        metrics,
        Box::new(move |counted| {
            if counted {
                outbound.send(ToNode::Beat { number });
            } else {
                outbound.close("a newer session of this node took over");
            }
        }),
    );
}

#[cfg(test)]
mod tests;
