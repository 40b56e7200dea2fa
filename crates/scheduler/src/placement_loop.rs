//! Places waiting tasks, as long as this process leads. The nodes are kept in memory: read once, then what a hint or a failed commit
//! names, and all of them again little by little. One pass reads nothing that grows with the queue or the fleet.

use crate::{Config, figures::Figures, queue::Queue, turns::KnownTurns};
use domain::{
    Timestamp,
    ids::{AttemptId, NodeId, TaskId},
    placement::{Asked, Head, Placement, Unread, Watched},
};
use service_kit::Pass;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::{LeaderRole, Leadership, QueueHeads, QueueLook, Store, StoreError};
use uuid::Uuid;

/// Nodes read at once on the way round: few, since what is urgent waits for them.
const NODES_AT_ONCE: usize = 256;
/// From one part of the round to the next, and from one round to the next where one part is all.
const PART_EVERY: Duration = Duration::from_millis(250);
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// More than so many are no exception any more: they are leased with the others.
const FEW_URGENT: usize = 16;
/// Passes that follow at once although all that was planned had become untrue.
const VAIN_PASSES: u32 = 3;

/// What was heard since the last pass. The hearing never waits for a pass.
#[derive(Clone, Default)]
pub(crate) struct Hints(Arc<Mutex<Unread>>);

impl Hints {
    pub(crate) fn hear(&self, hear: impl FnOnce(&mut Unread)) {
        hear(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
    fn take(&self) -> Unread {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) struct Placer {
    store: Store,
    holder: Uuid,
    leadership: Option<Leadership>,
    nodes: Watched,
    queue: Queue,
    turns: KnownTurns,
    hints: Hints,
    settled_restore: Option<Timestamp>,
    /// Where the round goes on, and when the last part of it was read.
    round: Option<NodeId>,
    read_at: Instant,
    in_vain: u32,
    /// What the nodes' times count from.
    since: Instant,
    figures: Figures,
}

impl Placer {
    pub(crate) fn new(store: Store, config: &Config, hints: Hints) -> Self {
        let ageing = (config.priority_ageing > 0).then(|| Duration::from_secs(config.priority_ageing));
        Self {
            store,
            holder: Uuid::new_v4(),
            leadership: None,
            nodes: Watched::new(config.strategy),
            queue: Queue::new(Instant::now()),
            turns: KnownTurns::new(ageing),
            hints,
            settled_restore: None,
            round: None,
            read_at: Instant::now(),
            in_vain: 0,
            since: Instant::now(),
            figures: Figures::new(),
        }
    }

    /// Stays the leader, or becomes it when nobody is.
    pub(crate) async fn renew(&mut self) -> Result<Pass, StoreError> {
        let leadership = self.store.lead(LeaderRole::Scheduler, self.holder, self.leadership).await?;
        match (self.leadership, leadership) {
            (None, Some(now)) => tracing::info!(epoch = now.epoch, "leading the placement"),
            (Some(_), None) => tracing::warn!("another scheduler leads now"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        // Another may have placed since: what is known of the nodes is of then.
        if self.leadership.map(|it| it.epoch) != leadership.map(|it| it.epoch) {
            self.forget();
        }
        if leadership.is_some() && self.leadership.is_none() {
            self.figures.leader_changes.increment(1);
        }
        self.set_leadership(leadership);
        Ok(Pass::Idle)
    }

    fn set_leadership(&mut self, leadership: Option<Leadership>) {
        self.leadership = leadership;
        self.figures.is_leader.set(f64::from(u8::from(leadership.is_some())));
    }

    /// Places waiting tasks once. What cannot be committed any more is left for the next pass.
    pub(crate) async fn pass(&mut self) -> Result<Pass, StoreError> {
        if self.leadership.is_none() {
            self.renew().await?;
        }
        let Some(leadership) = self.leadership else { return Ok(Pass::Idle) };
        let began = Instant::now();
        let done = self.place(leadership).await;
        self.figures.pass.record(began.elapsed());
        done
    }

    async fn place(&mut self, leadership: Leadership) -> Result<Pass, StoreError> {
        self.follow_hints().await?;
        // The head of every class of needs, so that what cannot be placed blocks nobody.
        let look = self.queue.look(&mut self.nodes, self.settled_restore, Instant::now());
        let mut found = self.store.queue_heads(&look, &mut self.queue.needs).await?;
        self.turns.read(&self.store, &self.queue, &look, &mut found).await?;
        let mut plan = self.nodes.plan(&mut found.heads, &mut self.turns.turns, rand::random);
        plan.extend(self.plan_ahead(&look, &found, &plan));
        let more = self.queue.learn(&look, &found, &plan);
        if plan.is_empty() {
            let is_news = self.go_round().await?;
            return Ok(if more || is_news { Pass::More } else { Pass::Idle });
        }
        let urgent = urgent(&plan, &found.heads);
        match self.lease(&leadership, &plan, &urgent).await {
            Ok(leases) => {
                let stale = plan.len() - leases.len();
                self.figures.placements.increment(leases.len() as u64);
                self.figures.stale.increment(stale as u64);
                tracing::debug!(placed = leases.len(), stale, "placed");
                if stale > 0 {
                    self.queue.begin_anew();
                    self.turns.begin_anew();
                }
                self.nodes.committed(plan, &leases);
                self.in_vain = if leases.is_empty() { self.in_vain + 1 } else { 0 };
                self.go_round().await?;
                // What has become untrue is read again, and then the next of the class may fit elsewhere.
                let again = stale > 0 && self.in_vain < VAIN_PASSES;
                Ok(if more && !leases.is_empty() || again { Pass::More } else { Pass::Idle })
            }
            Err(StoreError::NotLeader) => {
                tracing::warn!("another scheduler leads now");
                self.set_leadership(None);
                self.figures.not_leader.increment(plan.len() as u64);
                self.forget();
                Ok(Pass::Idle)
            }
            Err(error) => {
                self.figures.error.increment(plan.len() as u64);
                self.nodes.in_doubt(&plan);
                self.queue.begin_anew();
                self.turns.begin_anew();
                Err(error)
            }
        }
    }

    /// What there is no room for and may wait on a node.
    fn plan_ahead(&mut self, look: &QueueLook, found: &QueueHeads, plan: &[Placement]) -> Vec<Placement> {
        let Some(at) = found.at else { return Vec::new() };
        if !self.nodes.knows_short() {
            return Vec::new();
        }
        let placed: BTreeSet<TaskId> = plan.iter().map(|placement| placement.task).collect();
        let left: Vec<Head> = found.heads.iter().filter(|head| !placed.contains(&head.task)).cloned().collect();
        let unseen = self.queue.unseen(look, found);
        self.nodes.plan_ahead(&left, unseen, &mut self.turns.turns, at)
    }

    /// What is urgent among much that is not is leased first, in a transaction of its own: it waits for none of the others.
    async fn lease(
        &mut self,
        leadership: &Leadership,
        plan: &[Placement],
        urgent: &BTreeSet<TaskId>,
    ) -> Result<BTreeMap<TaskId, AttemptId>, StoreError> {
        let (first, others): (Vec<_>, Vec<_>) =
            plan.iter().cloned().partition(|placement| urgent.contains(&placement.task));
        let mut leases = match first.is_empty() {
            true => BTreeMap::new(),
            false => self.store.lease_tasks(leadership, &first).await?,
        };
        if !others.is_empty() {
            let began = Instant::now();
            leases.extend(self.store.lease_tasks(leadership, &others).await?);
            self.queue.took(others.len(), began.elapsed());
        }
        Ok(leases)
    }

    pub(crate) async fn resign(&mut self) {
        self.figures.is_leader.set(0.0);
        if let Some(leadership) = self.leadership.take()
            && let Err(error) = self.store.resign(&leadership).await
        {
            tracing::debug!(%error, "the leadership could not be given up; it ends by itself");
        }
    }

    fn forget(&mut self) {
        self.nodes.hear(Unread { everything: true, ..Unread::default() });
        self.queue = Queue::new(Instant::now());
        self.turns.begin_anew();
    }

    /// Reads what is known to be out of date.
    async fn follow_hints(&mut self) -> Result<(), StoreError> {
        self.nodes.hear(self.hints.take());
        let unread = self.nodes.take_unread(self.since.elapsed().as_millis() as u64);
        if unread.is_empty() {
            return Ok(());
        }
        let outcome = self.read(&unread).await;
        if outcome.is_err() {
            self.nodes.hear(unread);
        }
        outcome
    }

    async fn read(&mut self, unread: &Unread) -> Result<(), StoreError> {
        if unread.everything {
            self.round = None;
            while self.read_part().await? {}
            return Ok(());
        }
        if !unread.nodes.is_empty() {
            let readings = self.store.read_nodes(&unread.nodes).await?;
            self.nodes.read(&Asked::Nodes(unread.nodes.clone()), readings);
        }
        Ok(())
    }

    /// Reads the next part of the nodes again when it is time. True: something was read, which may have made room.
    async fn go_round(&mut self) -> Result<bool, StoreError> {
        let wait = if self.round.is_none() { ROUND_EVERY } else { PART_EVERY };
        if self.read_at.elapsed() < wait {
            return Ok(false);
        }
        self.read_part().await?;
        Ok(true)
    }

    /// True: there are more.
    async fn read_part(&mut self) -> Result<bool, StoreError> {
        if self.round.is_none() {
            self.settled_restore = self.store.settled_restore().await?;
        }
        let (asked, readings) = self.store.read_nodes_after(self.round, NODES_AT_ONCE).await?;
        self.nodes.read(&asked, readings);
        self.read_at = Instant::now();
        let Asked::Range(_, next) = asked else { return Ok(false) };
        self.round = next;
        Ok(next.is_some())
    }
}

/// The few of a plan that are more urgent than most of it.
fn urgent(plan: &[Placement], heads: &[Head]) -> BTreeSet<TaskId> {
    let planned: BTreeSet<TaskId> = plan.iter().map(|placement| placement.task).collect();
    let of_plan = || heads.iter().filter(|head| planned.contains(&head.task));
    let mut priorities: Vec<i32> = of_plan().map(|head| head.priority).collect();
    priorities.sort_unstable();
    let Some(usual) = priorities.get(priorities.len().saturating_sub(1) / 2) else { return BTreeSet::new() };
    let urgent: BTreeSet<TaskId> = of_plan().filter(|head| head.priority > *usual).map(|head| head.task).collect();
    if urgent.len() > FEW_URGENT { BTreeSet::new() } else { urgent }
}

#[cfg(test)]
mod tests;
