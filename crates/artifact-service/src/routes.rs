//! REST of artifacts. The routes carry their whole paths; whoever serves them has authenticated the caller and put its `Principal` and `Origin` into
//! the request.

use crate::{ObjectStore, Times, checkpoints, download, fsck, looking, nodes, probe, rules, upload};
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
        .route("/api/v1/artifacts:probe", post(probe::probe))
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

/// REST for nodes, about the attempts that they hold. The routes carry their whole paths; whoever serves them has authenticated the node by its token
/// and put its `NodeId` and an `Origin` into the request. Nothing else of the API is behind such a token.
pub fn node_routes(store: Store, objects: Option<ObjectStore>, times: Times) -> Router {
    const ATTEMPT: &str = "/api/v1/node/attempts/{attempt}/{fence}";
    Router::new()
        .route(&format!("{ATTEMPT}/inputs/{{index}}"), post(nodes::input))
        .route(&format!("{ATTEMPT}/outputs/{{index}}"), post(nodes::begin))
        .route(&format!("{ATTEMPT}/outputs/{{index}}/parts"), post(nodes::parts))
        .route(&format!("{ATTEMPT}/outputs/{{index}}/complete"), post(nodes::complete))
        .route(&format!("{ATTEMPT}/checkpoints"), post(checkpoints::begin))
        .route(&format!("{ATTEMPT}/checkpoints/newest"), post(checkpoints::newest))
        .route(&format!("{ATTEMPT}/checkpoints/{{artifact}}/parts"), post(checkpoints::parts))
        .route(&format!("{ATTEMPT}/checkpoints/{{artifact}}/complete"), post(checkpoints::complete))
        .with_state(Shared { store, objects, times })
}
