//! Half an hour at full speed while old tasks are deleted: does the database stay bounded? Between the middle and the end no table may
//! have grown, whatever went through it.

use crate::{
    database::Database,
    load,
    platform::{Options, Platform},
    report::{Record, median, round},
};
use api_types::audit::InvariantState;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How long tasks are submitted
    #[arg(long, default_value_t = 30)]
    pub minutes: u64,
    /// Seconds after its end at which a task is deleted
    #[arg(long, default_value_t = 60)]
    pub retention_s: u64,
    /// Simulated nodes
    #[arg(long, default_value_t = 16)]
    pub nodes: u32,
    /// Tasks that a node takes at once
    #[arg(long, default_value_t = 64)]
    pub slots: u64,
    /// Submit with idempotency keys, which are kept for a week whatever happens to their tasks
    #[arg(long)]
    pub keys: bool,
    #[command(flatten)]
    pub platform: Options,
}

const PER_REQUEST: usize = 1_000;
/// Submitted and not yet ended: enough that nobody waits for work.
const UNDER_WAY: u64 = 10_000;
const WITHIN: Duration = Duration::from_secs(300);
/// A table that is smaller may grow by some pages.
const SMALL: i64 = 4 << 20;
/// Of a table's bytes at the middle: what comes and goes between two vacuums.
const SWING: f64 = 0.10;

/// A table with its indexes and what is out of line.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    table: i64,
    indexes: i64,
    live: i64,
    dead: i64,
}

impl Size {
    fn bytes(self) -> i64 {
        self.table + self.indexes
    }
}

/// The database at one moment.
struct Moment {
    sizes: BTreeMap<String, Size>,
    buffers: i64,
    deleted: i64,
    wal_bytes: i64,
    ended: u64,
    at: Instant,
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let options = Options { task_retention_s: Some(args.retention_s), ..args.platform.clone() };
    let mut platform = Platform::start(&options).await?;
    let mut nodes = platform.start_nodes(args.nodes, args.slots).await?;
    let mut database = platform.database().await?;
    let whole = Duration::from_secs(60 * args.minutes.max(2));
    let body = load::task("soak", &json!({}));
    let began = Instant::now();
    let figures = || nodes.figures().ended;
    let submitting = async {
        let mut submitted = 0;
        while began.elapsed() < whole {
            if submitted - figures() > UNDER_WAY {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let shape =
                load::Shape { tasks: 4 * PER_REQUEST, batch: PER_REQUEST, clients: 4, keys: args.keys, goes_on: false };
            load::submit(platform.server, &platform.admin_token, &body, shape).await?;
            submitted += shape.tasks as u64;
        }
        anyhow::Ok(submitted)
    };
    let watching = async {
        let mut moments = vec![moment(&mut database, figures()).await?];
        while began.elapsed() < whole {
            let next = Duration::from_secs(60) * moments.len() as u32;
            tokio::time::sleep(next.saturating_sub(began.elapsed())).await;
            moments.push(moment(&mut database, figures()).await?);
            if let [.., before, now] = &moments[..] {
                tell(moments.len() - 1, before, now);
            }
        }
        anyhow::Ok(moments)
    };
    let (submitted, moments) = tokio::join!(submitting, watching);
    let (submitted, moments) = (submitted?, moments?);
    nodes
        .until("every end is acknowledged and released", WITHIN, |now| now.ended >= submitted && now.attempts == 0)
        .await?;
    let failed =
        database.number("SELECT count(*) FROM task_state WHERE state <> 'succeeded' AND ended_at IS NOT NULL").await?;
    anyhow::ensure!(failed == 0, "{failed} tasks did not succeed");
    let gone = platform.client.audit().await?;
    let broken: Vec<&str> =
        gone.invariants.iter().filter(|one| one.state != InvariantState::Holds).map(|one| one.id.as_str()).collect();
    let record = describe(args, submitted, &moments).with(
        "audit",
        if broken.is_empty() { "clean".to_owned() } else { format!("not clean: {}", broken.join(", ")) },
    );
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}

fn describe(args: &Args, submitted: u64, moments: &[Moment]) -> Record {
    let rates: Vec<f64> = moments.windows(2).map(|pair| rate(&pair[0], &pair[1])).collect();
    let (first, last) = (&moments[0], &moments[moments.len() - 1]);
    let middle = &moments[moments.len() / 2];
    let mut grew = Vec::new();
    let mut record = Record::new("soak")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("minutes", args.minutes)
        .with("retention_s", args.retention_s)
        .with("idempotency_keys", args.keys)
        .with("tasks", submitted)
        .number("tasks_per_s_median_of_minutes", median(&rates))
        .number("tasks_per_s_first_minute", rates.first().copied().unwrap_or_default())
        .number("tasks_per_s_last_minute", rates.last().copied().unwrap_or_default())
        // Of the second half, in which as many are deleted as end: a task's whole life.
        .number(
            "wal_bytes_per_task",
            (last.wal_bytes - middle.wal_bytes) as f64 / (last.ended - middle.ended).max(1) as f64,
        )
        .number("rows_deleted_per_s", (last.deleted - first.deleted) as f64 / (last.at - first.at).as_secs_f64());
    for (name, end) in &last.sizes {
        let then = middle.sizes.get(name).copied().unwrap_or_default();
        let growth = end.bytes() - then.bytes();
        if end.bytes() < 1 << 20 && then.bytes() < 1 << 20 {
            continue;
        }
        if growth > SMALL && growth as f64 > SWING * then.bytes() as f64 {
            grew.push(name.clone());
        }
        record = record.with(
            &format!("table {name}"),
            json!({
                "mb_at_the_middle": mb(then.bytes()), "mb_at_the_end": mb(end.bytes()), "of_these_indexes": mb(end.indexes),
                "growth_bytes": growth, "live_rows": end.live, "dead_rows": end.dead,
            }),
        );
    }
    let is_bounded = if grew.is_empty() { "yes".to_owned() } else { format!("no: {}", grew.join(", ")) };
    record.with("bounded", is_bounded)
}

fn rate(before: &Moment, now: &Moment) -> f64 {
    (now.ended - before.ended) as f64 / (now.at - before.at).as_secs_f64()
}

fn mb(bytes: i64) -> Value {
    round(bytes as f64 / 1e6).into()
}

fn tell(minute: usize, before: &Moment, now: &Moment) {
    let tasks = (now.ended - before.ended).max(1) as f64;
    let mut sizes: Vec<(&String, &Size)> = now.sizes.iter().collect();
    sizes.sort_by_key(|(_, size)| -size.bytes());
    let shown: Vec<String> = sizes
        .iter()
        .take(6)
        .map(|(name, size)| {
            format!("{name} {}+{} MB, {} dead", size.table / 1_000_000, size.indexes / 1_000_000, size.dead)
        })
        .collect();
    eprintln!(
        "minute {minute}: {:.0} tasks/s, {:.1} rows deleted and {:.0} buffers a task; {}",
        rate(before, now),
        (now.deleted - before.deleted) as f64 / tasks,
        (now.buffers - before.buffers) as f64 / tasks,
        shown.join("; ")
    );
}

async fn moment(database: &mut Database, ended: u64) -> anyhow::Result<Moment> {
    let rows: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, pg_table_size(relid), pg_indexes_size(relid), n_live_tup, n_dead_tup FROM pg_stat_user_tables",
    )
    .fetch_all(&mut database.connection)
    .await?;
    let sizes = rows
        .into_iter()
        .map(|(name, table, indexes, live, dead)| (name, Size { table, indexes, live, dead }))
        .collect();
    let of_database =
        |what: &str| format!("SELECT ({what})::bigint FROM pg_stat_database WHERE datname = current_database()");
    Ok(Moment {
        sizes,
        buffers: database.number(&of_database("blks_hit + blks_read")).await?,
        deleted: database.number(&of_database("tup_deleted")).await?,
        wal_bytes: database.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint").await?,
        ended,
        at: Instant::now(),
    })
}
