//! The only SQL of UniDesk: one function per business operation, its statement beside it.
//!
//! Owns: tables, transactions, row locks, wake-ups. Must not know: HTTP, sockets, Docker. The rules are `domain`'s: an operation
//! locks the rows, calls one function of [`domain::lifecycle`], and writes what it returned.
//! Begin at [`Store`]; then `attempts/record_reports.rs`, the way of everything that a node says.

mod access;
mod artifacts;
mod attempts;
mod backup;
mod carried;
mod census;
mod checks;
mod clock;
mod epoch;
mod error;
mod figures;
mod group;
mod groups;
mod invariants;
mod json;
mod leader;
mod limits;
mod logs;
mod nodes;
mod rows;
mod tasks;
mod wakeup;

pub use access::{
    api_keys::{ApiKeyRecord, NewApiKey},
    jwt_keys::JwtKey,
    node_tokens::{NewNodeToken, NodeTokenOwner, NodeTokenRecord, Revoked},
};
pub use artifacts::{
    checkpoints::CheckpointsWalked,
    common::CommonPart,
    complete::{CompletedArtifact, StoredObject},
    fsck::ArtifactObject,
    garbage::Garbage,
    list::{ArtifactFilter, ArtifactPage},
    outputs::{HeldTask, Holder, NotHeld},
    parts::{NotedParts, Part, UploadPlace},
    read::ArtifactView,
    remove::RemovedArtifact,
    reserve::{NewArtifact, Reserved},
    retention::{Due, RuleView, Walked},
};
pub use attempts::{
    commit_placements::CommitReport,
    outbox::{Look, Outbox, OutboxItem},
    queue_heads::{CLASSES_PER_LOOK, QueueHeads, QueueLook, QueuePlace},
    record_reports::{NodeReport, ReportVerdict, SessionReports},
};
pub use backup::{Contents, ServerFacts, Slot, WalProgress, is_empty_database};
pub use census::{Census, Waiting};
pub use checks::DatabaseFacts;
pub use epoch::{Restored, declare_restored};
pub use error::StoreError;
pub use group::Group;
pub use groups::{IdleSessions, Logs, Reports, Submissions, Tokens};
pub use invariants::{Depth, Finding, Outcome};
pub use leader::{Leadership, Role as LeaderRole};
pub use limits::in_time;
pub use logs::{
    append::{LogAck, Piece as LogPiece, SessionPieces},
    archive::{ArchiveError, ArchivedPiece, FramePlace, LogArchive},
    moving::{LogStretch, MovedLogs, NewPack, PackedPiece, WaitingLog, WaitingLogs},
    packs::LogPack,
    read::{LogChunk, LogRead, LogTail},
};
pub use nodes::{
    offline::Liveness,
    session::{OpenSession, Opened, SessionKey},
    view::NodeWithLoad,
};
pub use tasks::{
    cancel::Cancelled,
    claim_keys::{IdempotencyKey, RequestHash},
    expire::ExpiredTasks,
    feed::{FeedCursor, FeedPage},
    get::{AttemptView, TaskDetail, TaskView},
    history::EventRow,
    list::{ListCursor, TaskFilter, TaskList},
    queue::PLACES_COUNTED,
    retry::Retried,
    submit::{NewTask, Submission, Submitted},
};
pub use wakeup::{Subscription, Topic, Wakeups};

use sqlx::{
    Connection as _, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};

/// How often nodes beat, unless told otherwise; after three missed beats no new work is given.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// So many rows are few.
const FEW: usize = 16;

/// A connection that was idle for less need not be asked whether it lives.
const PRESUMED_ALIVE: Duration = Duration::from_secs(1);

/// A handle to the database: cheap to clone, shared by all loops of a process.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// For what is about few rows, as a lone task is: there a plan takes longer to make than to run, so it is made once and kept. For
    /// hundreds of rows one that knows how many is worth making.
    brisk: PgPool,
    /// Heartbeats never wait behind queries.
    beats: PgPool,
    /// For a connection outside of the pools.
    options: PgConnectOptions,
    wakeups: Wakeups,
    heartbeat_every: Duration,
    black_hole: domain::black_hole::Rule,
}

/// How to reach PostgreSQL.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host/db`, or with a socket: `postgres:///db?host=/run/dir&user=unidesk`.
    pub url: String,
    /// Connections for everything but heartbeats and what is about few rows, which have up to six more.
    pub max_connections: u32,
    /// Other processes share this database: wake-ups also travel by NOTIFY.
    pub shared: bool,
}

/// Makes a database where there is none of this name. `url` names another database of the same server. Safe to repeat.
pub async fn create_database(url: &str, name: &str) -> Result<(), StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(StoreError::BadUrl)?;
    let mut connection = sqlx::PgConnection::connect_with(&options).await?;
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut connection)
        .await?;
    if !is_there {
        let quoted = name.replace('"', "\"\"");
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""))).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

impl Store {
    /// Connects, or fails after 10 s with the reason.
    ///
    /// Refuses a server whose settings would lose acknowledged work: `fsync`, `full_page_writes` or `synchronous_commit` off.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let store = Self::connect_unchecked(config).await?;
        store.check_durability().await?;
        Ok(store)
    }

    /// As [`Store::connect`], for tests on a server that is allowed to forget.
    pub async fn connect_unchecked(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(&config.url).map_err(StoreError::BadUrl)?.application_name("unidesk");
        let options = options.options([
            ("statement_timeout", "15s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("jit", "off"),
            // A plan is made once for each connection and kept. Made while a table is small it would read all of it, and go on to do so
            // while the table grows: a platform that was just installed became ten times slower with each ten thousand tasks. Every
            // statement here is led by an index, so that is what a plan has to do from the first row on. (The audit reads whole tables
            // and says so itself.)
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            // To a planner that is told so, any table without an index seems so dear that other processes should help to read it: for
            // a count of three rows, two of them were started, in ten milliseconds.
            ("max_parallel_workers_per_gather", "0"),
        ]);
        let pool = |max| {
            let own = options.clone();
            PgPoolOptions::new()
                .max_connections(max)
                .acquire_timeout(Duration::from_secs(5))
                // Asking each connection whether it lives costs every operation a round trip; one that was just used lives.
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for >= PRESUMED_ALIVE {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(move |connection, _| {
                    let options = own.clone();
                    Box::pin(epoch::confirm(connection, options))
                })
                .after_release(|connection, _| Box::pin(limits::is_in_order(connection)))
        };
        let main = pool(config.max_connections).connect_with(options.clone()).await.map_err(StoreError::from)?;
        let beats = pool(2).connect_lazy_with(options.clone());
        let kept_plans = [("plan_cache_mode", "force_generic_plan"), ("enable_bitmapscan", "off")];
        let brisk = pool(4).connect_lazy_with(options.clone().options(kept_plans));
        figures::describe();
        let wakeups = Wakeups::new(config.shared.then(|| main.clone()));
        let (heartbeat_every, black_hole) = (HEARTBEAT_EVERY, Default::default());
        Ok(Self { pool: main, brisk, beats, options, wakeups, heartbeat_every, black_hole })
    }

    async fn check_durability(&self) -> Result<(), StoreError> {
        let unsafe_settings = sqlx::query_scalar!(
            r#"SELECT name AS "name!" FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name"#
        )
        .fetch_all(&self.pool)
        .await?;
        if unsafe_settings.is_empty() { Ok(()) } else { Err(StoreError::NotDurable(unsafe_settings)) }
    }

    /// A transaction. Safe to give up at any point, as is all that begins with one.
    ///
    /// Dropped between the order and its answer, the driver's own `begin` would give the connection back with the transaction open:
    /// what the next user writes there would not be committed when it is told so. Hence it is always carried to its end.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Self::begin_on(&self.pool).await
    }

    /// As [`Store::begin`], for an operation on so many rows.
    pub(crate) async fn begin_for(&self, rows: usize) -> Result<Transaction<'static, Postgres>, StoreError> {
        Self::begin_on(self.pool_for(rows)).await
    }

    /// Where an operation on so many rows is done.
    pub(crate) fn pool_for(&self, rows: usize) -> &PgPool {
        if rows <= FEW { &self.brisk } else { &self.pool }
    }

    async fn begin_on(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
        let connection = pool.acquire().await?;
        Ok(carried::to_its_end(Transaction::begin(connection, None)).await?)
    }

    /// Brings the schema to this version. Safe to repeat, and while others do the same.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // Waiting for another migrator, or for a large table, takes longer than a query may.
        let mut connection = self.pool.acquire().await?;
        sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await?;
        sqlx::query("SET lock_timeout = 0").execute(&mut *connection).await?;
        // `run` says the same, in a way that no spawned task may wait for.
        let outcome = MIGRATIONS.run_direct(None, &mut *connection, false).await.map_err(StoreError::Migration);
        // This connection keeps the settings of no other: it is closed, not returned.
        connection.close_on_drop();
        outcome?;
        self.confirm_identity().await
    }

    /// Whether the schema is at this version: (applied, known).
    pub async fn migration_state(&self) -> Result<(usize, usize), StoreError> {
        let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success")
            .fetch_one(&self.pool)
            .await
            .unwrap_or(0);
        Ok((applied as usize, MIGRATIONS.iter().count()))
    }

    /// Counts the connections of this process.
    pub fn measure(&self) {
        for (name, pool) in [("main", &self.pool), ("brisk", &self.brisk), ("heartbeats", &self.beats)] {
            figures::connections(name, pool.size(), pool.num_idle());
        }
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!("SELECT 1 AS one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// With nodes that beat this often. All services of an installation must be told the same.
    pub fn with_heartbeat(self, every: Duration) -> Self {
        Self { heartbeat_every: every, ..self }
    }

    pub fn heartbeat_every(&self) -> Duration {
        self.heartbeat_every
    }

    /// Silent for so long, a node is taken for gone: it gets no new work, and another installation may use its token.
    pub(crate) fn silence_s(&self) -> f64 {
        3.0 * self.heartbeat_every.as_secs_f64()
    }

    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// Waits until what runs has ended, then closes every connection.
    pub async fn close(&self) {
        self.beats.close().await;
        self.brisk.close().await;
        self.pool.close().await;
    }
}
