//! What failed on a node lately. Only nodes on which something failed have a row, so the success of a healthy one writes nothing.

use crate::{
    StoreError,
    json::{JsonText, read_json, write_json},
};
use domain::{black_hole::NodeFaults, ids::NodeId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Reads and locks the records of these nodes. The rows of tasks are locked before, never after.
pub(crate) async fn lock_faults(
    connection: &mut sqlx::PgConnection,
    nodes: &[Uuid],
) -> Result<BTreeMap<NodeId, NodeFaults>, StoreError> {
    sqlx::query!(r#"SELECT node_id, record AS "record: JsonText" FROM node_faults WHERE node_id = ANY($1) ORDER BY node_id FOR UPDATE"#, nodes)
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok((NodeId::from_uuid(row.node_id), read_json(row.record)?)))
        .collect()
}

/// Waits until no other transaction is about to write what these nodes failed. A node's first failure finds no row to lock, and two first
/// failures that are told at one time must both count. Before [`lock_faults`], whose look then sees what the other wrote.
pub(crate) async fn lock_failing(connection: &mut sqlx::PgConnection, nodes: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        r#"SELECT pg_advisory_xact_lock(hashtextextended(node::text, 0)) AS "lock!: ()" FROM UNNEST($1::uuid[]) AS failing(node) ORDER BY node"#,
        nodes
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// None: nothing is kept of a node that is well.
pub(crate) async fn save_faults(
    connection: &mut sqlx::PgConnection,
    node: NodeId,
    record: Option<&NodeFaults>,
) -> Result<(), StoreError> {
    match record {
        Some(record) => sqlx::query!(
            "INSERT INTO node_faults (node_id, record) VALUES ($1, $2) ON CONFLICT (node_id) DO UPDATE SET record = $2",
            node.as_uuid(),
            write_json(record) as JsonText
        )
        .execute(connection)
        .await?,
        None => sqlx::query!("DELETE FROM node_faults WHERE node_id = $1", node.as_uuid()).execute(connection).await?,
    };
    Ok(())
}
