//! What handlers share. Cheap to clone.

use crate::{auth::Access, fleet::FleetCache};
use service_kit::Service;
use std::sync::Arc;
use store::{Group, LogArchive, Store, StoreError, Submissions};

#[derive(Clone)]
pub struct AppState {
    pub(crate) service: Service,
    pub(crate) store: Store,
    pub(crate) access: Access,
    pub(crate) fleet: FleetCache,
    /// Where logs go that leave the database. None: this server was told of no object store.
    pub(crate) archive: Option<Arc<dyn LogArchive>>,
    /// Tasks that come one by one, and those that come by the batch: each has a writer, so that a lone task waits for no thousand others.
    pub(crate) submissions: Group<Submissions>,
    pub(crate) batches: Group<Submissions>,
}

impl AppState {
    /// Reads the keys that sign tokens, and makes the first one of a new installation.
    pub async fn new(service: Service, store: Store) -> Result<Self, StoreError> {
        let access = Access::new(store.clone());
        access.load_signing_keys().await?;
        let (submissions, written) = Group::new(Submissions(store.clone()), service.stopping().clone());
        service.spawn("submissions", written);
        let (batches, written) = Group::new(Submissions(store.clone()), service.stopping().clone());
        service.spawn("batches", written);
        let fleet = FleetCache::new(service.clone(), store.clone());
        Ok(Self { service, access, fleet, archive: None, store, submissions, batches })
    }

    /// With an archive to read logs from.
    pub fn with_archive(self, archive: Option<Arc<dyn LogArchive>>) -> Self {
        Self { archive, ..self }
    }
}
