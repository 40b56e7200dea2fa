//! The nodes as they were at most a second ago.

use domain::placement::Candidate;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{Store, StoreError};
use tokio::sync::Mutex;

const REMEMBERED: Duration = Duration::from_secs(1);

/// A handle, cheap to clone.
#[derive(Clone)]
pub(crate) struct FleetCache {
    store: Store,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// When it was read, and what.
type Kept = (Instant, Arc<Vec<Candidate>>);

impl FleetCache {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, kept: Arc::default() }
    }

    pub(crate) async fn candidates(&self) -> Result<Arc<Vec<Candidate>>, StoreError> {
        // Held over the query: of a crowd, one asks and the others wait for its answer.
        let mut kept = self.kept.lock().await;
        if let Some((at, nodes)) = kept.as_ref()
            && at.elapsed() < REMEMBERED
        {
            return Ok(nodes.clone());
        }
        let nodes = Arc::new(self.store.candidates().await?);
        *kept = Some((Instant::now(), nodes.clone()));
        Ok(nodes)
    }
}
