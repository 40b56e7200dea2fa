//! A connection of the bench's own to the server that is measured, and what the server counts: statements, row writes, WAL.

use anyhow::Context as _;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};
use std::{collections::BTreeMap, str::FromStr, time::Duration};

/// PostgreSQL hands its counters on at most every second.
const COUNTERS_LAG: Duration = Duration::from_millis(1_200);

pub struct Database {
    pub connection: PgConnection,
}

/// What one statement cost, over all its calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    pub calls: i64,
    pub rows: i64,
    pub exec_ms: f64,
    pub wal_bytes: i64,
    /// Buffers read from memory or disk.
    pub buffers: i64,
}

/// Row writes of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub inserted: i64,
    pub updated: i64,
    /// Of the updated: those that touched no index.
    pub hot: i64,
    pub deleted: i64,
}

impl Writes {
    pub fn all(self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

/// By text.
pub type Statements = BTreeMap<String, Statement>;

/// Those that were called since `before`, and what they cost since.
pub fn called_since(now: &Statements, before: &Statements) -> Statements {
    let mut called = Statements::new();
    for (text, now) in now {
        let then = before.get(text).cloned().unwrap_or_default();
        let one = Statement {
            calls: now.calls - then.calls,
            rows: now.rows - then.rows,
            exec_ms: now.exec_ms - then.exec_ms,
            wal_bytes: now.wal_bytes - then.wal_bytes,
            buffers: now.buffers - then.buffers,
        };
        if one.calls > 0 {
            called.insert(text.clone(), one);
        }
    }
    called
}

/// Counters at one moment; the difference of two is what a run cost.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub statements: Statements,
    pub tables: BTreeMap<String, Writes>,
    pub wal_bytes: i64,
    pub commits: i64,
}

impl Database {
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("unidesk-bench");
        Ok(Self { connection: PgConnection::connect_with(&options).await? })
    }

    /// Runs statements that answer nothing.
    pub async fn run(&mut self, sql: &str) -> anyhow::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.connection)
            .await
            .with_context(|| format!("running {sql}"))?;
        Ok(())
    }

    pub async fn number(&mut self, sql: &str) -> anyhow::Result<i64> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut self.connection)
            .await
            .with_context(|| format!("asking {sql}"))
    }

    pub async fn setting(&mut self, name: &str) -> anyhow::Result<String> {
        Ok(sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&mut self.connection).await?)
    }

    /// The settings without which no figure means anything.
    pub async fn settings(&mut self) -> anyhow::Result<serde_json::Value> {
        let mut all = serde_json::Map::new();
        for name in ["server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"] {
            all.insert(name.to_owned(), self.setting(name).await?.into());
        }
        Ok(all.into())
    }

    /// Counters begin anew.
    pub async fn forget_statements(&mut self) -> anyhow::Result<()> {
        self.run("CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset();").await
    }

    /// Statements of this database so far, of all users or of one of them.
    pub async fn statements(&mut self, user: Option<&str>) -> anyhow::Result<Statements> {
        let rows = sqlx::query(
            "SELECT query, sum(calls)::bigint AS calls, sum(rows)::bigint AS rows, sum(total_exec_time) AS exec_ms,
                    sum(wal_bytes)::bigint AS wal_bytes, sum(shared_blks_hit + shared_blks_read)::bigint AS buffers
             FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
             JOIN pg_roles r ON r.oid = s.userid AND ($1::text IS NULL OR r.rolname = $1) GROUP BY query",
        )
        .bind(user)
        .fetch_all(&mut self.connection)
        .await
        .context("reading pg_stat_statements")?;
        let statement = |row: &PgRow| Statement {
            calls: row.get("calls"),
            rows: row.get("rows"),
            exec_ms: row.get("exec_ms"),
            wal_bytes: row.get("wal_bytes"),
            buffers: row.get("buffers"),
        };
        Ok(rows.iter().map(|row| (row.get("query"), statement(row))).collect())
    }

    /// Counters of this database as they stand once every process has handed its own on.
    pub async fn counters(&mut self) -> anyhow::Result<Counters> {
        tokio::time::sleep(COUNTERS_LAG).await;
        let mut counters = Counters { statements: self.statements(None).await?, ..Counters::default() };
        let rows = sqlx::query(
            "SELECT relname::text AS name, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del FROM pg_stat_user_tables",
        )
        .fetch_all(&mut self.connection)
        .await?;
        for row in rows {
            let writes = Writes {
                inserted: row.get("n_tup_ins"),
                updated: row.get("n_tup_upd"),
                hot: row.get("n_tup_hot_upd"),
                deleted: row.get("n_tup_del"),
            };
            counters.tables.insert(row.get("name"), writes);
        }
        counters.wal_bytes = self.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint").await?;
        counters.commits =
            self.number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").await?;
        Ok(counters)
    }
}

impl Counters {
    /// What was counted since `before`; statements and tables that nothing happened to are left out.
    pub fn since(&self, before: &Self) -> Self {
        let mut tables = BTreeMap::new();
        for (name, now) in &self.tables {
            let then = before.tables.get(name).copied().unwrap_or_default();
            let one = Writes {
                inserted: now.inserted - then.inserted,
                updated: now.updated - then.updated,
                hot: now.hot - then.hot,
                deleted: now.deleted - then.deleted,
            };
            if one.all() > 0 {
                tables.insert(name.clone(), one);
            }
        }
        Self {
            statements: called_since(&self.statements, &before.statements),
            tables,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            commits: self.commits - before.commits,
        }
    }

    pub fn row_writes(&self) -> i64 {
        self.tables.values().map(|writes| writes.all()).sum()
    }

    /// Statements that were sent, each a round trip or a part of one.
    pub fn calls(&self) -> i64 {
        self.statements.values().map(|statement| statement.calls).sum()
    }
}
