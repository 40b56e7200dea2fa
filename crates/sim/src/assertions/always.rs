//! Promises that hold after every event. The checker keeps books of its own: what it believes comes from what was said
//! and written, not from asking the store whether it is right.

use super::{Hits, Sometimes, Violation};
use crate::{
    Ms,
    fakes::store::{Change, FakeStore, NodeReport, ReportVerdict, Returned, SessionKey},
    faults::Knobs,
};
use domain::{
    attempt::{AttemptRow, AttemptState, Report},
    ids::{AttemptId, ClusterEpoch, Fence, NodeId, TaskId},
    lifecycle::Event,
    node::Admission,
    outcome::{Ending, FailureClass, FailureKind},
    resources::{Capacity, Ledger},
    retry::MAX_NODE_LOSSES,
    sweep::ABSENT_AFTER_MS,
    task::{TaskRow, TaskState},
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Checker {
    pub(crate) hits: Hits,
    offline_ms: Ms,
    /// Time in which the platform was there, up to its last sign of life; and when that was.
    present_ms: Ms,
    present_at: Ms,
    /// How much of it there was when a node was last heard.
    heard: BTreeMap<NodeId, Ms>,
    /// The slowest answer of Docker.
    docker_ms: Ms,
    timeouts: BTreeMap<TaskId, u64>,
    fences: BTreeMap<TaskId, Fence>,
    pub(crate) books: Books,
    /// The database's, which a restore raises.
    epoch: ClusterEpoch,
    epochs: BTreeMap<NodeId, i64>,
    disks_lost: BTreeSet<NodeId>,
    /// Whose token was revoked in the database as it is now.
    revoked: BTreeSet<NodeId>,
    /// Whole-node losses and planned stops so far: each may cost a task one attempt.
    incidents: u32,
    processes: BTreeMap<AttemptId, ProcessBook>,
    /// Log bytes that were compared already.
    compared: BTreeMap<(AttemptId, u8), usize>,
    /// (node, from, until) in which an agent could not act.
    away: BTreeMap<usize, Vec<(Ms, Ms)>>,
}

/// What a restore from a backup takes back.
#[derive(Clone, Default)]
pub(crate) struct Books {
    accepted: BTreeSet<TaskId>,
    cancelled: BTreeSet<TaskId>,
    live: BTreeMap<TaskId, BTreeSet<AttemptId>>,
    ends: BTreeMap<AttemptId, Ending>,
    /// Tasks with an attempt whose exit facts are committed, which nothing has excused since.
    exited: BTreeSet<TaskId>,
    /// Tasks with an attempt that was lost with outputs which were not stored.
    owing: BTreeSet<TaskId>,
    /// Ends that were the user's own failures, and nodes that went down, since the submission or the last retry by a person.
    own_failures: BTreeMap<TaskId, u32>,
    went_down: BTreeMap<TaskId, BTreeSet<NodeId>>,
}

macro_rules! promise {
    ($holds:expr, $promise:literal, $($detail:tt)+) => {
        if !$holds {
            return Some(Violation::new($promise, format!($($detail)+)));
        }
    };
}

mod processes;

use processes::ProcessBook;

impl Checker {
    pub(crate) fn new(knobs: &Knobs) -> Self {
        Self {
            hits: Hits::default(),
            offline_ms: knobs.offline_s as u64 * 1_000,
            present_ms: 0,
            present_at: 0,
            heard: BTreeMap::new(),
            docker_ms: knobs.docker_ms.1,
            timeouts: BTreeMap::new(),
            fences: BTreeMap::new(),
            books: Books::default(),
            epoch: ClusterEpoch(1),
            epochs: BTreeMap::new(),
            disks_lost: BTreeSet::new(),
            revoked: BTreeSet::new(),
            incidents: 0,
            processes: BTreeMap::new(),
            compared: BTreeMap::new(),
            away: BTreeMap::new(),
        }
    }

    pub(crate) fn task_accepted(&mut self, task: TaskId, timeout_ms: Option<u64>) {
        self.books.accepted.insert(task);
        self.timeouts.extend(timeout_ms.map(|timeout| (task, timeout)));
    }

    pub(crate) fn cancel_committed(&mut self, task: TaskId) {
        self.books.cancelled.insert(task);
    }

    /// What was promised since the backup is forgotten; what happened on the machines is not.
    pub(crate) fn restored(&mut self, books: Books, store: &FakeStore) {
        let epoch = store.epoch;
        self.books = books;
        self.revoked = store.revoked().collect();
        self.epoch = epoch;
        self.compared.clear();
        self.incidents += 1;
    }

    /// Nobody is offline sooner than by the least that was ever set.
    pub(crate) fn offline_after_set(&mut self, ms: Ms) {
        self.offline_ms = self.offline_ms.min(ms);
    }

    pub(crate) fn incident(&mut self) {
        self.incidents += 1;
    }

    pub(crate) fn disk_lost(&mut self, node: NodeId) {
        self.disks_lost.insert(node);
    }

    /// The agent, or its Docker, can do nothing from `now` on.
    pub(crate) fn agent_away(&mut self, node: usize, now: Ms, for_ms: Ms) {
        self.away.entry(node).or_default().push((now, now + for_ms));
    }

    pub(crate) fn same_task_for_key(&self, first: TaskId, now: TaskId) -> Option<Violation> {
        promise!(first == now, "I02 one key, one task", "{first:?} and {now:?}");
        None
    }

    // What nodes say ---------------------------------------------------------------------------------------------------

    pub(crate) fn reports_judged(
        &mut self,
        key: SessionKey,
        newest: i64,
        batch: &[NodeReport],
        verdicts: &[ReportVerdict],
    ) -> Option<Violation> {
        for (item, verdict) in batch.iter().zip(verdicts) {
            let is_stale = key.epoch != newest;
            promise!(
                !is_stale || *verdict == ReportVerdict::StaleSession,
                "I25 a stale session changes nothing",
                "{key:?}, newest {newest}: {item:?}"
            );
            if self.revoked.contains(&key.node) {
                self.hits.add(Sometimes::RevokedReportDropped);
                promise!(
                    *verdict == ReportVerdict::StaleSession,
                    "I41 what a revoked node says changes nothing",
                    "{item:?}: {verdict:?}"
                );
            }
            let Report::Ended { ending } = &item.report else { continue };
            if *verdict != ReportVerdict::Recorded {
                continue;
            }
            let first = self.books.ends.insert(item.held.attempt, ending.clone());
            promise!(first.is_none(), "I09 one end is accepted", "{item:?} after {first:?}");
        }
        None
    }

    /// What an agent was told to be committed is committed.
    pub(crate) fn acknowledged(&self, store: &FakeStore, id: AttemptId, kind: &str) -> Option<Violation> {
        let attempt = store.attempts.get(&id)?;
        let is_committed = match kind {
            "released" => !attempt.reserved,
            "ended" => attempt.state.is_terminal(),
            "exited" => attempt.exit.is_some() || attempt.state.is_terminal(),
            _ => attempt.accepted_at.is_some() || attempt.state.is_terminal(),
        };
        promise!(is_committed, "I28 acknowledged only after the commit", "{id:?} {kind}: {attempt:?}");
        None
    }

    // What is written --------------------------------------------------------------------------------------------------

    pub(crate) fn check(&mut self, changes: &[Change], store: &FakeStore, now: Ms) -> Option<Violation> {
        for change in changes {
            let broken = match change {
                Change::Task { before, after, events } => {
                    let is_exclusive = store.tasks[&after.id].spec.on_node_loss.exclusive;
                    let live_before = before.as_deref().and_then(|before| before.live);
                    if is_exclusive && live_before.is_some() && after.live.is_some() && live_before != after.live {
                        self.hits.add(Sometimes::ExclusiveReplaced);
                    }
                    self.task_changed(before.as_deref(), after, events, store)
                }
                Change::Attempt { before, after } => self.attempt_changed(before.as_deref(), after, store),
                Change::Offline { node } => self.node_offline(*node, now),
                Change::Heard { node, returned } => self.node_heard(*node, returned.as_ref(), store, now),
                Change::Revoked { node, evicted } => self.node_revoked(*node, *evicted, store),
                Change::Present => {
                    self.platform_present(now);
                    None
                }
                Change::SessionOpened { key, inventory } => self.session_opened(*key, inventory, store),
                Change::Cordon { is_on, .. } => {
                    self.hits.add(if *is_on { Sometimes::BlackHoleCordoned } else { Sometimes::ProbeLiftedCordon });
                    None
                }
            };
            if broken.is_some() {
                return broken;
            }
        }
        promise!(
            store.tasks.len() == self.books.accepted.len()
                && self.books.accepted.iter().all(|task| store.tasks.contains_key(task)),
            "I03 no accepted task vanishes",
            "{} accepted, {} there",
            self.books.accepted.len(),
            store.tasks.len()
        );
        self.rows_agree(changes, store)
    }

    /// With the time since its last sign of life, for as long as that is no gap.
    fn presence_at(&self, now: Ms) -> Ms {
        self.present_ms + (now - self.present_at).min(ABSENT_AFTER_MS)
    }

    fn platform_present(&mut self, now: Ms) {
        if now - self.present_at <= ABSENT_AFTER_MS {
            self.present_ms += now - self.present_at;
        }
        // A gap counts for nothing, though it had seemed short.
        self.heard.values_mut().for_each(|at| *at = (*at).min(self.present_ms));
        self.present_at = now;
    }

    fn node_offline(&mut self, node: NodeId, now: Ms) -> Option<Violation> {
        self.hits.add(Sometimes::NodeOffline);
        self.incidents += 1;
        let silent_ms = self.presence_at(now) - self.heard.get(&node).copied().unwrap_or_default();
        promise!(
            silent_ms >= self.offline_ms,
            "I23 no node is offline before its time",
            "{node:?} after {silent_ms} ms of the platform's presence"
        );
        None
    }

    fn node_revoked(&mut self, node: NodeId, evicted: bool, store: &FakeStore) -> Option<Violation> {
        self.revoked.insert(node);
        // Each of its tasks may lose an attempt.
        self.incidents += 1;
        if store.held_on(node).next().is_some() {
            self.hits.add(Sometimes::RevokedWithWork);
        }
        if evicted && store.held_on(node).any(|held| held.state == AttemptState::Lost) {
            self.hits.add(Sometimes::RevokedWithEvict);
        }
        for held in store.held_on(node) {
            let task = &store.tasks[&held.task].row;
            promise!(
                !evicted || task.live != Some(held.id),
                "I41 an evicted node has no live work",
                "{held:?} of {task:?}"
            );
        }
        None
    }

    fn node_heard(
        &mut self,
        node: NodeId,
        returned: Option<&Returned>,
        store: &FakeStore,
        now: Ms,
    ) -> Option<Violation> {
        promise!(!self.revoked.contains(&node), "I41 a revoked node is heard no more", "{node:?}");
        self.heard.insert(node, self.presence_at(now));
        let returned = returned?;
        self.hits.add(Sometimes::HeartbeatEndedOffline);
        if returned.kept > 0 {
            self.hits.add(Sometimes::HeartbeatKeptWork);
        }
        self.returned_work_is_kept(&returned.has, store)
    }

    fn returned_work_is_kept(&self, has: &BTreeSet<AttemptId>, store: &FakeStore) -> Option<Violation> {
        for attempt in has.iter().filter_map(|id| store.attempts.get(id)) {
            let task = &store.tasks[&attempt.task].row;
            promise!(
                task.live != Some(attempt.id) || !task.queued || task.cancel_requested,
                "I11 a node that comes back with its work keeps it",
                "{:?} is there, and {:?} still waits for a replacement",
                attempt.id,
                task.id
            );
        }
        None
    }

    fn session_opened(
        &mut self,
        key: SessionKey,
        inventory: &BTreeSet<AttemptId>,
        store: &FakeStore,
    ) -> Option<Violation> {
        let last = self.epochs.insert(key.node, key.epoch);
        promise!(last.is_none_or(|last| last < key.epoch), "I25 session epochs grow", "{key:?} after {last:?}");
        self.returned_work_is_kept(inventory, store)
    }

    fn task_changed(
        &mut self,
        before: Option<&TaskRow>,
        after: &TaskRow,
        events: &[Event],
        store: &FakeStore,
    ) -> Option<Violation> {
        let before = before?;
        promise!(after.fence >= before.fence, "I08 fences grow", "{before:?} -> {after:?}");
        if after.state.is_terminal() {
            promise!(
                !after.queued && after.live.is_none() && after.ended_at.is_some(),
                "I03 an ended task neither waits nor holds",
                "{after:?}"
            );
        } else {
            promise!(
                after.queued || after.live.is_some(),
                "I05 a task that has not ended waits or is held",
                "{after:?}"
            );
        }
        if events.contains(&Event::RetryAsked) {
            self.books.cancelled.remove(&after.id);
            self.books.exited.remove(&after.id);
            self.books.own_failures.remove(&after.id);
            self.books.owing.remove(&after.id);
            self.books.went_down.remove(&after.id);
        }
        if let Some(broken) = self.within_budgets(before, after, events, store) {
            return Some(broken);
        }
        promise!(
            after.state != TaskState::Succeeded || !self.books.cancelled.contains(&after.id),
            "I16 no success after an answered cancel",
            "{after:?}"
        );
        promise!(
            after.node_losses <= self.incidents,
            "I13 one incident costs a task at most one attempt",
            "{} losses, {} incidents so far: {after:?}",
            after.node_losses,
            self.incidents
        );
        self.note_what_happened(before, after, events);
        None
    }

    /// Each failure is charged to whom it belongs, and nobody is charged too much.
    fn within_budgets(
        &mut self,
        before: &TaskRow,
        after: &TaskRow,
        events: &[Event],
        store: &FakeStore,
    ) -> Option<Violation> {
        let policy = &store.tasks[&after.id].spec.retry;
        let bound = |most: u32| most + u32::from(after.state.is_terminal());
        promise!(
            after.user_failures <= bound(policy.max_retries)
                && after.infra_failures <= bound(policy.max_infra_retries)
                && after.node_losses <= bound(MAX_NODE_LOSSES),
            "I13 no budget is overdrawn",
            "{policy:?}: {after:?}"
        );
        let own = self.books.own_failures.get(&after.id).copied().unwrap_or(0);
        promise!(
            after.user_failures <= own,
            "I13 only the user's own failures are charged to the user",
            "{own} so far: {after:?}"
        );
        if after.user_failures > before.user_failures {
            // Its user wants another run.
            self.books.exited.remove(&after.id);
        }
        for event in events {
            if let Event::NodeWentDown { node, .. } = event {
                promise!(
                    !self.revoked.contains(node),
                    "I14 a node that a person took away did not go down",
                    "{after:?}: {events:?}"
                );
                self.books.went_down.entry(after.id).or_default().insert(*node);
            }
        }
        promise!(
            after.failure != Some(FailureKind::Poison)
                || self.books.went_down.get(&after.id).is_some_and(|it| it.len() >= 2),
            "I14 poison is what took two machines down",
            "{after:?}"
        );
        None
    }

    fn note_what_happened(&mut self, before: &TaskRow, after: &TaskRow, events: &[Event]) {
        let mut hit = |when: bool, what| {
            if when {
                self.hits.add(what);
            }
        };
        let is_queued = after.queued && after.state == TaskState::Pending;
        hit(
            before.queued && before.live.is_some() && after.live == before.live && !after.queued,
            Sometimes::ReconnectWon,
        );
        hit(before.live.is_some() && after.live.is_some() && after.live != before.live, Sometimes::ReplacementWon);
        let is_requeued =
            |event: &Event| matches!(event, Event::Requeued { because, .. } if because == "its node was revoked");
        hit(events.iter().any(is_requeued), Sometimes::RevokedWorkQueued);
        hit(is_queued && after.infra_failures > before.infra_failures, Sometimes::InfraRetry);
        hit(is_queued && after.user_failures > before.user_failures, Sometimes::UserFailureRetried);
        hit(
            after.state == TaskState::Failed && after.message.contains("infrastructure failures in a row"),
            Sometimes::InfraRetriesExhausted,
        );
        hit(
            after.state == TaskState::Failed && after.message.contains("not retried: max_retries is"),
            Sometimes::UserRetriesExhausted,
        );
        hit(after.failure == Some(FailureKind::Poison) && before.failure.is_none(), Sometimes::PoisonQuarantined);
        hit(
            after.state == TaskState::Failed && after.failure == Some(FailureKind::QueueTimeout),
            Sometimes::QueueTimeout,
        );
        for event in events {
            let Event::Ended { message, failure, .. } = event else { continue };
            hit(message == "cancelled while its node was offline", Sometimes::CancelledOffline);
            hit(*failure == Some(FailureKind::Timeout), Sometimes::TimedOut);
        }
    }

    fn attempt_changed(
        &mut self,
        before: Option<&AttemptRow>,
        after: &AttemptRow,
        store: &FakeStore,
    ) -> Option<Violation> {
        let live = self.books.live.entry(after.task).or_default();
        if after.state.is_terminal() {
            live.remove(&after.id);
        } else {
            live.insert(after.id);
        }
        let Some(before) = before else { return self.attempt_placed(after, store) };
        if after.state == AttemptState::Finishing && !after.lacks_outputs() {
            self.books.exited.insert(after.task);
        }
        if before.state == AttemptState::Finishing && after.state == AttemptState::Lost && after.lacks_outputs() {
            self.books.owing.insert(after.task);
        }
        if after.reservation.ahead && before.started_at.is_none() && after.started_at.is_some() {
            self.hits.add(Sometimes::StartedAhead);
        }
        if before.state.is_terminal() {
            let unchanged = AttemptRow { reserved: after.reserved, ..before.clone() };
            promise!(unchanged == *after, "I08 an ended attempt never changes", "{before:?} -> {after:?}");
        }
        promise!(before.reserved || !after.reserved, "I19 what was released is not held again", "{after:?}");
        if !before.state.is_terminal() && after.state.is_terminal() {
            return self.attempt_ended(after);
        }
        None
    }

    fn attempt_placed(&mut self, attempt: &AttemptRow, store: &FakeStore) -> Option<Violation> {
        if self.books.owing.remove(&attempt.task) {
            self.hits.add(Sometimes::LostOutputsRanAgain);
        }
        if attempt.fence.epoch() != self.epoch {
            // Taken up again after a restore: it was placed before, and if that was after an exit, for a reason that went with the rest.
            self.books.exited.remove(&attempt.task);
            return None;
        }
        let last = self.fences.insert(attempt.task, attempt.fence);
        promise!(last.is_none_or(|last| last < attempt.fence), "I08 fences grow", "{attempt:?} after {last:?}");
        let node = &store.nodes[&attempt.node];
        promise!(
            node.admission == Admission::Open && node.connected && node.offline_since.is_none(),
            "I20 nothing is placed on a node that takes nothing",
            "{attempt:?}"
        );
        promise!(
            node.faults.as_ref().is_none_or(|faults| !faults.is_cordoned() || faults.is_probe(attempt.id)),
            "I15 nothing but its probe is placed on a node that fails everything",
            "{attempt:?}"
        );
        promise!(
            !self.books.exited.contains(&attempt.task),
            "I05 a task whose exit is committed is not run again",
            "{attempt:?}"
        );
        let capacity = &node.facts.capacity;
        let mut ledger = Ledger::new(capacity.clone());
        let twice = Capacity {
            cpu_millis: 2 * capacity.cpu_millis,
            memory_bytes: 2 * capacity.memory_bytes,
            disk_bytes: 2 * capacity.disk_bytes,
            gpus: capacity.gpus.clone(),
        };
        let mut with_what_waits = Ledger::new(twice);
        for held in store.held_on(attempt.node) {
            with_what_waits.hold(&held.reservation);
            if !held.reservation.ahead {
                ledger.hold(&held.reservation);
            }
        }
        promise!(
            !with_what_waits.is_overcommitted(),
            "I19 no more waits on a node than it can have",
            "{:?} holds {:?}",
            attempt.node,
            with_what_waits.held()
        );
        promise!(
            !attempt.reservation.ahead || node.facts.can_wait(),
            "I32 nothing is sent ahead to an agent that knows nothing of it",
            "{attempt:?}"
        );
        promise!(
            !ledger.is_overcommitted(),
            "I19 no node is promised twice",
            "{:?} holds {:?} of {:?}",
            attempt.node,
            ledger.held(),
            ledger.capacity()
        );
        None
    }

    fn attempt_ended(&mut self, attempt: &AttemptRow) -> Option<Violation> {
        let ending = attempt.ending.as_ref()?;
        if attempt.state == AttemptState::Lost && ending.message == "the node came back without it" {
            self.hits.add(Sometimes::CameBackWithoutIt);
            let is_forgotten = attempt.fence.epoch() != self.epoch;
            promise!(
                is_forgotten || self.disks_lost.contains(&attempt.node),
                "I17 an agent's restart loses no work",
                "{attempt:?}"
            );
        }
        if ending.message.starts_with("stopped by its own node") {
            // Its server was not heard of: as if the node had been lost.
            self.incidents += 1;
        }
        if ending.planned_stop && attempt.state == AttemptState::Failed {
            let message = ending.message.as_str();
            self.hits.add(match message {
                _ if message.starts_with("moved off its node") => Sometimes::DrainMovedWork,
                _ if message.starts_with("given back") => Sometimes::GivenBack,
                _ => Sometimes::PlannedStopRequeued,
            });
        }
        promise!(
            attempt.state != AttemptState::Succeeded || !attempt.lacks_outputs(),
            "I38 what has succeeded has left its outputs",
            "{attempt:?}"
        );
        if ending.message.ends_with("the rest of its log is missing") {
            self.hits.add(Sometimes::FinishingEndedByItsFacts);
            if attempt.outputs_stored > 0 {
                self.hits.add(Sometimes::StoredOutputsEndedIt);
            }
        }
        if !ending.planned_stop && ending.failure.is_some_and(|kind| kind.class() == FailureClass::User) {
            *self.books.own_failures.entry(attempt.task).or_default() += 1;
        }
        let is_signalled = self.processes.get(&attempt.id).is_some_and(|book| book.is_signalled);
        promise!(
            ending.failure != Some(FailureKind::Timeout) || is_signalled || self.ran_out(attempt, ending),
            "I18 what ended by itself has not timed out",
            "{attempt:?}"
        );
        // Only a signal ends a process of this world with such a code, and only the platform sends signals.
        let code = ending.exit.as_ref().and_then(|exit| exit.code);
        promise!(
            !(attempt.state == AttemptState::Failed
                && ending.failure == Some(FailureKind::ExitNonzero)
                && matches!(code, Some(137 | 143))),
            "I13 what the platform stopped is not the user's failure",
            "{attempt:?}"
        );
        None
    }

    fn ran_out(&self, attempt: &AttemptRow, ending: &Ending) -> bool {
        let ran_ms = ending.exit.as_ref().map_or(0, |exit| exit.duration_ms);
        self.timeouts.get(&attempt.task).is_some_and(|timeout_ms| ran_ms >= *timeout_ms)
    }

    /// One live attempt at most, and it is the one that its task names, in the same state.
    fn rows_agree(&self, changes: &[Change], store: &FakeStore) -> Option<Violation> {
        for change in changes {
            let Change::Task { after, .. } = change else { continue };
            let task = &store.tasks[&after.id].row;
            let live: Vec<AttemptId> = self.books.live.get(&task.id).into_iter().flatten().copied().collect();
            promise!(
                live.len() <= 1 && live.first().copied() == task.live,
                "I07 at most one live attempt, the one that is named",
                "{task:?} and {live:?}"
            );
            let Some(attempt) = task.live.and_then(|live| store.attempts.get(&live)) else { continue };
            promise!(
                attempt.state.as_str() == task.state.as_str(),
                "I03 task and attempt are in one state",
                "{task:?} and {attempt:?}"
            );
            promise!(
                attempt.fence == task.fence,
                "I08 the live attempt has the task's fence",
                "{task:?} and {attempt:?}"
            );
        }
        None
    }

    pub(crate) fn word_for(&self, change: &Change) -> &'static str {
        match change {
            Change::Task { after, .. } => after.state.as_str(),
            Change::Attempt { after, .. } => after.state.as_str(),
            Change::Offline { .. } => "offline",
            Change::Revoked { .. } => "revoked",
            Change::SessionOpened { .. } => "session",
            Change::Heard { .. } => "heard",
            Change::Present => "present",
            Change::Cordon { .. } => "cordon",
        }
    }

    pub(crate) fn describe(&self, change: &Change) -> String {
        match change {
            Change::Task { after, events, .. } => {
                format!("{:?} {} queued={} live={:?} {events:?}", after.id, after.state, after.queued, after.live)
            }
            Change::Attempt { after, .. } => {
                format!(
                    "{:?} of {:?} on {:?}: {} reserved={}",
                    after.id, after.task, after.node, after.state, after.reserved
                )
            }
            Change::Offline { node } => format!("{node:?} is offline"),
            Change::Revoked { node, evicted } => format!("{node:?} is revoked, its work given up at once: {evicted}"),
            Change::Heard { node, returned: None } => format!("{node:?} was heard"),
            Change::Heard { node, returned: Some(returned) } => {
                format!("{node:?} was heard, and keeps {} tasks that were to be replaced", returned.kept)
            }
            Change::Present => "the platform is there".to_owned(),
            Change::SessionOpened { key, inventory } => format!("{key:?} with {inventory:?}"),
            Change::Cordon { node, is_on } => format!("{node:?} is cordoned by the rule: {is_on}"),
        }
    }
}
