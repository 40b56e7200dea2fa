//! The nodes as they were a moment ago. A small fleet is read anew for whoever wants to know it as it is now; a large one is read part by
//! part, so it is read once for all who ask within a second, and behind the back of those who ask after that.

use domain::placement::Candidate;
use service_kit::Service;
use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};
use store::{Store, StoreError};
use tokio::sync::Mutex;

const REMEMBERED: Duration = Duration::from_secs(1);
/// A large one: ten thousand nodes are 250 statements, which under full load take a second.
const LARGE_REMEMBERED: Duration = Duration::from_secs(4);
/// So old may a large fleet be that somebody is told of, while it is read again.
const OLDEST: Duration = Duration::from_secs(10);
/// So few are read within a few milliseconds.
const SMALL: usize = 300;

/// A handle, cheap to clone.
#[derive(Clone)]
pub(crate) struct FleetCache {
    service: Service,
    store: Store,
    kept: Arc<RwLock<Option<Kept>>>,
    /// Held over the query: of a crowd, one asks and the others wait for its answer.
    reading: Arc<Mutex<()>>,
}

/// When it was read, and what.
type Kept = (Instant, Arc<Vec<Candidate>>);

impl FleetCache {
    pub(crate) fn new(service: Service, store: Store) -> Self {
        Self { service, store, kept: Arc::default(), reading: Arc::default() }
    }

    /// The nodes as they were at most a second ago, or ten in a large fleet.
    pub(crate) async fn candidates(&self) -> Result<Arc<Vec<Candidate>>, StoreError> {
        match self.kept() {
            Some((at, nodes)) if at.elapsed() < REMEMBERED => Ok(nodes),
            Some((at, nodes)) if at.elapsed() < OLDEST && nodes.len() > SMALL => {
                if at.elapsed() >= LARGE_REMEMBERED {
                    self.read_in_the_background();
                }
                Ok(nodes)
            }
            _ => self.read(REMEMBERED).await,
        }
    }

    /// For a person who may just have changed something: a small fleet as it is now.
    pub(crate) async fn current(&self) -> Result<Arc<Vec<Candidate>>, StoreError> {
        match self.kept() {
            Some((_, nodes)) if nodes.len() > SMALL => self.candidates().await,
            _ => self.read(Duration::ZERO).await,
        }
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn read_in_the_background(&self) {
        // Who has the lock reads already.
        if let Ok(reading) = self.reading.clone().try_lock_owned() {
            let this = self.clone();
            self.service.spawn_until_stopped("fleet", async move {
                let _reading = reading;
                if let Err(error) = this.read_now().await {
                    tracing::warn!(%error, "the fleet was not read again");
                }
            });
        }
    }

    async fn read(&self, remembered: Duration) -> Result<Arc<Vec<Candidate>>, StoreError> {
        let _reading = self.reading.lock().await;
        match self.kept() {
            Some((at, nodes)) if at.elapsed() < remembered => Ok(nodes),
            _ => self.read_now().await,
        }
    }

    async fn read_now(&self) -> Result<Arc<Vec<Candidate>>, StoreError> {
        let at = Instant::now();
        let nodes = Arc::new(self.store.candidates().await?);
        *self.kept.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((at, nodes.clone()));
        Ok(nodes)
    }
}
