//! Placing attempts, hearing of them, and what their nodes must be told.

use super::{Change, FakeStore, NodeRow, SessionKey, Topic};
use crate::assertions::Violation;
use domain::{
    Timestamp,
    attempt::{AttemptState, Report},
    black_hole::{self, NodeFaults},
    ids::{AttemptId, Held, NodeId, ProjectId, TaskId},
    lease::Lease,
    lifecycle::{self, Around, NewAttempt, Verdict},
    node::{Admission, NodeView, Presence},
    outcome::Ending,
    placement::{Candidate, Head, Placement, Reading},
    resources::Ledger,
    spec::TaskSpec,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

const HEADS_PER_CLASS: usize = 64;
const OLD_OF_EACH: usize = 4;

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
    Assign {
        held: Held,
        task: TaskId,
        project: ProjectId,
        number: u32,
        gpu_ids: Vec<String>,
        ahead: bool,
        lease: Option<Lease>,
        spec: Rc<TaskSpec>,
    },
    Cancel {
        held: Held,
    },
    Stop {
        held: Held,
    },
    Evict {
        held: Held,
    },
}

#[derive(Clone, Default)]
pub(crate) struct Outbox {
    pub(crate) items: Vec<OutboxItem>,
    pub(crate) draining: bool,
    pub(crate) revoked: bool,
    pub(crate) session_epoch: i64,
}

impl FakeStore {
    /// The first waiting tasks of every class.
    pub(crate) fn queue_heads(&self, now: Timestamp) -> Vec<Head> {
        let awaits_nodes = self.awaits_nodes();
        let mut heads: Vec<Head> = self
            .queue
            .iter()
            .filter(|_| !awaits_nodes)
            .map(|id| &self.tasks[id])
            .filter(|record| record.row.not_before.is_none_or(|at| at <= now) && !record.row.cancel_requested)
            .filter(|record| !self.is_held_back(record.row.id))
            .map(|record| Head {
                task: record.row.id,
                project: record.row.project,
                class: record.class,
                needs: record.needs.clone(),
                priority: record.spec.priority,
                queued_at: record.queued_at,
                avoid_node: record.row.avoid_node,
                warm_keys: BTreeSet::new(),
            })
            .collect();
        heads.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.queued_at.cmp(&b.queued_at)).then(a.task.cmp(&b.task)));
        // And behind them the oldest of every urgency: whether those have waited for long, the scheduler knows.
        let (mut taken, mut of_urgency): (BTreeMap<i64, usize>, BTreeMap<(i64, i32), usize>) = Default::default();
        heads.retain(|head| {
            let taken = taken.entry(head.class).or_default();
            let of_urgency = of_urgency.entry((head.class, head.priority)).or_default();
            *taken += 1;
            *of_urgency += 1;
            *taken <= HEADS_PER_CLASS || *of_urgency <= OLD_OF_EACH
        });
        heads
    }

    /// Of each project, those on a node or on their way there.
    pub(crate) fn live_tasks(&self) -> BTreeMap<ProjectId, u64> {
        let mut live = BTreeMap::new();
        for record in self.tasks.values() {
            *live.entry(record.row.project).or_default() += u64::from(record.row.state.is_on_a_node());
        }
        live
    }

    pub(crate) fn candidates(&self, silence_ms: u64, now: Timestamp) -> Vec<Candidate> {
        self.read_nodes(silence_ms, None, now).iter().map(Reading::candidate).collect()
    }

    /// These nodes, or all, in the order of their ids.
    pub(crate) fn read_nodes(&self, silence_ms: u64, only: Option<&BTreeSet<NodeId>>, now: Timestamp) -> Vec<Reading> {
        self.nodes
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only.contains(id)))
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
                let waiting = self.held_on(*id).filter(|it| it.waits_there()).map(|it| it.id).collect();
                let held = self
                    .held_on(*id)
                    .filter(|attempt| !self.planted.live_only_holds || !attempt.state.is_terminal())
                    .map(|attempt| (attempt.id, attempt.reservation.clone()))
                    .collect();
                let is_open = node.admission == Admission::Open;
                let cordon = node.faults.as_ref().and_then(|faults| faults.cordon.as_ref()).filter(|_| is_open);
                let may_probe = is_open && self.may_probe(*id, now);
                let admission = if cordon.is_some() { Admission::Cordoned } else { node.admission };
                let node = NodeView {
                    id: *id,
                    name: node.name.clone(),
                    facts: node.facts.clone(),
                    metrics: node.metrics.clone(),
                    presence,
                    admission,
                    admission_note: String::new(),
                    drain_deadline: node.drain_deadline,
                    probe_at: cordon.map(|cordon| cordon.probe_at),
                    last_seen_at: node.beat_at,
                    connected_since: node.connected_since,
                    created_at: now,
                };
                Reading { node, may_probe, held, waiting }
            })
            .collect()
    }

    /// Commits what still holds. The leadership was required already, as the transaction's first statement.
    pub(crate) fn lease_tasks(&mut self, plan: &[Placement], now: Timestamp) -> BTreeMap<TaskId, AttemptId> {
        let wanted: BTreeMap<TaskId, &Placement> = plan.iter().map(|placement| (placement.task, placement)).collect();
        let mut leases = BTreeMap::new();
        // What there is room for comes before what is to wait for room.
        let (ahead, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, it)| it.reservation.ahead);
        for (id, placement) in others.into_iter().chain(ahead) {
            let node = &self.nodes[&placement.node];
            let is_open = node.admission == Admission::Open && node.connected && node.offline_since.is_none();
            // Cordoned by the rule: one task, if its probe is due.
            let is_cordoned = node.faults.as_ref().is_some_and(NodeFaults::is_cordoned);
            let is_open = is_open && (!is_cordoned || self.may_probe(placement.node, now));
            let Some(mut task) = self.load_task(id).filter(|_| is_open) else { continue };
            if self.is_held_back(id) {
                continue;
            }
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
                if let Some(faults) = self.nodes.get_mut(&placement.node).and_then(|node| node.faults.as_mut()) {
                    faults.probe_with(attempt.id, now);
                }
                leases.insert(attempt.task, attempt.id);
                self.topics.insert(Topic::Node(attempt.node));
                self.insert_attempt(attempt);
                self.save_task(task, events, now);
            }
        }
        leases
    }

    /// Whether the rule lets one task through to this node.
    fn may_probe(&self, node: NodeId, now: Timestamp) -> bool {
        self.nodes[&node].faults.as_ref().is_some_and(|faults| {
            let probe = faults.cordon.as_ref().and_then(|cordon| cordon.probe);
            let is_under_way = probe.is_some_and(|id| self.attempts.get(&id).is_some_and(|it| it.ended_at.is_none()));
            faults.may_probe(is_under_way, now)
        })
    }

    /// An exclusive task of which an earlier attempt may have a process.
    pub(crate) fn is_held_back(&self, task: TaskId) -> bool {
        let record = &self.tasks[&task];
        let wait_ms = record.spec.on_node_loss.replace_after_ms as i64;
        let may_live = |node: &NodeRow| {
            node.offline_since.is_none() || node.offline_at_ms.is_none_or(|at| at + wait_ms > self.seen_ms)
        };
        record.spec.on_node_loss.exclusive
            && !self.planted.nothing_held_back
            && (self.waits.contains_key(&task)
                || self.holding.iter().any(|(node, held)| {
                    may_live(&self.nodes[node]) && held.iter().any(|attempt| self.attempts[attempt].task == task)
                }))
    }

    fn has_room(&self, placement: &Placement) -> bool {
        let mut ledger = Ledger::new(self.nodes[&placement.node].facts.capacity.clone());
        self.held_on(placement.node).for_each(|attempt| ledger.hold(&attempt.reservation));
        let node = &self.nodes[&placement.node];
        let lets_wait = || node.facts.can_wait() && !node.faults.as_ref().is_some_and(NodeFaults::is_cordoned);
        match placement.reservation.ahead {
            false => ledger.has_room_for(&placement.reservation),
            true => lets_wait() && ledger.has_room_ahead_for(&placement.reservation),
        }
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
                    let faults = &self.nodes[&session.node].faults;
                    let around = Around {
                        policy: &policy,
                        now,
                        jitter_0_to_1: jitter(),
                        node: self.presence_of(session.node, now),
                        is_probe: faults.as_ref().is_some_and(|faults| faults.is_probe(attempt.id)),
                    };
                    let verdict = lifecycle::report(&mut task, &mut attempt, item.held, &item.report, &around);
                    if let (Verdict::Recorded(_), Report::Ended { ending }) = (&verdict, &item.report) {
                        self.note_end(session.node, (attempt.id, attempt.task), ending, now);
                    }
                    if let Verdict::Recorded(events) = &verdict {
                        let is_release = item.report == Report::Released;
                        if is_release || events.iter().any(|it| matches!(it, lifecycle::Event::Requeued { .. })) {
                            self.topics.insert(Topic::Queue);
                        }
                        if is_release {
                            self.topics.insert(Topic::Freed(attempt.id));
                        }
                        self.save_attempt(attempt);
                        if !is_release {
                            self.save_task(task, events.clone(), now);
                        }
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

    /// What the end of an attempt says about its node.
    fn note_end(&mut self, node: NodeId, who: (AttemptId, TaskId), ending: &Ending, now: Timestamp) {
        let rule = self.black_hole;
        let Some(row) = self.nodes.get_mut(&node) else { return };
        let is_cordoned = |faults: &Option<NodeFaults>| faults.as_ref().is_some_and(NodeFaults::is_cordoned);
        let before = is_cordoned(&row.faults);
        row.faults = black_hole::after_end(row.faults.take(), &rule, who, ending, now);
        let is_on = is_cordoned(&row.faults);
        if before != is_on {
            self.journal.push(Change::Cordon { node, is_on });
            if !is_on {
                self.topics.extend([Topic::Room(node), Topic::Queue]);
            }
        }
    }

    pub(crate) fn outbox(&self, node: NodeId, sent: &BTreeSet<AttemptId>, now: Timestamp) -> Outbox {
        let row = &self.nodes[&node];
        let revoked = row.admission == Admission::Revoked;
        let is_overdue =
            row.admission == Admission::Draining && row.drain_deadline.is_some_and(|deadline| deadline <= now);
        let mut items = Vec::new();
        for attempt in self.held_on(node) {
            let record = &self.tasks[&attempt.task];
            let is_live = record.row.live == Some(attempt.id);
            let held = attempt.held();
            let may_run =
                matches!(attempt.state, AttemptState::Assigned | AttemptState::Preparing | AttemptState::Running);
            if revoked {
                if attempt.ended_at.is_none() || attempt.state == AttemptState::Lost {
                    items.push(OutboxItem::Stop { held });
                }
            } else if is_overdue && is_live && may_run && !record.row.cancel_requested {
                items.push(OutboxItem::Evict { held });
            } else if attempt.accepted_at.is_none()
                && is_live
                && !record.row.cancel_requested
                && !sent.contains(&attempt.id)
            {
                items.push(OutboxItem::Assign {
                    held,
                    task: attempt.task,
                    project: record.row.project,
                    number: attempt.number,
                    gpu_ids: attempt.reservation.gpu_ids.clone(),
                    ahead: attempt.reservation.ahead,
                    lease: Lease::of(&record.spec, self.leased_ms(attempt.id)),
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
            revoked,
            session_epoch: row.session_epoch,
        }
    }
}
