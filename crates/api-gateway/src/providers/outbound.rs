//! What a node must be told, read from the state itself.

use super::socket::Door;
use domain::ids::AttemptId;
use protocol::{Assign, ToNode};
use std::{collections::BTreeSet, sync::Arc};
use store::{OutboxItem, SessionKey, Topic};
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};

/// Sends to one node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbound {
    queue: mpsc::UnboundedSender<ToNode>,
    closing: Arc<watch::Sender<Option<&'static str>>>,
}

impl Outbound {
    pub(super) fn new(queue: mpsc::UnboundedSender<ToNode>) -> Self {
        Self { queue, closing: Arc::new(watch::channel(None).0) }
    }
    pub(super) fn send(&self, message: ToNode) {
        // The session ends with its queue.
        let _ = self.queue.send(message);
    }
    pub(super) fn close(&self, reason: &'static str) {
        self.closing.send_replace(Some(reason));
    }
    async fn closed(&self) -> &'static str {
        let mut closing = self.closing.subscribe();
        let reason = closing.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or("closed")
    }
}

/// Looks for what the node must be told, whenever something hints at it and every so often; returns why the session must end.
///
/// `known`: what the hello named. It has arrived; an assignment that was read before the reports of a short attempt were recorded
/// would reach the node after it had forgotten the attempt, and begin it once more.
pub(super) async fn tell_node(door: &Door, key: SessionKey, known: BTreeSet<AttemptId>, outbound: &Outbound) -> String {
    let mut hints = door.store.wakeups().subscribe();
    // What went out in this session need not go out again: the node holds it, or the session is over.
    let mut sent = Sent { assigned: known, ..Sent::default() };
    loop {
        match tell_once(door, key, outbound, &mut sent).await {
            Ok(Some(reason)) => return reason,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a node's outbox could not be read; trying again"),
        }
        let timer = tokio::time::sleep(door.settings.outbox_every);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                () = &mut timer => break,
                reason = outbound.closed() => return reason.to_owned(),
                hint = hints.recv() => match hint {
                    Ok(Topic::Node(node)) if node == key.node => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return "the server is going down".to_owned(),
                },
            }
        }
    }
}

#[derive(Default)]
struct Sent {
    assigned: BTreeSet<AttemptId>,
    cancelled: BTreeSet<AttemptId>,
    stopped: BTreeSet<AttemptId>,
    evicted: BTreeSet<AttemptId>,
    draining: bool,
}

async fn tell_once(
    door: &Door,
    key: SessionKey,
    outbound: &Outbound,
    sent: &mut Sent,
) -> Result<Option<String>, store::StoreError> {
    let assigned: Vec<AttemptId> = sent.assigned.iter().copied().collect();
    let outbox = door.store.outbox(key.node, &assigned).await?;
    if outbox.revoked {
        // What runs there must not run on; the session sends this before it closes.
        outbox.items.into_iter().for_each(|item| tell(item, outbound, sent));
        return Ok(Some("the node was revoked".to_owned()));
    }
    if outbox.session_epoch != key.epoch {
        return Ok(Some("a newer session of this node took over".to_owned()));
    }
    if outbox.draining != sent.draining {
        outbound.send(if outbox.draining { ToNode::Drain } else { ToNode::Resume });
        sent.draining = outbox.draining;
    }
    outbox.items.into_iter().for_each(|item| tell(item, outbound, sent));
    Ok(None)
}

/// What went out in this session does not go out again.
fn tell(item: OutboxItem, outbound: &Outbound, sent: &mut Sent) {
    match item {
        OutboxItem::Assign { held, task, project, number, gpu_ids, lease, spec } => {
            if sent.assigned.insert(held.attempt) {
                let assign = Assign { held, task, project, number, gpu_ids, lease, spec: *spec };
                outbound.send(ToNode::Assign(Box::new(assign)));
            }
        }
        OutboxItem::Cancel { held } => {
            if sent.cancelled.insert(held.attempt) {
                outbound.send(ToNode::Cancel { held });
            }
        }
        OutboxItem::Stop { held } => {
            if sent.stopped.insert(held.attempt) {
                outbound.send(ToNode::Stop { held });
            }
        }
        OutboxItem::Evict { held } => {
            if sent.evicted.insert(held.attempt) {
                outbound.send(ToNode::Evict { held });
            }
        }
    }
}
