//! Who is asking. A Bearer credential is an API key or a short-lived token made from one; it comes in the header, never in the
//! query string, where logs and histories would keep it.

mod access;
mod jwt;
pub(crate) mod routes;

pub(crate) use access::Access;

use crate::{AppState, failed::failed, middleware::known_in_time};
use api_types::Problem;
use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use domain::{
    fault::Fault,
    principal::{Origin, Permission, Principal},
    quantity::show_duration_ms,
};
use service_kit::{ApiError, RequestId};
use std::net::SocketAddr;

/// No credential of ours is so long.
const MAX_CREDENTIAL_BYTES: usize = 4 * 1024;

/// Middleware of every route that needs a caller: puts the `Principal` and the `Origin` into the request.
pub(crate) async fn require(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let principal = known_in_time(authenticate(&state.access, request.headers())).await?;
    let origin = origin(principal.clone(), &request);
    request.extensions_mut().insert(principal);
    request.extensions_mut().insert(origin);
    Ok(next.run(request).await)
}

/// Where a request of this principal came from.
pub(crate) fn origin(principal: Principal, request: &Request) -> Origin {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map_or_else(|| "unknown".to_owned(), |ConnectInfo(peer)| peer.ip().to_string());
    let request_id = request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
    Origin { principal, address, request_id }
}

/// Refuses a principal whose role does not permit it.
pub(crate) fn permit(principal: &Principal, permission: Permission) -> Result<(), ApiError> {
    if principal.may(permission) { Ok(()) } else { Err(Problem::not_permitted(principal, permission).into()) }
}

async fn authenticate(access: &Access, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(nobody("No credential was given; send Authorization: Bearer <API key or token>."));
    };
    let credential = value.to_str().ok().and_then(bearer).filter(|text| text.len() <= MAX_CREDENTIAL_BYTES);
    let Some(credential) = credential else {
        return Err(nobody("The credential is not readable; send Authorization: Bearer <API key or token>."));
    };
    if credential.starts_with("ud_node_") {
        return Err(nobody("A node's token opens what nodes need and nothing else; use an API key."));
    }
    let found = if credential.starts_with("ud_") {
        access.by_key(credential).await
    } else {
        match access.by_token(credential).await {
            Ok(Err(jwt::Refusal::Expired { ago_s })) => return Err(expired(ago_s)),
            other => other.map(Result::ok),
        }
    };
    found
        .map_err(failed)?
        .map(|key| access::principal(&key))
        .ok_or_else(|| nobody("The credential is not valid: mistyped, expired or revoked."))
}

pub(crate) fn bearer(value: &str) -> Option<&str> {
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim()).filter(|credential| !credential.is_empty())
}

fn nobody(detail: &str) -> ApiError {
    Problem::new("not-authenticated", detail)
        .errors(vec![Fault::header("Authorization", "not_authenticated", detail)])
        .into()
}

fn expired(ago_s: u64) -> ApiError {
    let detail = format!("The token expired {} ago.", show_duration_ms(ago_s * 1_000));
    Problem::new("token-expired", detail.clone())
        .errors(vec![Fault::header("Authorization", "token_expired", detail).hint("POST /api/v1/auth/token")])
        .into()
}
