//! What a backup has to know of the server, and of what is in it.

use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::str::FromStr;

/// The server as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    pub major_version: u32,
    /// Of the cluster, given once when it was made; a copy of its files has the same.
    pub system_identifier: String,
    /// Another one after each recovery and failover.
    pub timeline: String,
    /// Of this database.
    pub bytes: u64,
    /// Of all databases of the server.
    pub server_bytes: u64,
    /// The role may copy files and receive the log.
    pub may_replicate: bool,
    /// The log that is kept for whoever does not fetch it: -1, however much that is.
    pub slot_keeps_mb: i64,
    pub role: String,
    pub database: String,
}

/// How far whoever receives the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalProgress {
    /// Written by the server, in bytes since the cluster was made.
    pub written: i64,
    /// Received. None: nobody is receiving.
    pub received: Option<i64>,
    pub slot: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Missing,
    Kept,
    /// More was waiting for it than is kept: the server has removed some.
    Lost,
}

/// What a restored database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub tasks: u64,
    pub last_event_at: Option<DateTime<Utc>>,
    pub epoch: i32,
}

/// Whether there are no tables. For a target that nothing may be lost in.
pub async fn is_empty_database(url: &str) -> Result<bool, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(StoreError::BadUrl)?.application_name("unidesk backup");
    let mut connection = PgConnection::connect_with(&options).await?;
    let is_empty = sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')) AS "is_empty!""#
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok(is_empty)
}

impl Store {
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_setting('server_version_num')::integer / 10000 AS "major!", s.system_identifier::text AS "system_identifier!",
                      left(pg_walfile_name(pg_current_wal_lsn()), 8) AS "timeline!", pg_database_size(current_database()) AS "bytes!",
                      (SELECT sum(pg_database_size(oid)) FROM pg_database)::bigint AS "server_bytes!",
                      (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS "may_replicate!",
                      (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS "slot_keeps_mb!",
                      current_user::text AS "role!", current_database()::text AS "database!"
               FROM pg_control_system() s"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(ServerFacts {
            major_version: row.major.unsigned_abs(),
            system_identifier: row.system_identifier,
            timeline: row.timeline,
            bytes: row.bytes.unsigned_abs(),
            server_bytes: row.server_bytes.unsigned_abs(),
            may_replicate: row.may_replicate,
            slot_keeps_mb: row.slot_keeps_mb,
            role: row.role,
            database: row.database,
        })
    }

    pub async fn wal_progress(&self, slot: &str) -> Result<WalProgress, StoreError> {
        let row = sqlx::query!(
            r#"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS "written!", s.wal_status AS "wal_status?",
                      pg_wal_lsn_diff(r.write_lsn, '0/0')::bigint AS received
               FROM (SELECT) AS one LEFT JOIN pg_replication_slots s ON s.slot_name = $1 LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid"#,
            slot
        )
        .fetch_one(&self.pool)
        .await?;
        let slot = match row.wal_status.as_deref() {
            None => Slot::Missing,
            Some("lost") => Slot::Lost,
            Some(_) => Slot::Kept,
        };
        Ok(WalProgress { written: row.written, received: row.received, slot })
    }

    /// Lets the server remove what waits for this slot. Safe to repeat.
    pub async fn drop_wal_slot(&self, slot: &str) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", slot)
            .fetch_optional(&self.pool)
            .await?;
        Ok(())
    }

    /// Counts, so it is for databases that do nothing else.
    pub async fn contents(&self) -> Result<Contents, StoreError> {
        let row = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM tasks) AS "tasks!", (SELECT at FROM task_events ORDER BY id DESC LIMIT 1) AS last_event_at, epoch
               FROM cluster"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Contents { tasks: row.tasks.unsigned_abs(), last_event_at: row.last_event_at, epoch: row.epoch })
    }
}
