//! One session with one node: what it says is recorded and then acknowledged, what it must know is sent.

use super::{
    handshake::{self, Greeted},
    outbound::Outbound,
    recorder::{record_logs, record_reports},
    socket::Door,
};
use domain::{attempt::Report, ids::NodeId, node::NodeMetrics};
use futures::{SinkExt, StreamExt, stream::SplitStream};
use protocol::{
    Frame, FromNode, LogFrame, ToNode,
    delivery::{Heard, Incoming, Outgoing},
    frame::seq_of,
    silence_after,
    transport::{Message, Transport, TransportError},
};
use store::{NodeReport, SessionKey};
use tokio::sync::mpsc;

/// Reports and log pieces that may wait for the database. An honest agent keeps far below: it sends what its window allows.
const QUEUE: usize = 8_192;

/// A line that is dead must not keep its session for long.
const LAST_WORDS_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// What the reader hands on.
pub(super) struct Inbound {
    pub(super) reports: mpsc::Sender<(u64, NodeReport)>,
    pub(super) logs: mpsc::Sender<LogFrame>,
}

/// Who connected.
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// The node's newest session when the connection was taken.
    pub(super) newest_epoch: i64,
}

/// Runs until the line breaks, the node is revoked, a newer session takes over, or the service stops.
pub(super) async fn run<T: Transport + 'static>(door: Door, caller: Caller, mut transport: T) {
    let greeted = handshake::greet(&door.store, &caller, door.settings.heartbeat, &mut transport).await;
    let Caller { node, name, .. } = caller;
    let greeted = match greeted {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(error) => {
            tracing::info!(node.name = %name, error = %service_kit::lifecycle::Chain(&error), "a node did not get through its hello");
            return;
        }
    };
    let key = greeted.key;
    tracing::info!(node.name = %name, node.id = %node, session = key.epoch, "a node connected");
    let reason = converse(&door, greeted, transport).await;
    // Liveness at once: no new work goes to a node whose socket is gone.
    if let Err(error) = store::in_time(door.store.close_session(key)).await {
        tracing::debug!(%error, "the end of a session could not be recorded; the sweep will notice");
    }
    tracing::info!(node.name = %name, node.id = %node, session = key.epoch, reason = %reason, "a node's session ended");
}

async fn converse<T: Transport>(door: &Door, greeted: Greeted, transport: T) -> String {
    let Greeted { key, stop, inventory } = greeted;
    let (mut sink, stream) = transport.split();
    let (out, mut outgoing) = mpsc::unbounded_channel::<ToNode>();
    let outbound = Outbound::new(out);
    for held in stop {
        outbound.send(ToNode::Stop { held });
    }
    let (reports, report_queue) = mpsc::channel(QUEUE);
    let (logs, log_queue) = mpsc::channel(QUEUE);
    let stopping = door.service.stopping();
    let listening = door.teller.listen(key, inventory, outbound.clone());
    let mut numbers = Outgoing::<()>::default();
    let mut encode = |message: ToNode| Message::Text(Frame::numbered(numbers.number(), message).encode());
    // One task, several loops: the first that ends, ends the session.
    let reason = tokio::select! {
        () = stopping.cancelled() => "the server is going down".to_owned(),
        error = read(door, key, stream, Inbound { reports, logs }, &outbound) => service_kit::lifecycle::Chain(&error).to_string(),
        reason = record_reports(&door.reports, key, report_queue, &outbound, &listening) => reason,
        reason = record_logs(&door.logs, key, log_queue, &outbound) => reason,
        reason = outbound.closed() => reason.to_owned(),
        error = async {
            loop {
                let Some(message) = outgoing.recv().await else { return TransportError::Closed("nothing to say".into()) };
                let mut sent = sink.feed(encode(message)).await;
                while let (Ok(()), Ok(more)) = (&sent, outgoing.try_recv()) {
                    sent = sink.feed(encode(more)).await;
                }
                if let Err(error) = sent { return error }
                // A node that does not read is given up, not waited for.
                match tokio::time::timeout(silence_after(door.settings.heartbeat), sink.flush()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error,
                    Err(_) => return TransportError::Silent,
                }
            }
        } => service_kit::lifecycle::Chain(&error).to_string(),
    };
    // The last words: a node whose token was revoked can't come back to hear that its work must stop.
    let last_words = async {
        while let Ok(message) = outgoing.try_recv() {
            sink.feed(encode(message)).await?;
        }
        sink.flush().await
    };
    if !matches!(tokio::time::timeout(LAST_WORDS_WITHIN, last_words).await, Ok(Ok(()))) {
        tracing::debug!(node.id = %key.node, "a session ended before all was said");
    }
    reason
}

async fn read<T: Transport>(
    door: &Door,
    key: SessionKey,
    mut stream: SplitStream<T>,
    inbound: Inbound,
    outbound: &Outbound,
) -> TransportError {
    let mut incoming = Incoming::default();
    // It keeps all that was not acknowledged, and says it in its next session.
    let lost = || TransportError::Protocol("a message of the node was lost on its way".into());
    loop {
        let message = match tokio::time::timeout(silence_after(door.settings.heartbeat), stream.next()).await {
            Err(_) => return TransportError::Silent,
            Ok(None) => return TransportError::Closed("without a word".into()),
            Ok(Some(Err(error))) => return error,
            Ok(Some(Ok(message))) => message,
        };
        let handed_on = match message {
            Message::Binary(bytes) => match LogFrame::decode(&bytes) {
                Ok(frame) if incoming.piece(&frame) == Heard::Again => continue,
                Ok(frame) => inbound.logs.try_send(frame).is_ok(),
                Err(error) => {
                    outbound.send(ToNode::Error { code: "malformed".into(), detail: error.to_string() });
                    true
                }
            },
            Message::Text(text) => {
                let frame = Frame::<FromNode>::decode(&text);
                match incoming.message(frame.as_ref().map_or_else(|_| seq_of(&text), |frame| frame.seq)) {
                    Heard::New => {}
                    Heard::Again => continue,
                    Heard::Missing => return lost(),
                }
                match frame {
                    Ok(frame) => {
                        match &frame.message {
                            FromNode::Heartbeat { pieces, .. } if incoming.pieces_sent(*pieces) == Heard::Missing => {
                                return lost();
                            }
                            FromNode::Report { held, report: Report::Released } => incoming.forget(held.attempt),
                            _ => {}
                        }
                        hear(door, key, frame, &inbound, outbound).await
                    }
                    Err(error) => {
                        tracing::warn!(node.id = %key.node, %error, "a message of a node was skipped");
                        outbound.send(ToNode::Error { code: "malformed".into(), detail: error.to_string() });
                        true
                    }
                }
            }
        };
        if !handed_on {
            return TransportError::Protocol("more was sent than the window allows".into());
        }
    }
}

/// False: the queue is full, which an honest agent can't cause.
async fn hear(door: &Door, key: SessionKey, frame: Frame<FromNode>, inbound: &Inbound, outbound: &Outbound) -> bool {
    match frame.message {
        FromNode::Report { held, report } => {
            return inbound.reports.try_send((frame.seq, NodeReport { held, report })).is_ok();
        }
        FromNode::Heartbeat { metrics, number, .. } => beat(door, key, *metrics, number, outbound),
        FromNode::Facts { facts } => {
            if let Err(error) = store::in_time(door.store.update_facts(key, &facts)).await {
                tracing::warn!(%error, "a node's facts could not be recorded; its next hello brings them again");
            }
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
