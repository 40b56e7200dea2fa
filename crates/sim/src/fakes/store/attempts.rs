//! Placing attempts, hearing of them, and what their nodes must be told.

use super::{FakeStore, SessionKey, Topic};
use crate::assertions::Violation;
use domain::{
    Timestamp,
    attempt::{AttemptState, Report},
    ids::{AttemptId, Held, NodeId, TaskId},
    lifecycle::{self, NewAttempt, Verdict},
    node::{Admission, NodeView, Presence},
    placement::{Candidate, Head, Placement, Snapshot},
    resources::Ledger,
    spec::TaskSpec,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

const HEADS_PER_CLASS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeReport {
    pub(crate) held: Held,
    pub(crate) report: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportVerdict {
    Recorded,
    Repeated,
    Fenced,
    Conflict,
    Orphan,
    StaleSession,
}

#[derive(Clone)]
pub(crate) enum OutboxItem {
    Assign { held: Held, task: TaskId, number: u32, gpu_ids: Vec<String>, spec: Rc<TaskSpec> },
    Cancel { held: Held },
    Stop { held: Held },
}

#[derive(Clone, Default)]
pub(crate) struct Outbox {
    pub(crate) items: Vec<OutboxItem>,
    pub(crate) draining: bool,
    pub(crate) session_epoch: i64,
}

impl FakeStore {
    pub(crate) fn placement_snapshot(&self, silence_ms: u64, now: Timestamp) -> Snapshot {
        let awaits_nodes = self.awaits_nodes();
        let mut heads: Vec<Head> = self
            .queue
            .iter()
            .filter(|_| !awaits_nodes)
            .map(|id| &self.tasks[id])
            .filter(|record| record.row.not_before.is_none_or(|at| at <= now) && !record.row.cancel_requested)
            .map(|record| Head {
                task: record.row.id,
                class: record.class,
                needs: (*record.needs).clone(),
                priority: record.spec.priority,
                queued_at: record.queued_at,
                avoid_node: record.row.avoid_node,
                warm_keys: BTreeSet::new(),
            })
            .collect();
        heads.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.queued_at.cmp(&b.queued_at)).then(a.task.cmp(&b.task)));
        let mut taken: BTreeMap<i64, usize> = BTreeMap::new();
        heads.retain(|head| {
            let taken = taken.entry(head.class).or_default();
            *taken += 1;
            *taken <= HEADS_PER_CLASS
        });
        // Without a head nobody looks at the nodes.
        let nodes = if heads.is_empty() { Vec::new() } else { self.candidates(silence_ms, now) };
        Snapshot { now, heads, nodes }
    }

    pub(crate) fn candidates(&self, silence_ms: u64, now: Timestamp) -> Vec<Candidate> {
        self.nodes
            .iter()
            .map(|(id, node)| {
                let silence = chrono::TimeDelta::milliseconds(silence_ms as i64);
                let soon = chrono::TimeDelta::seconds(5);
                let is_silent = node.beat_at.is_some_and(|at| at < now - silence || at > now + soon);
                let presence =
                    match (node.beat_at.is_none() || node.offline_since.is_some(), node.connected && !is_silent) {
                        (true, _) => Presence::Offline,
                        (false, true) => Presence::Connected,
                        (false, false) => Presence::Disconnected,
                    };
                let mut ledger = Ledger::new(node.facts.capacity.clone());
                let mut holding = 0;
                for attempt in
                    self.held_on(*id).filter(|attempt| !self.planted.live_only_holds || !attempt.state.is_terminal())
                {
                    ledger.hold(&attempt.reservation);
                    holding += 1;
                }
                let node = NodeView {
                    id: *id,
                    name: node.name.clone(),
                    facts: node.facts.clone(),
                    metrics: node.metrics.clone(),
                    presence,
                    admission: node.admission,
                    admission_note: String::new(),
                    last_seen_at: node.beat_at,
                    connected_since: node.connected_since,
                    created_at: now,
                };
                Candidate { node, ledger, holding }
            })
            .collect()
    }

    /// Commits what still holds. The leadership was required already, as the transaction's first statement.
    pub(crate) fn commit_placements(&mut self, plan: &[Placement], now: Timestamp) -> usize {
        let wanted: BTreeMap<TaskId, &Placement> = plan.iter().map(|placement| (placement.task, placement)).collect();
        let mut placed = 0;
        for (id, placement) in wanted {
            let node = &self.nodes[&placement.node];
            let is_open = node.admission == Admission::Open && node.connected && node.offline_since.is_none();
            let Some(mut task) = self.load_task(id).filter(|_| is_open) else { continue };
            let mut previous = task.live.and_then(|live| self.attempts.get(&live).cloned());
            let new = NewAttempt {
                id: AttemptId::from_uuid(self.next_id(2)),
                node: placement.node,
                reservation: placement.reservation.clone(),
            };
            if self.planted.commit_trusts_snapshot || self.has_room(placement) {
                let Some((attempt, events)) = lifecycle::place(&mut task, previous.as_mut(), new, self.epoch, now)
                else {
                    continue;
                };
                if let Some(lost) = previous.filter(|attempt| attempt.state.is_terminal()) {
                    self.topics.insert(Topic::Node(lost.node));
                    self.save_attempt(lost);
                }
                self.make_log(attempt.id);
                self.topics.insert(Topic::Node(attempt.node));
                self.save_attempt(attempt);
                self.save_task(task, events, now);
                placed += 1;
            }
        }
        placed
    }

    fn has_room(&self, placement: &Placement) -> bool {
        let mut ledger = Ledger::new(self.nodes[&placement.node].facts.capacity.clone());
        self.held_on(placement.node).for_each(|attempt| ledger.hold(&attempt.reservation));
        ledger.has_room_for(&placement.reservation)
    }

    /// Records a batch in the order in which the node sent it.
    pub(crate) fn record_reports(
        &mut self,
        session: SessionKey,
        batch: &[NodeReport],
        now: Timestamp,
        mut jitter: impl FnMut() -> f64,
    ) -> Result<Vec<ReportVerdict>, Violation> {
        let is_current = self.nodes.get(&session.node).is_some_and(|node| node.session_epoch == session.epoch);
        if !is_current && !self.planted.stale_sessions_count {
            return Ok(vec![ReportVerdict::StaleSession; batch.len()]);
        }
        let mut verdicts = Vec::with_capacity(batch.len());
        for item in batch {
            let known = self.attempts.get(&item.held.attempt).filter(|attempt| attempt.node == session.node).cloned();
            let verdict = match known {
                None => Verdict::Fenced,
                Some(mut attempt) => {
                    let record = &self.tasks[&attempt.task];
                    let (mut task, policy) = (record.row.clone(), record.spec.retry.clone());
                    let before = (task.clone(), attempt.clone());
                    if self.planted.fence_ignored && task.live != Some(attempt.id) && !task.state.is_terminal() {
                        task.live = Some(attempt.id);
                        attempt.state = AttemptState::Running;
                    }
                    let verdict =
                        lifecycle::report(&mut task, &mut attempt, item.held, &item.report, &policy, now, jitter());
                    if let Verdict::Recorded(events) = &verdict {
                        if events.iter().any(|event| {
                            matches!(event, lifecycle::Event::Released { .. } | lifecycle::Event::Requeued { .. })
                        }) {
                            self.topics.insert(Topic::Queue);
                        }
                        self.save_attempt(attempt);
                        self.save_task(task, events.clone(), now);
                    } else if (&task, &attempt) != (&before.0, &before.1) && !self.planted.fence_ignored {
                        return Err(Violation::new(
                            "I10 a report that does not count changes nothing",
                            format!("{item:?}: {verdict:?}"),
                        ));
                    }
                    verdict
                }
            };
            let verdict = match verdict {
                Verdict::Recorded(_) => ReportVerdict::Recorded,
                Verdict::Repeated => ReportVerdict::Repeated,
                Verdict::Fenced if self.is_orphan(item.held) => ReportVerdict::Orphan,
                Verdict::Fenced => ReportVerdict::Fenced,
                Verdict::Conflict => ReportVerdict::Conflict,
            };
            if matches!(verdict, ReportVerdict::Fenced | ReportVerdict::Conflict | ReportVerdict::Orphan)
                && item.report != Report::Released
            {
                self.rejected += 1;
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    pub(crate) fn outbox(&self, node: NodeId, sent: &BTreeSet<AttemptId>) -> Outbox {
        let row = &self.nodes[&node];
        let mut items = Vec::new();
        for attempt in self.held_on(node) {
            let record = &self.tasks[&attempt.task];
            let is_live = record.row.live == Some(attempt.id);
            let held = attempt.held();
            if attempt.accepted_at.is_none() && is_live && !record.row.cancel_requested && !sent.contains(&attempt.id) {
                items.push(OutboxItem::Assign {
                    held,
                    task: attempt.task,
                    number: attempt.number,
                    gpu_ids: attempt.reservation.gpu_ids.clone(),
                    spec: record.spec.clone(),
                });
            } else if is_live && record.row.cancel_requested {
                items.push(OutboxItem::Cancel { held });
            } else if !is_live && (attempt.ended_at.is_none() || attempt.state == AttemptState::Lost) {
                items.push(OutboxItem::Stop { held });
            }
        }
        Outbox {
            items,
            draining: matches!(row.admission, Admission::Draining | Admission::Drained),
            session_epoch: row.session_epoch,
        }
    }
}
