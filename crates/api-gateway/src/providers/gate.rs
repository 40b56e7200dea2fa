//! Who may move the files of attempts: the node that has them, and whoever has a credential for one attempt.

use super::{
    session::Caller,
    socket::{Door, authenticate},
};
use crate::{
    auth::{Access, bearer, origin},
    failed::failed,
    middleware::known_in_time,
};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use domain::{
    ids::{Held, NodeId, PrincipalId},
    principal::{Principal, PrincipalKind, Role},
};
use service_kit::ApiError;

#[derive(Clone)]
pub(super) struct Gate {
    pub(super) door: Door,
    pub(super) access: Access,
}

pub(super) fn router(gate: Gate, routes: Router) -> Router {
    match routes.has_routes() {
        true => routes.route_layer(from_fn_with_state(gate, require)),
        false => routes,
    }
}

/// Puts the `NodeId` and the `Origin` into the request, and never a `Principal`, which people's routes ask for.
async fn require(State(gate): State<Gate>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let (node, principal) = known_in_time(who(&gate, request.headers(), request.uri().path())).await?;
    let origin = origin(principal, &request);
    request.extensions_mut().insert(node);
    request.extensions_mut().insert(origin);
    Ok(next.run(request).await)
}

async fn who(gate: &Gate, headers: &HeaderMap, path: &str) -> Result<(NodeId, Principal), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    // Nodes have tokens of their own kind, which are no JWT.
    let Some(token) = given.filter(|given| !given.starts_with("ud_")) else {
        let Caller { node, name, .. } = authenticate(&gate.door, headers).await?;
        let id = PrincipalId::from_uuid(node.as_uuid());
        return Ok((node, Principal { kind: PrincipalKind::Node, id, name, role: Role::Viewer, project: None }));
    };
    let (held, node, maker) = gate.access.by_attempt_token(token).await.map_err(failed)?.ok_or_else(|| {
        ApiError::new(
            "not-authenticated",
            "This is no valid credential for an attempt: it has expired, or the key that asked for it is revoked. Ask for another one: POST \
             /api/v1/tasks/ID/credentials",
        )
    })?;
    if held_in(path) != Some(held) {
        let detail = format!("This credential is for the files of attempt {}, and opens nothing else.", held.attempt);
        return Err(ApiError::new("not-permitted", detail));
    }
    Ok((node, maker))
}

/// Which attempt a path is about.
fn held_in(path: &str) -> Option<Held> {
    let mut parts = path.strip_prefix("/api/v1/node/attempts/")?.split('/');
    let (attempt, fence) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Held { attempt, fence: domain::ids::Fence::from_i64(fence) })
}
