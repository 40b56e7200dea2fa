//! Nodes: look at them, drain and resume them.

use super::{bad_field, cut, failed, missing, permit};
use api_types::node::{DrainRequest, Node, NodeList};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
};
use domain::{
    node::Admission,
    principal::{Origin, Permission, Principal},
};
use service_kit::{ApiError, request_body};
use store::{NodeWithLoad, Store};

const MAX_NOTE_BYTES: usize = 200;

pub(super) async fn list(
    State(store): State<Store>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<NodeList>, ApiError> {
    permit(&principal, Permission::Look)?;
    let nodes = store.list_nodes().await.map_err(failed)?;
    Ok(Json(NodeList { nodes: nodes.into_iter().map(view).collect() }))
}

pub(super) async fn get(
    State(store): State<Store>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<Node>, ApiError> {
    permit(&principal, Permission::Look)?;
    find(&store, &name).await.map(view).map(Json)
}

pub(super) async fn drain(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Node>, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let DrainRequest { note } = request_body::typed_or_default(request).await?;
    if note.len() > MAX_NOTE_BYTES || note.chars().any(char::is_control) {
        return Err(bad_field("#/note", "bad_text", format!("A note is one line of at most {MAX_NOTE_BYTES} bytes.")));
    }
    set(&store, &name, Admission::Draining, &note, &origin).await
}

pub(super) async fn resume(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
) -> Result<Json<Node>, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    set(&store, &name, Admission::Open, "", &origin).await
}

async fn set(
    store: &Store,
    name: &str,
    admission: Admission,
    note: &str,
    origin: &Origin,
) -> Result<Json<Node>, ApiError> {
    let node = find(store, name).await?;
    let is_there = store.set_admission(node.node.id, admission, note, origin).await.map_err(failed)?;
    if !is_there {
        return Err(no_such_node(name));
    }
    find(store, name).await.map(view).map(Json)
}

async fn find(store: &Store, name: &str) -> Result<NodeWithLoad, ApiError> {
    store.find_node(name).await.map_err(failed)?.ok_or_else(|| no_such_node(name))
}

fn no_such_node(name: &str) -> ApiError {
    missing("no-such-node", format!("There is no node {:?}; GET /api/v1/nodes lists them.", cut(name)))
}

fn view(NodeWithLoad { node, reserved, tasks }: NodeWithLoad) -> Node {
    Node {
        id: node.id,
        name: node.name,
        presence: node.presence,
        admission: node.admission,
        admission_note: node.admission_note,
        facts: node.facts,
        metrics: node.metrics,
        reserved,
        tasks,
        last_seen_at: node.last_seen_at,
        connected_since: node.connected_since,
        created_at: node.created_at,
    }
}
