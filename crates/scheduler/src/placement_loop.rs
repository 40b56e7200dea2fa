//! Places waiting tasks, as long as this process leads.

use domain::placement::{Fleet, Strategy};
use service_kit::Pass;
use store::{HEADS_PER_CLASS, LeaderRole, Leadership, Store, StoreError};
use uuid::Uuid;

pub(crate) struct Placer {
    store: Store,
    holder: Uuid,
    leadership: Option<Leadership>,
    fleet: Fleet,
}

impl Placer {
    pub(crate) fn new(store: Store, strategy: Strategy) -> Self {
        Self { store, holder: Uuid::new_v4(), leadership: None, fleet: Fleet::new(strategy) }
    }

    /// Stays the leader, or becomes it when nobody is.
    pub(crate) async fn renew(&mut self) -> Result<Pass, StoreError> {
        let leadership = self.store.lead(LeaderRole::Scheduler, self.holder, self.leadership).await?;
        match (self.leadership, leadership) {
            (None, Some(now)) => tracing::info!(epoch = now.epoch, "leading the placement"),
            (Some(_), None) => tracing::warn!("another scheduler leads now"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.leadership = leadership;
        Ok(Pass::Idle)
    }

    /// Places waiting tasks once. What cannot be committed any more is left for the next pass.
    pub(crate) async fn pass(&mut self) -> Result<Pass, StoreError> {
        if self.leadership.is_none() {
            self.renew().await?;
        }
        let Some(leadership) = self.leadership else { return Ok(Pass::Idle) };
        // The head of every class of needs, so that what cannot be placed blocks nobody.
        let mut snapshot = self.store.placement_snapshot(HEADS_PER_CLASS).await?;
        if snapshot.heads.is_empty() {
            return Ok(Pass::Idle);
        }
        // With fewer heads than one class may send, the queue was seen whole.
        let is_cut = snapshot.heads.len() as i64 >= HEADS_PER_CLASS;
        self.fleet.replace_all(std::mem::take(&mut snapshot.nodes));
        let plan = self.fleet.plan(&mut snapshot.heads, rand::random);
        if plan.is_empty() {
            return Ok(Pass::Idle);
        }
        match self.store.commit_placements(&leadership, &plan).await {
            Ok(report) => {
                tracing::debug!(placed = report.placed, stale = report.stale, "placed");
                // Where something was placed, the next of its class may fit too.
                Ok(if report.placed > 0 && is_cut { Pass::More } else { Pass::Idle })
            }
            Err(StoreError::NotLeader) => {
                tracing::warn!("another scheduler leads now");
                self.leadership = None;
                Ok(Pass::Idle)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn resign(&mut self) {
        if let Some(leadership) = self.leadership.take()
            && let Err(error) = self.store.resign(&leadership).await
        {
            tracing::debug!(%error, "the leadership could not be given up; it ends by itself");
        }
    }
}
