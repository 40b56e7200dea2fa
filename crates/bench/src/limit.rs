//! What the same PostgreSQL could do at best: a frozen reference pipeline of four row writes a task (insert, claim, running, done),
//! in batches. Its statements are never the platform's own, so that a change of those can't move the measure.

use crate::database::Database;
use anyhow::Context as _;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

const DATABASE: &str = "reference";
/// Pipelines at once: while one waits for the disk, the others work.
const CONNECTIONS: usize = 4;
/// What a task's row carries besides: a short command.
const SPEC: &str = r#"{"command": ["true"], "executor": "noop"}"#;

const SCHEMA: &str = "
    DROP TABLE IF EXISTS reference;
    CREATE TABLE reference (
        id         uuid PRIMARY KEY,
        spec       text NOT NULL,
        waiting    boolean NOT NULL,
        state      smallint NOT NULL,
        node       integer,
        claimed_at timestamptz,
        started_at timestamptz,
        ended_at   timestamptz,
        exit_code  integer
    ) WITH (fillfactor = 70);
    CREATE INDEX reference_waiting ON reference (id) WHERE waiting;";
const INSERT: &str = "INSERT INTO reference (id, spec, waiting, state) SELECT id, spec, true, 0 FROM UNNEST($1::uuid[], $2::text[]) AS t(id, spec)";
const CLAIM: &str = "UPDATE reference SET waiting = false, state = 1, node = 1, claimed_at = now()
     WHERE id = ANY (ARRAY(SELECT id FROM reference WHERE waiting ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id";
const RUNNING: &str = "UPDATE reference SET state = 2, started_at = now() WHERE id = ANY($1::uuid[])";
const DONE: &str = "UPDATE reference SET state = 3, ended_at = now(), exit_code = 0 WHERE id = ANY($1::uuid[])";

/// The server's own answer, and how long one row's commit took meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub tasks_per_s: f64,
}

/// Makes the database of the reference, once per server. `url_of`: of a database by its name.
pub async fn prepare(url_of: impl Fn(&str) -> String) -> anyhow::Result<String> {
    let mut postgres = Database::connect(&url_of("postgres")).await?;
    if postgres.number(&format!("SELECT count(*) FROM pg_database WHERE datname = '{DATABASE}'")).await? == 0 {
        postgres.run(&format!("CREATE DATABASE {DATABASE}")).await?;
    }
    Ok(url_of(DATABASE))
}

/// Runs `tasks` through the pipeline on an empty table.
pub async fn run(url: &str, tasks: usize, batch: usize) -> anyhow::Result<Limit> {
    Database::connect(url).await?.run(SCHEMA).await?;
    let share = tasks.div_ceil(CONNECTIONS);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut database = Database::connect(url).await?;
        // Plans that do not depend on when the table was analysed.
        database.run("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off").await?;
        connections.push(database);
    }
    let began = Instant::now();
    let mut pipelines = JoinSet::new();
    for database in connections {
        pipelines.spawn(pipeline(database, share, batch));
    }
    let mut done = 0;
    while let Some(ended) = pipelines.join_next().await {
        done += ended.context("a pipeline of the reference")??;
    }
    let took = began.elapsed();
    anyhow::ensure!(done == share * CONNECTIONS, "the reference finished {done} of {} tasks", share * CONNECTIONS);
    let recorded =
        Database::connect(url).await?.number("SELECT count(*) FROM reference WHERE ended_at IS NOT NULL").await?;
    anyhow::ensure!(recorded as usize == done, "the reference recorded {recorded} of {done} tasks");
    Ok(Limit { tasks_per_s: done as f64 / took.as_secs_f64() })
}

/// Four commits for each batch. Claims what waits longest, whoever put it there.
async fn pipeline(mut database: Database, tasks: usize, batch: usize) -> anyhow::Result<usize> {
    let connection = &mut database.connection;
    let mut left = tasks;
    let mut done = 0;
    while left > 0 {
        let count = batch.min(left);
        left -= count;
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        sqlx::query(INSERT).bind(&ids).bind(vec![SPEC; count]).execute(&mut *connection).await?;
        let claimed: Vec<Uuid> =
            sqlx::query_scalar(CLAIM).bind(count as i64).fetch_all(&mut *connection).await.context("claiming")?;
        sqlx::query(RUNNING).bind(&claimed).execute(&mut *connection).await?;
        done += sqlx::query(DONE).bind(&claimed).execute(&mut *connection).await?.rows_affected() as usize;
    }
    // What another one put there and this one's claims left.
    loop {
        let claimed: Vec<Uuid> = sqlx::query_scalar(CLAIM).bind(batch as i64).fetch_all(&mut *connection).await?;
        if claimed.is_empty() {
            return Ok(done);
        }
        sqlx::query(RUNNING).bind(&claimed).execute(&mut *connection).await?;
        done += sqlx::query(DONE).bind(&claimed).execute(&mut *connection).await?.rows_affected() as usize;
    }
}

/// Commits of one row, one after another: the latency below which no durable step can go.
pub async fn commits(url: &str, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut one = OneRow::prepare(url).await?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        took.push(one.commit().await?);
    }
    Ok(took)
}

/// One durable row at a time.
pub struct OneRow {
    database: Database,
}

impl OneRow {
    pub async fn prepare(url: &str) -> anyhow::Result<Self> {
        let mut database = Database::connect(url).await?;
        database.run(SCHEMA).await?;
        Ok(Self { database })
    }

    pub async fn commit(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        sqlx::query(INSERT).bind(vec![Uuid::now_v7()]).bind(vec![SPEC]).execute(&mut self.database.connection).await?;
        Ok(began.elapsed())
    }
}
