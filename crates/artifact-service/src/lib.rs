//! Artifacts: files and directories that are put in once and never change. This service knows them and hands out addresses; their bytes travel
//! between whoever has them and an object store.
//!
//! Owns: the routes under `/artifacts`, those of nodes about what their attempts read and leave, every word with the object store, the object store of
//! `unidesk up`, what is deleted in the end, and the logs that have left the database.
//! Must not know: what a task is but for what it reads and leaves, sockets. No byte of an artifact passes through it, but where a check reads them.
//! Begin at [`routes()`], then `upload.rs`, and `nodes.rs` for attempts; [`run`] for the loops; `log_archive.rs` for logs; `embedded.rs` for the store without one.

mod archive_loop;
mod checkpoints;
mod collect_loop;
mod config;
mod copying;
mod download;
mod embedded;
mod figures;
mod fsck;
mod keys;
mod log_archive;
mod looking;
mod nodes;
mod object_store;
mod presign;
mod probe;
mod refusals;
mod routes;
mod rules;
mod upload;

pub use config::{Archiving, Config, Credentials, Times};
pub use embedded::Embedded;
pub use object_store::{ObjectStore, ObjectStoreError};
pub use routes::{node_routes, routes};

use service_kit::Service;
use store::Store;

/// Starts the loops; they run until the service stops. Any number of replicas may run. Without an object store there is nothing to do.
pub fn run(service: &Service, times: Times, store: Store, objects: Option<ObjectStore>) {
    figures::describe();
    match objects {
        Some(objects) => {
            archive_loop::start(service, times, store.clone(), objects.clone());
            collect_loop::start(service, times, store, objects);
        }
        None => tracing::info!(
            "no object store is set: there are no artifacts to look after, and logs stay in the database"
        ),
    }
}
