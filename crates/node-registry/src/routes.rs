//! REST of nodes, their tokens and API keys. The routes carry their whole paths; whoever serves them has authenticated the caller
//! and put its `Principal` and `Origin` into the request.

mod api_keys;
mod node_tokens;
mod nodes;

use api_types::{
    Problem,
    page::{MAX_LIMIT, PageQuery},
};
use axum::{
    Router,
    http::Uri,
    routing::{delete, get, post},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::{
    fault::Fault,
    principal::{Permission, Principal},
};
use service_kit::{ApiError, request_body};
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
    Problem::new("invalid-request", detail.clone())
        .errors(vec![Fault::parameter(name, "invalid_parameter", detail)])
        .into()
}

/// How many, and after what: `next_cursor` of the page before, read. Without a limit, as many as a page may have.
fn page(uri: &Uri) -> Result<(usize, Option<String>), ApiError> {
    let PageQuery { limit, cursor } = request_body::query(uri)?;
    let limit = limit.unwrap_or(MAX_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad_parameter("limit", format!("limit is {limit}; 1 to {MAX_LIMIT} are taken.")));
    }
    let read = |text: String| {
        let last = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|last| String::from_utf8(last).ok());
        last.filter(|last| !last.is_empty() && !last.contains('\0')).ok_or_else(bad_cursor)
    };
    Ok((limit as usize, cursor.map(read).transpose()?))
}

fn write_cursor(last: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(last)
}

fn bad_cursor() -> ApiError {
    bad_parameter("cursor", "This is no cursor; take next_cursor of the page before as it is.")
}

/// What a path names is not there.
fn missing(word: &str, detail: String) -> ApiError {
    Problem::new(word, detail.clone()).errors(vec![Fault::parameter("id", &word.replace('-', "_"), detail)]).into()
}

/// A name from a path, short enough to repeat.
fn cut(name: &str) -> String {
    name.chars().take(80).collect()
}
