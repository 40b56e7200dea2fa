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
