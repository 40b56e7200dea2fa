//! Resources that nodes say are free. A release changes its attempt only, whoever holds the task now and whatever became of it: twin of
//! [`domain::lifecycle::report`].

use super::record_reports::{ReportVerdict, SessionReports};
use crate::StoreError;
use domain::{
    attempt::AttemptRow,
    ids::{AttemptId, Fence, Held, NodeId},
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A node, and the lease that it has ended.
pub(super) type Releaser = (NodeId, Held);

/// The releases of a batch.
#[derive(Default)]
pub(super) struct Releases {
    /// Held something until now.
    freed: BTreeSet<Releaser>,
    /// Of these, the ones whose node has not been told yet.
    unanswered: BTreeSet<Releaser>,
    /// Those that hold nothing, whoever freed them.
    known: BTreeSet<Releaser>,
    /// Came with the end of their attempt, as short work says it: one write for both.
    with_their_ends: BTreeSet<AttemptId>,
}

impl Releases {
    /// Frees what nodes say is free, but for the attempts that are loaded: those are written with their ends.
    pub(super) async fn write(
        connection: &mut sqlx::PgConnection,
        batch: impl Iterator<Item = &SessionReports>,
        loaded: &BTreeMap<AttemptId, AttemptRow>,
    ) -> Result<Self, StoreError> {
        let said: BTreeSet<Releaser> = batch
            .flat_map(|of| of.reports.iter().filter(|item| item.is_release()).map(|item| (of.session.node, item.held)))
            .filter(|who| !loaded.get(&who.1.attempt).is_some_and(|attempt| is_of(attempt, who)))
            .collect();
        if said.is_empty() {
            return Ok(Self::default());
        }
        let attempts: Vec<Uuid> = said.iter().map(|(_, held)| held.attempt.as_uuid()).collect();
        let fences: Vec<i64> = said.iter().map(|(_, held)| held.fence.get()).collect();
        let nodes: Vec<Uuid> = said.iter().map(|(node, _)| node.as_uuid()).collect();
        // By its id: the word alone would offer the index of all that is held.
        let now = sqlx::query!(
            "UPDATE attempts a SET reserved = false FROM UNNEST($1::uuid[], $2::bigint[], $3::uuid[]) AS r(id, fence, node_id)
         WHERE a.id = r.id AND a.fence = r.fence AND a.node_id = r.node_id AND a.reserved IS NOT FALSE RETURNING a.id, a.fence, a.node_id",
            &attempts,
            &fences,
            &nodes
        )
        .fetch_all(&mut *connection)
        .await?;
        let freed: BTreeSet<Releaser> = now.into_iter().map(|row| held_on(row.node_id, row.id, row.fence)).collect();
        let known = if freed.len() == said.len() {
            said
        } else {
            let known = sqlx::query!(
                "SELECT a.id, a.fence, a.node_id FROM attempts a JOIN UNNEST($1::uuid[], $2::bigint[], $3::uuid[]) AS r(id, fence, node_id)
           ON a.id = r.id AND a.fence = r.fence AND a.node_id = r.node_id",
                &attempts,
                &fences,
                &nodes
            )
            .fetch_all(connection)
            .await?;
            known.into_iter().map(|row| held_on(row.node_id, row.id, row.fence)).collect()
        };
        Ok(Self { unanswered: freed.clone(), freed, known, with_their_ends: BTreeSet::new() })
    }

    /// The answer to one release; `attempt`: where it is loaded.
    pub(super) fn answer(&mut self, who: Releaser, attempt: Option<&mut AttemptRow>, is_orphan: bool) -> ReportVerdict {
        if let Some(attempt) = attempt.filter(|attempt| is_of(attempt, &who)) {
            if std::mem::take(&mut attempt.reserved) {
                self.with_their_ends.insert(attempt.id);
                self.freed.insert(who);
                self.unanswered.insert(who);
            }
            self.known.insert(who);
        }
        match () {
            () if self.unanswered.remove(&who) => ReportVerdict::Recorded,
            () if self.known.contains(&who) => ReportVerdict::Repeated,
            () if is_orphan => ReportVerdict::Orphan,
            // A late release is no evidence of anything.
            () => ReportVerdict::Fenced,
        }
    }

    pub(super) fn came_with_its_end(&self, attempt: AttemptId) -> bool {
        self.with_their_ends.contains(&attempt)
    }

    /// What holds nothing from now on.
    pub(super) fn freed(&self) -> &BTreeSet<Releaser> {
        &self.freed
    }
}

/// This node has it, by this lease.
fn is_of(attempt: &AttemptRow, (node, held): &Releaser) -> bool {
    attempt.node == *node && attempt.held() == *held
}

fn held_on(node: Uuid, attempt: Uuid, fence: i64) -> Releaser {
    (NodeId::from_uuid(node), Held { attempt: AttemptId::from_uuid(attempt), fence: Fence::from_i64(fence) })
}
