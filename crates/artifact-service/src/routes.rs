//! REST of artifacts. The routes carry their whole paths; whoever serves them has authenticated the caller and put its `Principal` and `Origin` into
//! the request.

use crate::{ObjectStore, Times, download, fsck, looking, rules, upload};
use axum::{
    Router,
    routing::{delete, get, post},
};
use store::Store;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) objects: Option<ObjectStore>,
    pub(crate) times: Times,
}

/// Without an object store what is known can be looked at, and all else is refused with what to set.
pub fn routes(store: Store, objects: Option<ObjectStore>, times: Times) -> Router {
    Router::new()
        .route("/api/v1/artifacts", post(upload::create).get(looking::list))
        .route("/api/v1/artifacts:fsck", post(fsck::fsck))
        .route("/api/v1/artifacts/{ref}", get(looking::get).delete(looking::remove))
        .route("/api/v1/artifacts/{ref}/parts", post(upload::parts))
        .route("/api/v1/artifacts/{ref}/complete", post(upload::complete))
        .route("/api/v1/artifacts/{ref}/download", post(download::download))
        .route("/api/v1/artifacts/{ref}/content", get(download::content))
        .route("/api/v1/artifacts/{ref}/pin", post(rules::pin))
        .route("/api/v1/artifacts/{ref}/unpin", post(rules::unpin))
        .route("/api/v1/artifact-rules", post(rules::add).get(rules::list))
        .route("/api/v1/artifact-rules:preview", post(rules::preview))
        .route("/api/v1/artifact-rules/{id}", delete(rules::remove))
        .with_state(Shared { store, objects, times })
}
