//! What is sent to one node.

use domain::ids::AttemptId;
use protocol::{Assign, ToNode};
use std::{collections::BTreeSet, sync::Arc};
use store::{Look, Outbox, OutboxItem, SessionKey};
use tokio::sync::{mpsc, watch};

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
    pub(super) async fn closed(&self) -> &'static str {
        let mut closing = self.closing.subscribe();
        let reason = closing.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or("closed")
    }
}

/// What went out in a session need not go out again: the node holds it, or the session is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) assigned: BTreeSet<AttemptId>,
    cancelled: BTreeSet<AttemptId>,
    stopped: BTreeSet<AttemptId>,
    evicted: BTreeSet<AttemptId>,
    draining: bool,
}

impl Sent {
    /// `known`: what the hello named. It has arrived; an assignment that was read before the reports of a short attempt were
    /// recorded would reach the node after it had forgotten the attempt, and begin it once more.
    pub(super) fn known(known: BTreeSet<AttemptId>) -> Self {
        Self { assigned: known, ..Self::default() }
    }

    /// The node has it, and the platform knows: no look finds it as new any more.
    pub(super) fn settle(&mut self, attempt: AttemptId) {
        self.assigned.remove(&attempt);
    }

    /// Forgets what is settled, so that a session may last for years.
    fn keep(&mut self, open: &BTreeSet<AttemptId>) {
        for sent in [&mut self.assigned, &mut self.cancelled, &mut self.stopped, &mut self.evicted] {
            sent.retain(|attempt| open.contains(attempt));
        }
    }
}

/// Sends what is new in the node's outbox, or ends the session.
pub(super) fn tell(outbox: Outbox, look: Look, key: SessionKey, outbound: &Outbound, sent: &mut Sent) {
    if outbox.revoked {
        // What runs there must not run on; the session sends this before it closes.
        outbox.items.into_iter().for_each(|item| tell_of(item, outbound, sent));
        return outbound.close("the node was revoked");
    }
    if outbox.session_epoch != key.epoch {
        return outbound.close("a newer session of this node took over");
    }
    if outbox.draining != sent.draining {
        outbound.send(if outbox.draining { ToNode::Drain } else { ToNode::Resume });
        sent.draining = outbox.draining;
    }
    outbox.items.into_iter().for_each(|item| tell_of(item, outbound, sent));
    if look == Look::All {
        sent.keep(&outbox.open);
    }
}

fn tell_of(item: OutboxItem, outbound: &Outbound, sent: &mut Sent) {
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
