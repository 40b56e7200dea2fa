//! How a node was present, for judging why an attempt on it went wrong.

use crate::StoreError;
use domain::{
    Timestamp,
    ids::NodeId,
    poison::{self, Presence},
};

/// Read when an attempt is lost or ended by its node, which is rare.
pub(crate) async fn presence_of(connection: &mut sqlx::PgConnection, node: NodeId) -> Result<Presence, StoreError> {
    let Some(row) = sqlx::query!(
        r#"SELECT CASE WHEN offline_since IS NULL THEN away_from ELSE beat_at END AS last_beat,
                  -- Who was revoked did not go down: a person took it away.
                  CASE WHEN n.admission = 'revoked' THEN n.created_at WHEN offline_since IS NULL THEN connected_since END AS session_since,
                  now() AS "now!"
           FROM node_live JOIN nodes n ON n.id = node_id WHERE node_id = $1"#,
        node.as_uuid()
    )
    .fetch_optional(&mut *connection)
    .await?
    else {
        return Ok(Presence::default());
    };
    let at = row.last_beat.unwrap_or(row.now);
    // When each node that is away, or was, was last heard before that.
    let losses: Vec<Timestamp> = sqlx::query_scalar!(
        r#"SELECT moment AS "moment!" FROM (SELECT CASE WHEN offline_since IS NULL THEN away_from ELSE beat_at END AS moment
             FROM node_live JOIN nodes n ON n.id = node_id WHERE n.admission <> 'revoked') AS away
           WHERE moment BETWEEN $1::timestamptz - make_interval(secs => $2) AND $1::timestamptz + make_interval(secs => $2)"#,
        at,
        poison::MASS_WINDOW.num_seconds() as f64
    )
    .fetch_all(connection)
    .await?;
    Ok(Presence {
        last_beat: row.last_beat,
        session_since: row.session_since,
        is_mass_event: poison::is_mass_event(at, &losses),
    })
}
