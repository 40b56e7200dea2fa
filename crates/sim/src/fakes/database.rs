//! The way to the database and back: a call takes time to get there, is one step there, and its answer takes time too. The
//! answer may be lost, the call may never have arrived, or its transaction may end long after its caller gave up.

use crate::{
    Ms, Sometimes, Violation,
    fakes::{
        gateway::Tag,
        store::{
            Cancelled, Leadership, Liveness, LogAck, NewTask, NodeReport, OpenSession, Opened, Outbox, Piece,
            ReportVerdict, Retried, Role, SessionKey, StoreError, Submitted, Topic,
        },
    },
    faults::Fault,
    world::{Event, GatewayEvent, SchedulerEvent, SweeperEvent, World},
};
use domain::{
    Timestamp,
    ids::{AttemptId, NodeId, ProjectId, TaskId},
    node::{Admission, NodeMetrics},
    placement::{Head, Placement, Reading},
    sweep::Findings,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone)]
pub(crate) enum Call {
    Submit(Box<NewTask>),
    Cancel(TaskId),
    Retry(TaskId),
    Lead {
        role: Role,
        holder: u64,
        known: Option<Leadership>,
    },
    /// These nodes, or all.
    ReadNodes(Option<BTreeSet<NodeId>>),
    Heads,
    Commit {
        leadership: Leadership,
        plan: Vec<Placement>,
    },
    Liveness,
    Sweep {
        leadership: Leadership,
        as_of: Timestamp,
        findings: Box<Findings>,
    },
    RenewPresence,
    SetOfflineAfter(Ms),
    SetAdmission {
        node: NodeId,
        admission: Admission,
        drains_within_ms: Option<Ms>,
    },
    /// With `evict`, what is exclusive there may refuse it; then the person who wants the node gone does without.
    Revoke {
        node: NodeId,
        evict: bool,
    },
    OpenSession(Box<OpenSession>),
    CloseSession(SessionKey),
    Heartbeat(Vec<(SessionKey, NodeMetrics)>),
    RecordReports {
        key: SessionKey,
        batch: Vec<NodeReport>,
    },
    AppendLogs {
        key: SessionKey,
        pieces: Vec<Piece>,
    },
    Outbox {
        node: NodeId,
        sent: BTreeSet<AttemptId>,
    },
}

pub(crate) enum Answer {
    Submitted(Submitted),
    Retried(Retried),
    Led(Option<Leadership>),
    Nodes(Vec<Reading>),
    /// With the live tasks of each project, and the time.
    Heads(Vec<Head>, BTreeMap<ProjectId, u64>, Timestamp),
    Leased(BTreeMap<TaskId, AttemptId>),
    Opened(Opened),
    Counted(Vec<SessionKey>),
    Recorded(Vec<ReportVerdict>),
    Logged(Vec<LogAck>),
    Liveness(Timestamp, Liveness),
    Outbox(Outbox),
    OfflineAfterSet,
    Done,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplyTo {
    Gateway { gateway: usize, run: u64, tag: Tag },
    Scheduler { scheduler: usize, run: u64 },
    Sweeper { sweeper: usize, run: u64 },
    Client { op: usize },
    Nobody,
}

pub(crate) struct Request {
    reply_to: ReplyTo,
    call: Call,
    /// Of which database it was asked.
    run: u64,
    /// Its caller has gone; its leader row is locked since it was required.
    is_in_doubt: bool,
}

impl Call {
    /// The leader row that its transaction locks.
    fn role(&self) -> Option<Role> {
        match self {
            Self::Lead { role, .. } => Some(*role),
            Self::Commit { leadership, .. } | Self::Sweep { leadership, .. } => Some(leadership.role),
            _ => None,
        }
    }
}

impl World {
    /// On the way there, or back.
    fn database_latency(&mut self) -> Ms {
        let (low, high) = self.plan.knobs.database_ms;
        self.dice.log_uniform(low, high)
    }

    /// A query that waits: for a connection, for a lock, for the disk.
    fn slowness(&mut self, call: &Call) -> Ms {
        let (probability, most_ms) = match call {
            Call::OpenSession(_) => (0.2, 15_000),
            _ => (0.03, 8_000),
        };
        if self.has(Fault::SlowQueries) && self.dice.chance(probability) {
            self.dice.log_uniform(200, most_ms)
        } else {
            0
        }
    }

    pub(crate) fn call(&mut self, reply_to: ReplyTo, call: Call) {
        let latency = self.database_latency() + self.slowness(&call);
        self.after(
            latency,
            Event::Database(Box::new(Request { reply_to, call, run: self.database_run, is_in_doubt: false })),
        );
    }

    pub(crate) fn database(&mut self, request: Request) {
        let Request { reply_to, call, run, is_in_doubt } = request;
        if run != self.database_run {
            let latency = self.database_latency();
            return self.answer(reply_to, latency, Err(StoreError::Unavailable));
        }
        if let Some((locked, until)) = self.leader_locked
            && call.role() == Some(locked)
            && !is_in_doubt
            && until > self.now
        {
            // Waits for the row's lock; behind the transaction that holds it.
            return self.at(until, Event::Database(Box::new(Request { reply_to, call, run, is_in_doubt })));
        }
        if is_in_doubt {
            self.leader_locked = None;
            let _ = self.apply(call);
            return self.publish();
        }
        if self.now < self.database_away_until {
            let latency = self.database_latency();
            return self.answer(reply_to, latency, Err(StoreError::Unavailable));
        }
        if let (Call::Commit { leadership, .. }, true) =
            (&call, self.has(Fault::CommitInDoubt) && self.dice.chance(0.25))
        {
            let now = self.timestamp();
            if self.store.require(leadership, now).is_ok() {
                self.hit(Sometimes::CommitInDoubt);
                let until = self.now + self.dice.log_uniform(50, 2_000);
                self.leader_locked = Some((leadership.role, until));
                self.at(until, Event::Database(Box::new(Request { reply_to, call, run, is_in_doubt: true })));
                let latency = self.database_latency();
                return self.answer(reply_to, latency, Err(StoreError::Unavailable));
            }
        }
        if self.has(Fault::CommitFails) && self.dice.chance(0.02) {
            self.hit(Sometimes::CommitNotApplied);
            let latency = self.database_latency();
            return self.answer(reply_to, latency, Err(StoreError::Unavailable));
        }
        let mut answer = self.apply(call);
        self.publish();
        if self.has(Fault::CommitUnknown) && self.dice.chance(0.03) && answer.is_ok() {
            self.hit(Sometimes::CommitAppliedAnswerLost);
            answer = Err(StoreError::Unavailable);
        }
        // What was read is old when it arrives late.
        let is_late = matches!(answer, Ok(Answer::Outbox(_))) && self.has(Fault::SlowQueries) && self.dice.chance(0.3);
        let late_ms = if is_late { self.dice.log_uniform(200, 8_000) } else { 0 };
        let latency = self.database_latency() + late_ms;
        self.answer(reply_to, latency, answer);
    }

    fn apply(&mut self, call: Call) -> Result<Answer, StoreError> {
        let now = self.timestamp();
        let (silence_ms, offline_s) = (self.plan.knobs.silence_ms, self.plan.knobs.offline_s);
        let store = &mut self.store;
        Ok(match call {
            Call::Submit(new) => {
                let submitted = store.submit_task(&new, now);
                if let Submitted::Accepted(id) = submitted {
                    self.checker.task_accepted(id, new.spec.timeout_ms);
                }
                Answer::Submitted(submitted)
            }
            Call::Cancel(task) => {
                self.note_cancel(task);
                let cancelled = self.store.cancel_task(task, now);
                if matches!(cancelled, Cancelled::Done | Cancelled::Requested) {
                    self.checker.cancel_committed(task);
                }
                Answer::Done
            }
            Call::Retry(task) => Answer::Retried(store.retry_task(task, now)),
            Call::Lead { role, holder, known } => Answer::Led(store.lead(role, holder, known, now)),
            Call::ReadNodes(only) => Answer::Nodes(store.read_nodes(silence_ms, only.as_ref(), now)),
            Call::Heads => {
                if store.queue.iter().any(|task| store.is_held_back(*task)) {
                    self.checker.hits.add(Sometimes::ExclusiveHeldBack);
                }
                Answer::Heads(store.queue_heads(now), store.live_tasks(), now)
            }
            Call::Commit { leadership, plan } => {
                store.require(&leadership, now)?;
                let newest = store.leader_epoch(leadership.role);
                let leases = store.lease_tasks(&plan, now);
                if leases.len() < plan.len() {
                    self.checker.hits.add(Sometimes::PlanOutOfDate);
                }
                if !leases.is_empty() && newest != Some(leadership.epoch) {
                    let detail = format!("{leadership:?}, newest {newest:?}");
                    self.violate(Violation::new("I20 a former leader places nothing", detail));
                }
                Answer::Leased(leases)
            }
            Call::Liveness => Answer::Liveness(now, store.liveness()),
            Call::SetOfflineAfter(ms) => {
                if store.set_offline_after(ms) != ms {
                    self.checker.offline_after_set(ms);
                    self.checker.hits.add(Sometimes::OfflineAfterSet);
                }
                Answer::OfflineAfterSet
            }
            Call::RenewPresence => {
                store.renew_presence(now);
                Answer::Done
            }
            Call::Sweep { leadership, as_of, findings } => {
                store.record_sweep(&leadership, as_of, &findings, now)?;
                if std::mem::take(&mut store.waits_over) > 0 {
                    self.checker.hits.add(Sometimes::ExclusiveWaitOver);
                }
                store.queue_replaceable(&leadership, now)?;
                store.expire_queued(now);
                store.finish_drains();
                Answer::Done
            }
            Call::SetAdmission { node, admission, drains_within_ms } => {
                let deadline = drains_within_ms.map(|ms| now + chrono::TimeDelta::milliseconds(ms as i64));
                store.set_admission(node, admission, deadline);
                Answer::Done
            }
            Call::Revoke { node, evict } => {
                if !store.revoke(node, evict, now) {
                    store.revoke(node, false, now);
                }
                Answer::Done
            }
            Call::OpenSession(hello) => Answer::Opened(store.open_session(&hello, offline_s, now)),
            Call::CloseSession(key) => {
                store.close_session(key);
                Answer::Done
            }
            Call::Heartbeat(beats) => Answer::Counted(store.heartbeat(&beats, now)),
            Call::RecordReports { key, batch } => {
                let dice = &mut self.dice;
                match store.record_reports(key, &batch, now, || dice.unit()) {
                    Ok(verdicts) => {
                        let newest = self.store.nodes[&key.node].session_epoch;
                        let judged = self.checker.reports_judged(key, newest, &batch, &verdicts);
                        judged.into_iter().for_each(|violation| self.violate(violation));
                        Answer::Recorded(verdicts)
                    }
                    Err(violation) => {
                        self.violate(violation);
                        return Err(StoreError::Unavailable);
                    }
                }
            }
            Call::AppendLogs { key, pieces } => {
                let (acks, overlapping) = store.append_logs(key, &pieces);
                if overlapping > 0 {
                    self.hit(Sometimes::LogOverlapCut);
                }
                let touched: BTreeSet<AttemptId> = acks.iter().map(|ack| ack.attempt).collect();
                for attempt in touched {
                    let found = self.checker.log_is_right(&self.store, attempt);
                    found.into_iter().for_each(|violation| self.violate(violation));
                }
                Answer::Logged(acks)
            }
            Call::Outbox { node, sent } => Answer::Outbox(store.outbox(node, &sent, now)),
        })
    }

    fn note_cancel(&mut self, task: TaskId) {
        let Some(record) = self.store.tasks.get(&task) else { return };
        use domain::task::TaskState as In;
        let hit = match record.row.state {
            In::Pending => Sometimes::CancelPending,
            In::Assigned => Sometimes::CancelAssigned,
            In::Preparing => Sometimes::CancelPreparing,
            In::Running => Sometimes::CancelRunning,
            In::Finishing => Sometimes::CancelFinishing,
            In::Succeeded | In::Failed | In::Cancelled => return,
        };
        self.hit(hit);
    }

    /// Hints to whoever should look. They may be lost: everybody also looks by themselves.
    fn publish(&mut self) {
        for topic in std::mem::take(&mut self.store.topics) {
            if self.has(Fault::HintsLost) && self.dice.chance(0.7) {
                continue;
            }
            match topic {
                Topic::Queue | Topic::Room(_) | Topic::Freed(_) => {
                    for s in 0..self.schedulers.len() {
                        let run = self.schedulers[s].process.run;
                        self.after(2, Event::Scheduler { scheduler: s, run, event: SchedulerEvent::Hint(topic) });
                    }
                }
                Topic::Node(node) => {
                    for g in 0..self.gateways.len() {
                        let of_node = |session: &crate::fakes::gateway::GatewaySession| session.node == node;
                        let lines: Vec<_> = self.gateways[g]
                            .sessions
                            .iter()
                            .filter(|(_, s)| of_node(s))
                            .map(|(line, _)| *line)
                            .collect();
                        lines.into_iter().for_each(|line| self.gateway_after(g, 2, GatewayEvent::Tell(line)));
                    }
                }
            }
        }
    }

    fn answer(&mut self, reply_to: ReplyTo, latency: Ms, answer: Result<Answer, StoreError>) {
        if matches!(answer, Err(StoreError::NotLeader)) {
            self.hit(Sometimes::StaleLeaderRefused);
        }
        let event = match reply_to {
            ReplyTo::Gateway { gateway, run, tag } => {
                Event::Gateway { gateway, run, event: GatewayEvent::Answered(tag, answer) }
            }
            ReplyTo::Scheduler { scheduler, run } => {
                Event::Scheduler { scheduler, run, event: SchedulerEvent::Answered(answer) }
            }
            ReplyTo::Sweeper { sweeper, run } => Event::Sweeper { sweeper, run, event: SweeperEvent::Answered(answer) },
            ReplyTo::Client { op } => Event::ClientAnswered { op, answer },
            ReplyTo::Nobody => return,
        };
        self.after(latency, event);
    }
}
