//! Nodes: look at them, drain and resume them.

use super::{bad_field, cut, failed, missing, page, permit, write_cursor};
use api_types::node::{DrainRequest, Node, NodeList};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::Uri,
};
use chrono::TimeDelta;
use domain::{
    principal::{Origin, Permission, Principal},
    quantity::parse_duration_ms,
};
use service_kit::{ApiError, request_body};
use store::{NodeWithLoad, Store};

const MAX_NOTE_BYTES: usize = 200;
const LONGEST_DEADLINE: TimeDelta = TimeDelta::days(30);

pub(super) async fn list(
    State(store): State<Store>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Json<NodeList>, ApiError> {
    permit(&principal, Permission::Look)?;
    let (limit, after) = page(&uri)?;
    let nodes = store.list_nodes(after.as_deref(), limit).await.map_err(failed)?;
    let next_cursor = nodes.last().filter(|_| nodes.len() == limit).map(|last| write_cursor(&last.node.name));
    Ok(Json(NodeList { nodes: nodes.into_iter().map(view).collect(), next_cursor }))
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
    let DrainRequest { note, deadline } = request_body::typed_or_default(request).await?;
    if note.len() > MAX_NOTE_BYTES || note.chars().any(char::is_control) {
        return Err(bad_field("#/note", "bad_text", format!("A note is one line of at most {MAX_NOTE_BYTES} bytes.")));
    }
    let deadline = deadline.map(|text| read_deadline(&text)).transpose()?;
    let node = find(&store, &name).await?;
    let is_there = store.drain_node(node.node.id, &note, deadline, &origin).await.map_err(failed)?;
    changed(&store, &name, is_there).await
}

pub(super) async fn resume(
    State(store): State<Store>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
) -> Result<Json<Node>, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let node = find(&store, &name).await?;
    let is_there = store.resume_node(node.node.id, &origin).await.map_err(failed)?;
    changed(&store, &name, is_there).await
}

/// `90s`, `1h`.
fn read_deadline(text: &str) -> Result<TimeDelta, ApiError> {
    let read = parse_duration_ms(text).and_then(|ms| TimeDelta::try_milliseconds(i64::try_from(ms).ok()?));
    read.filter(|deadline| *deadline <= LONGEST_DEADLINE).ok_or_else(|| {
        bad_field("#/deadline", "bad_duration", "A deadline is a time like 90s, 10m or 1h, of at most 30 days.")
    })
}

async fn changed(store: &Store, name: &str, is_there: bool) -> Result<Json<Node>, ApiError> {
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

fn view(NodeWithLoad { node, reserved, tasks, waiting }: NodeWithLoad) -> Node {
    Node {
        id: node.id,
        name: node.name,
        presence: node.presence,
        admission: node.admission,
        admission_note: node.admission_note,
        drain_deadline: node.drain_deadline,
        probe_at: node.probe_at,
        facts: node.facts,
        metrics: node.metrics,
        reserved,
        tasks,
        waiting,
        last_seen_at: node.last_seen_at,
        connected_since: node.connected_since,
        created_at: node.created_at,
    }
}
