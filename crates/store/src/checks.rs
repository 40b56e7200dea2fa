//! What the database says of itself, for whoever asks whether this installation is well.

use crate::{Store, StoreError};
use domain::Timestamp;

/// Read in one statement: it costs as much as opening a few system views.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseFacts {
    /// As PostgreSQL writes it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// 150018 is 15.18.
    pub version_number: i32,
    pub fsync: bool,
    pub full_page_writes: bool,
    /// `on`, `local`, `remote_write`, `remote_apply` or `off`, as this connection has it.
    pub synchronous_commit: String,
    pub data_checksums: bool,
    pub max_connections: i32,
    /// Of all databases of this server.
    pub connections: i64,
    /// Bytes of this database on its disk.
    pub bytes: u64,
    pub now: Timestamp,
    /// Seconds since the leader that places tasks said that it is there. None: nobody ever led.
    pub scheduler_silent_s: Option<f64>,
    /// The same of the one that marks nodes offline.
    pub sweeper_silent_s: Option<f64>,
}

impl Store {
    pub async fn database_facts(&self) -> Result<DatabaseFacts, StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_setting('server_version') AS "version!", current_setting('server_version_num')::int AS "version_number!",
                      current_setting('fsync')::boolean AS "fsync!", current_setting('full_page_writes')::boolean AS "full_page_writes!",
                      current_setting('synchronous_commit') AS "synchronous_commit!",
                      current_setting('data_checksums')::boolean AS "data_checksums!",
                      current_setting('max_connections')::int AS "max_connections!",
                      (SELECT sum(numbackends) FROM pg_stat_database)::bigint AS "connections!",
                      pg_database_size(current_database()) AS "bytes!", clock_timestamp() AS "now!",
                      (SELECT extract(epoch FROM clock_timestamp() - GREATEST(renewed_at, '2020-01-01')) FROM leader WHERE role = 'scheduler')::float8
                        AS scheduler_silent_s,
                      (SELECT extract(epoch FROM clock_timestamp() - GREATEST(renewed_at, '2020-01-01')) FROM leader WHERE role = 'sweeper')::float8
                        AS sweeper_silent_s"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(DatabaseFacts {
            version: row.version,
            version_number: row.version_number,
            fsync: row.fsync,
            full_page_writes: row.full_page_writes,
            synchronous_commit: row.synchronous_commit,
            data_checksums: row.data_checksums,
            max_connections: row.max_connections,
            connections: row.connections,
            bytes: row.bytes.unsigned_abs(),
            now: row.now,
            scheduler_silent_s: row.scheduler_silent_s,
            sweeper_silent_s: row.sweeper_silent_s,
        })
    }
}
