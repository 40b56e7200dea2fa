//! REST of nodes, their tokens and API keys. The routes carry their whole paths; whoever serves them has authenticated the caller
//! and put its `Principal` and `Origin` into the request.

mod api_keys;
mod node_tokens;
mod nodes;

use api_types::Problem;
use axum::{
    Router,
    routing::{delete, get, post},
};
use domain::{
    fault::Fault,
    principal::{Permission, Principal},
};
use service_kit::ApiError;
use store::{Store, StoreError};

pub fn routes(store: Store) -> Router {
    Router::new()
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{id}", get(nodes::get))
        .route("/api/v1/nodes/{id}/drain", post(nodes::drain))
        .route("/api/v1/nodes/{id}/resume", post(nodes::resume))
        .route("/api/v1/node-tokens", post(node_tokens::create).get(node_tokens::list))
        .route("/api/v1/node-tokens/{id}", delete(node_tokens::revoke))
        .route("/api/v1/api-keys", post(api_keys::create).get(api_keys::list))
        .route("/api/v1/api-keys/{id}", delete(api_keys::revoke))
        .with_state(store)
}

fn permit(principal: &Principal, permission: Permission) -> Result<(), ApiError> {
    if principal.may(permission) { Ok(()) } else { Err(Problem::not_permitted(principal, permission).into()) }
}

fn failed(error: StoreError) -> ApiError {
    if error.is_storage_full() {
        return ApiError::storage_full(&error);
    }
    if error.is_temporary() { ApiError::unavailable(&error) } else { ApiError::internal(&error) }
}

/// One field of a body is wrong.
fn bad_field(pointer: &str, code: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone()).errors(vec![Fault::new(pointer, code, detail)]).into()
}

/// A parameter of the query is wrong.
fn bad_parameter(name: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone()).errors(vec![Fault::parameter(name, "bad_value", detail)]).into()
}

/// What a path names is not there.
fn missing(word: &str, detail: String) -> ApiError {
    Problem::new(word, detail.clone()).errors(vec![Fault::parameter("id", &word.replace('-', "_"), detail)]).into()
}

/// A name from a path, short enough to repeat.
fn cut(name: &str) -> String {
    name.chars().take(80).collect()
}
