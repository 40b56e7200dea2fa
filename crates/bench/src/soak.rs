//! Half an hour at full speed while old tasks are deleted: does the database stay bounded? No table may have been larger in the second half
//! than in the first, whatever went through it. Single moments are not compared: a table breathes between two vacuums.

use crate::{
    audit,
    database::Database,
    load,
    platform::{Options, Platform},
    report::{Record, median, round},
};
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
/// Of a table's bytes: what the heights of two waves may differ by.
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
    audit::is_clean(&platform.client).await?;
    let record = describe(args, submitted, &moments).with("audit", "clean");
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
    let (before, after) = moments.split_at(moments.len() / 2 + 1);
    for (name, end) in &last.sizes {
        let (before, after) = (largest(before, name), largest(after, name));
        if before.max(after) < 1 << 20 {
            continue;
        }
        if has_grown(before, after) {
            grew.push(name.clone());
        }
        record = record.with(
            &format!("table {name}"),
            json!({
                "mb_at_most_in_the_first_half": mb(before), "mb_at_most_in_the_second": mb(after), "mb_at_the_end": mb(end.bytes()),
                "of_these_indexes": mb(end.indexes), "live_rows": end.live, "dead_rows": end.dead,
            }),
        );
    }
    let is_bounded = if grew.is_empty() { "yes".to_owned() } else { format!("no: {}", grew.join(", ")) };
    record.with("bounded", is_bounded)
}

/// Bytes of a table with its indexes, at most.
fn largest(moments: &[Moment], table: &str) -> i64 {
    moments.iter().filter_map(|moment| moment.sizes.get(table)).map(|size| size.bytes()).max().unwrap_or(0)
}

/// Whether what was a table's most before is less than what it was afterwards, beyond chance.
fn has_grown(before: i64, after: i64) -> bool {
    let growth = after - before;
    growth > SMALL && growth as f64 > SWING * before as f64
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

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(megabytes: &[i64]) -> Vec<Moment> {
        let size = |mb: i64| Size { table: mb << 20, ..Size::default() };
        let moment = |mb: &i64| Moment {
            sizes: [("tasks".to_owned(), size(*mb))].into(),
            buffers: 0,
            deleted: 0,
            wal_bytes: 0,
            ended: 0,
            at: Instant::now(),
        };
        megabytes.iter().map(moment).collect()
    }

    fn is_bounded(megabytes: &[i64]) -> bool {
        let moments = moments(megabytes);
        let (before, after) = moments.split_at(moments.len() / 2 + 1);
        !has_grown(largest(before, "tasks"), largest(after, "tasks"))
    }

    #[test]
    fn what_comes_and_goes_is_bounded_and_what_only_comes_is_not() {
        assert!(is_bounded(&[0, 413, 823, 823, 485, 702, 433, 456, 583, 719, 527, 636, 595]), "waves");
        assert!(!is_bounded(&[0, 100, 120, 140, 160, 180, 200]), "a slope");
        assert!(!is_bounded(&[0, 400, 100, 400, 100, 500, 200]), "waves that grow");
        assert!(is_bounded(&[0, 1, 1, 2, 3, 3, 4]), "some pages");
    }
}
