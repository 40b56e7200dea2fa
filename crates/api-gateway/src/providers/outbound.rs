//! What is sent to one node.

use domain::ids::AttemptId;
use protocol::{Assign, ToNode};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};
use store::{Look, Outbox, OutboxItem, SessionKey};
use tokio::time::Instant;

/// What others of this gateway want of a session. Cheap to clone; one small allocation, since ten thousand nodes have one each.
#[derive(Clone)]
pub(super) struct Outbound(Arc<Mutex<Wanted>>);

struct Wanted {
    /// To be sent. It holds no memory while nothing is.
    queue: VecDeque<ToNode>,
    closing: Option<&'static str>,
    waker: Option<Waker>,
    heard_at: Instant,
    /// Since when the node takes nothing.
    stuck_since: Option<Instant>,
}

impl Outbound {
    pub(super) fn new() -> Self {
        let wanted =
            Wanted { queue: VecDeque::new(), closing: None, waker: None, heard_at: Instant::now(), stuck_since: None };
        Self(Arc::new(Mutex::new(wanted)))
    }

    /// Nothing happens once the session is over.
    pub(super) fn send(&self, message: ToNode) {
        let mut wanted = self.lock();
        wanted.queue.push_back(message);
        wanted.wake();
    }

    /// The first reason counts.
    pub(super) fn close(&self, reason: &'static str) {
        let mut wanted = self.lock();
        wanted.closing.get_or_insert(reason);
        wanted.wake();
    }

    pub(super) fn closing(&self) -> Option<&'static str> {
        self.lock().closing
    }

    /// All that waits to be sent.
    pub(super) fn take(&self) -> VecDeque<ToNode> {
        std::mem::take(&mut self.lock().queue)
    }

    /// The session sleeps until something is wanted. False: something is already.
    pub(super) fn sleep(&self, context: &Context<'_>) -> bool {
        let mut wanted = self.lock();
        if !wanted.queue.is_empty() || wanted.closing.is_some() {
            return false;
        }
        wanted.waker = Some(context.waker().clone());
        true
    }

    /// The node has said something.
    pub(super) fn heard(&self) {
        self.lock().heard_at = Instant::now();
    }

    /// Whether the node takes what is sent.
    pub(super) fn takes(&self, takes: bool) {
        let mut wanted = self.lock();
        wanted.stuck_since = if takes { None } else { wanted.stuck_since.or_else(|| Some(Instant::now())) };
    }

    /// Ends the session of a node that has said or taken nothing for so long.
    pub(super) fn close_if_silent(&self, now: Instant, silence: Duration) {
        let wanted = self.lock();
        let is_past = |since: Instant| now.saturating_duration_since(since) > silence;
        let (is_silent, is_stuck) = (is_past(wanted.heard_at), wanted.stuck_since.is_some_and(is_past));
        drop(wanted);
        if is_silent || is_stuck {
            self.close(if is_silent {
                "the node was silent for too long"
            } else {
                "the node took nothing for too long"
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What went out in a session need not go out again: the node holds it, or the session is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) assigned: BTreeSet<AttemptId>,
    /// The newest assignment: leases are made in the order of their ids.
    pub(super) newest: Option<AttemptId>,
    cancelled: BTreeSet<AttemptId>,
    stopped: BTreeSet<AttemptId>,
    evicted: BTreeSet<AttemptId>,
    draining: bool,
}

impl Sent {
    /// `known`: what the hello named. It has arrived; an assignment that was read before the reports of a short attempt were
    /// recorded would reach the node after it had forgotten the attempt, and begin it once more.
    pub(super) fn known(known: BTreeSet<AttemptId>) -> Self {
        Self { newest: known.last().copied(), assigned: known, ..Self::default() }
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
        OutboxItem::Assign { held, task, project, number, gpu_ids, ahead, lease, spec } => {
            sent.newest = sent.newest.max(Some(held.attempt));
            if sent.assigned.insert(held.attempt) {
                let assign = Assign { held, task, project, number, gpu_ids, ahead, lease, spec: *spec };
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
