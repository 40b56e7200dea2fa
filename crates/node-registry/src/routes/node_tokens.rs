//! Tokens of nodes: one token, one node.

use super::{bad_cursor, bad_field, cut, failed, missing, page, permit, write_cursor};
use crate::issue::{self, name_fault};
use api_types::{
    Problem,
    node::{CreateNodeToken, CreatedNodeToken, NodeToken, NodeTokenList, RevokeQuery},
};
use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{StatusCode, Uri, header},
    response::IntoResponse,
};
use domain::{
    fault::Fault,
    ids::{DEFAULT_PROJECT, NodeTokenId},
    principal::{Origin, Permission, Principal},
};
use service_kit::{ApiError, request_body};
use store::{Revoked, Store};

pub(super) async fn create(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let CreateNodeToken { name } = request_body::typed(request).await?;
    if let Some(fault) = name_fault(&name) {
        return Err(bad_field("#/name", "bad_name", fault));
    }
    let project = origin.principal.project.unwrap_or(DEFAULT_PROJECT);
    let issued = issue::create_node_token(&store, project, &name, &origin).await.map_err(failed)?;
    let issued = issued.ok_or_else(|| {
        let detail = format!("A node {name} is there. Revoke it first, or take another name.");
        ApiError::from(Problem::new("name-taken", detail))
    })?;
    let body = CreatedNodeToken { id: issued.token_id, node_id: issued.node_id, name, token: issued.token };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)))
}

pub(super) async fn list(
    State(store): State<Store>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Json<NodeTokenList>, ApiError> {
    permit(&principal, Permission::Administer)?;
    let (limit, cursor) = page(&uri)?;
    let before = cursor.map(|id| id.parse().map_err(|_| bad_cursor())).transpose()?;
    let tokens = store.list_node_tokens(before, limit).await.map_err(failed)?;
    let next_cursor = tokens.last().filter(|_| tokens.len() == limit).map(|last| write_cursor(&last.id.to_string()));
    let tokens = tokens
        .into_iter()
        .map(|token| NodeToken {
            id: token.id,
            node_id: token.node,
            name: token.name,
            created_by: token.created_by,
            created_at: token.created_at,
            revoked_at: token.revoked_at,
        })
        .collect();
    Ok(Json(NodeTokenList { tokens, next_cursor }))
}

/// By the token's id, or by the name or id of its node. What runs there is told to stop, the node's session is closed, and its tasks
/// are placed again when it has been offline for long enough; with `?evict=true` at once.
pub(super) async fn revoke(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    query: Result<Query<RevokeQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let Query(RevokeQuery { evict }) = query.map_err(|rejection| {
        let detail = rejection.body_text();
        Problem::new("invalid-request", detail.clone()).errors(vec![Fault::parameter("evict", "bad_value", detail)])
    })?;
    let no_such_token =
        || missing("no-such-token", format!("No token {:?}, and no node of this name has one.", cut(&name)));
    if let Ok(id) = name.parse::<NodeTokenId>() {
        match store.revoke_node_token(id, evict, &origin).await.map_err(failed)? {
            Revoked::NoSuchToken => {}
            revoked => return answer(revoked),
        }
    }
    // PostgreSQL's text can't hold a NUL, and no name has one.
    if name.contains('\0') {
        return Err(no_such_token());
    }
    let id = store.token_of_node(&name).await.map_err(failed)?.ok_or_else(no_such_token)?;
    match store.revoke_node_token(id, evict, &origin).await.map_err(failed)? {
        Revoked::NoSuchToken => Err(no_such_token()),
        revoked => answer(revoked),
    }
}

fn answer(revoked: Revoked) -> Result<StatusCode, ApiError> {
    match revoked {
        Revoked::Done | Revoked::NoSuchToken => Ok(StatusCode::NO_CONTENT),
        Revoked::IsExclusive(task) => Err(Problem::new(
            "exclusive-task-runs",
            format!(
                "Task {} runs there and must never run twice at once, and nobody can say when it has stopped there. \
                 Revoke without evict: it is placed again once the node is surely silent.",
                task.short()
            ),
        )
        .into()),
    }
}
