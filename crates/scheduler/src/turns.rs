//! What [`Turns`] has to know, read when it matters: who has how much only when several projects wait, and what has waited for long
//! only where more waits than a look has seen. Each about once a second, whatever is in the queue.

use domain::placement::{Turns, before};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use store::{QueueHeads, QueueLook, Store, StoreError};

use crate::queue::Queue;

/// From one reading to the next.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) struct KnownTurns {
    pub(crate) turns: Turns,
    /// The wait after which age counts; None: never.
    ageing: Option<Duration>,
    counted_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl KnownTurns {
    pub(crate) fn new(ageing: Option<Duration>) -> Self {
        Self { turns: Turns::default(), ageing, counted_at: None, looked_at: None }
    }

    /// What was planned was not all committed, or by another: who has how much is read again.
    pub(crate) fn begin_anew(&mut self) {
        self.counted_at = None;
    }

    /// Reads what is needed to plan for what was found, to which old tasks may be added.
    pub(crate) async fn read(
        &mut self,
        store: &Store,
        queue: &Queue,
        look: &QueueLook,
        found: &mut QueueHeads,
    ) -> Result<(), StoreError> {
        let is_due = |read_at: Option<Instant>| read_at.is_none_or(|at| at.elapsed() >= EVERY);
        if let Some(waited) = self.ageing
            && is_due(self.looked_at)
        {
            let cut = queue.cut_off(look, found);
            // Where all was seen, or nothing has room, the next look that finds otherwise need not wait for its time.
            if !cut.is_empty() {
                store.add_old_heads(found, &cut, waited, &queue.needs).await?;
                self.looked_at = Some(Instant::now());
            }
        }
        self.turns.old_until(self.ageing.zip(found.at).and_then(|(waited, at)| before(at, waited)));
        let projects: BTreeSet<_> = found.heads.iter().map(|head| head.project).collect();
        if projects.len() > 1 && (is_due(self.counted_at) || !self.turns.knows(&projects)) {
            self.turns.count_anew(store.live_tasks(&projects).await?);
            self.counted_at = Some(Instant::now());
        }
        Ok(())
    }
}
