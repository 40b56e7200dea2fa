//! Nodes that fell silent: what the sweep is shown, and what it decided, written. The decision is `domain::sweep`'s.

use crate::{Leadership, Store, StoreError, Topic, leader};
use domain::{
    Timestamp,
    ids::NodeId,
    sweep::{Alarm, Findings, Platform, Step},
};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// What the sweep decides from.
#[derive(Clone, Debug, PartialEq)]
pub struct Liveness {
    /// The database's clock.
    pub now: Timestamp,
    pub platform: Option<Platform>,
    /// Nodes that have been here and are neither offline nor revoked, with their last heartbeat.
    pub nodes: BTreeMap<NodeId, Timestamp>,
    /// The time that sweeps have measured.
    pub seen_ms: u64,
    /// When what a sweep wrote last was read, by the database's clock.
    pub read_at: Option<Timestamp>,
    /// The silence after which a node is offline.
    pub offline_after_ms: u64,
    /// Nodes among them whose exclusive work was leased when it was longer, and that are given that.
    pub longer: BTreeMap<NodeId, u64>,
}

impl Store {
    /// One statement, so that all of it is of one moment.
    ///
    /// Node by node by its key (that is what OFFSET 0 is for), and what is leased once for all: a plan that was made while nothing was
    /// leased yet, and kept, walked over everything that is held for each of ten thousand nodes.
    pub async fn liveness(&self) -> Result<Liveness, StoreError> {
        let row = sqlx::query!(
            r#"WITH here AS MATERIALIZED (
                 SELECT l.node_id, l.beat_at FROM node_live l
                 CROSS JOIN LATERAL (SELECT FROM nodes n WHERE n.id = l.node_id AND n.admission <> 'revoked' OFFSET 0) n
                 WHERE l.offline_since IS NULL AND l.beat_at IS NOT NULL
               ), leased AS MATERIALIZED (
                 SELECT a.node_id, max(a.offline_after_ms) AS ms FROM attempts a WHERE a.reserved AND a.offline_after_ms IS NOT NULL GROUP BY a.node_id
               )
               SELECT now() AS "now!", p.since AS "since?", p.renewed_at AS "renewed_at?", c.offline_after_ms, s.seen_ms, s.read_at,
                      ARRAY(SELECT node_id FROM here) AS "nodes!", ARRAY(SELECT beat_at FROM here) AS "beats!",
                      ARRAY(SELECT node_id FROM leased) AS "leased_on!", ARRAY(SELECT ms FROM leased) AS "leased_ms!"
               FROM cluster c CROSS JOIN sweep s LEFT JOIN platform_presence p ON true"#
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| StoreError::Corrupt("the row in cluster is missing".into()))?;
        let nodes: BTreeMap<NodeId, Timestamp> = row.nodes.into_iter().map(NodeId::from_uuid).zip(row.beats).collect();
        let leased = row.leased_on.into_iter().map(NodeId::from_uuid).zip(row.leased_ms);
        Ok(Liveness {
            now: row.now,
            platform: row.since.zip(row.renewed_at).map(|(since, renewed_at)| Platform { since, renewed_at }),
            longer: leased
                .filter(|(node, leased_ms)| *leased_ms > row.offline_after_ms && nodes.contains_key(node))
                .map(|(node, leased_ms)| (node, leased_ms as u64))
                .collect(),
            nodes,
            seen_ms: row.seen_ms as u64,
            read_at: row.read_at,
            offline_after_ms: row.offline_after_ms as u64,
        })
    }

    /// Writes what a sweep found in what was read at `as_of`. Returns who became offline: not a node whose heartbeat has arrived
    /// since then. Safe to repeat, also when it is not known whether it was written.
    pub async fn record_sweep(
        &self,
        leadership: &Leadership,
        as_of: Timestamp,
        findings: &Findings,
    ) -> Result<Vec<(NodeId, String)>, StoreError> {
        let mut transaction = self.begin().await?;
        leader::require(&mut transaction, leadership).await?;
        if let Some(step) = &findings.step {
            add_step(&mut transaction, step, as_of).await?;
        }
        measure(&mut transaction, findings.seen_ms, as_of).await?;
        let (ids, beats): (Vec<_>, Vec<_>) =
            findings.offline.iter().map(|(node, beat_at)| (node.as_uuid(), *beat_at)).unzip();
        // For people by the clock that the decision was made by: a step after it is added to this too.
        let rows = sqlx::query!(
            r#"UPDATE node_live l SET offline_since = $3, offline_at_ms = (SELECT seen_ms FROM sweep), connected = false
               FROM UNNEST($1::uuid[], $2::timestamptz[]) AS gone(id, beat_at) JOIN nodes n ON n.id = gone.id
               WHERE l.node_id = gone.id AND l.beat_at = gone.beat_at AND l.offline_since IS NULL RETURNING l.node_id, n.name"#,
            &ids,
            &beats,
            as_of
        )
        .fetch_all(&mut *transaction)
        .await?;
        if findings.alarm_changed {
            let alarm = findings.alarm;
            sqlx::query!(
                "UPDATE sweep SET alarm_silent = $1, alarm_of = $2, alarm_until = $3",
                alarm.map(|alarm| alarm.silent as i32),
                alarm.map(|alarm| alarm.of as i32),
                alarm.map(|alarm| alarm.until)
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        self.wakeups.publish(rows.iter().map(|row| Topic::Room(NodeId::from_uuid(row.node_id))));
        Ok(rows.into_iter().map(|row| (NodeId::from_uuid(row.node_id), row.name)).collect())
    }

    /// That many nodes fell silent at once, while it keeps them from being called offline.
    pub async fn silence_alarm(&self) -> Result<Option<Alarm>, StoreError> {
        // A sweeper that is away takes no alarm back.
        let row = sqlx::query!(
            r#"SELECT alarm_silent AS "silent!", alarm_of AS "of!", alarm_until AS "until!" FROM sweep WHERE alarm_until > now()"#
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Alarm { silent: row.silent as usize, of: row.of as usize, until: row.until }))
    }

    /// The platform is there: an api-gateway listens for nodes, and writes what they say. On the heartbeats' connections, so that it
    /// proves that these are written too.
    pub async fn renew_presence(&self, absent_after_ms: u64) -> Result<(), StoreError> {
        sqlx::query!(
            r#"INSERT INTO platform_presence AS p (since, renewed_at) VALUES (now(), now())
               ON CONFLICT (singleton) DO UPDATE SET renewed_at = now(), since = CASE
                 WHEN p.renewed_at BETWEEN now() - $1 * interval '1 millisecond' AND now() + $1 * interval '1 millisecond' THEN p.since
                 ELSE now() END"#,
            absent_after_ms as f64
        )
        .execute(&self.beats)
        .await?;
        Ok(())
    }
}

/// So much time has passed, in all: what waits for it to pass is looked at. A node that was revoked is not looked at by the sweep; it is
/// offline when its silence would have been noticed.
async fn measure(connection: &mut PgConnection, seen_ms: u64, as_of: Timestamp) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH seen AS (UPDATE sweep SET seen_ms = GREATEST(seen_ms, $1), read_at = $2 RETURNING seen_ms),
         gone AS (
           UPDATE node_live l SET offline_at_ms = s.seen_ms + CASE WHEN n.admission = 'revoked' THEN GREATEST(c.offline_after_ms,
             (SELECT max(a.offline_after_ms) FROM attempts a WHERE a.node_id = l.node_id AND a.reserved AND a.offline_after_ms IS NOT NULL)) ELSE 0 END
           FROM seen s, cluster c, nodes n WHERE n.id = l.node_id AND l.offline_since IS NOT NULL AND l.offline_at_ms IS NULL
         ),
         over AS (DELETE FROM exclusive_waits w USING seen s WHERE w.until_ms <= s.seen_ms)
         UPDATE exclusive_waits w SET until_ms = s.seen_ms + w.replace_after_ms + GREATEST(w.offline_after_ms, c.offline_after_ms)
         FROM seen s, cluster c WHERE w.until_ms IS NULL",
        seen_ms as i64,
        as_of
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The database's clock was set: what was stamped by the old clock and compared with the new one moves along. Once per step, and what
/// is known of it may grow.
async fn add_step(connection: &mut PgConnection, step: &Step, as_of: Timestamp) -> Result<(), StoreError> {
    let noted = sqlx::query!("SELECT step_since, step_ms FROM sweep FOR UPDATE").fetch_one(&mut *connection).await?;
    let added_ms = if noted.step_since == Some(step.since) { noted.step_ms } else { 0 };
    let more_ms = step.by_ms - added_ms;
    if more_ms == 0 {
        return Ok(());
    }
    sqlx::query!("UPDATE sweep SET step_since = $1, step_ms = $2", step.since, step.by_ms)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "UPDATE node_live SET offline_since = offline_since + $1 * interval '1 millisecond' WHERE offline_since IS NOT NULL",
        more_ms as f64
    )
    .execute(&mut *connection)
    .await?;
    // A retry that was to come after seconds would come after the step, and so would one whose wait was over and that found no place yet.
    // (One that was made since, and any after a step forward, comes at once, which harms nobody.) Who is being changed right now is left
    // alone: the sweep must not wait for anyone.
    if more_ms < 0 {
        sqlx::query!(
            r#"WITH waiting AS (SELECT task_id FROM task_state WHERE queued AND not_before > $2 FOR UPDATE SKIP LOCKED)
               UPDATE task_state t SET not_before = t.not_before + $1 * interval '1 millisecond' FROM waiting w WHERE t.task_id = w.task_id"#,
            more_ms as f64,
            as_of
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
