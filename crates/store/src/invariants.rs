//! What always holds, asked of the live database: each invariant is a statement that finds the rows that break it, so a sound
//! database gives none. People ask through `unidesk audit`; a periodic pass asks the cheap ones.
//!
//! To add one: a sentence and a statement in the file of its concept, and a test that breaks it by hand.

mod artifacts;
mod attempts;
mod history;
mod logs;
mod nodes;
mod tasks;

use crate::{Store, StoreError};
use futures::{StreamExt, stream::BoxStream};
use sqlx::{Acquire, PgConnection};
use std::time::{Duration, Instant};

/// How many rows are shown of those that break an invariant.
const SHOWN: usize = 20;

/// What an audit looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What lives: cheap whatever the history, so it may run every few minutes.
    Living,
    /// Everything that was ever recorded.
    Whole,
}

type Broken<'a> = BoxStream<'a, Result<String, StoreError>>;

/// One thing that always holds.
struct Invariant {
    id: &'static str,
    says: &'static str,
    depth: Depth,
    broken: for<'a> fn(&'a mut PgConnection) -> Broken<'a>,
}

/// An invariant whose breaches one statement names, a text each. The statement is checked at compile time.
macro_rules! invariant {
    ($depth:ident, $id:literal, $says:literal, $statement:literal) => {
        $crate::invariants::Invariant {
            id: $id,
            says: $says,
            depth: $crate::invariants::Depth::$depth,
            broken: |connection| {
                futures::StreamExt::boxed(futures::TryStreamExt::err_into(
                    sqlx::query_scalar!($statement).fetch(connection),
                ))
            },
        }
    };
}
use invariant;

/// What an audit says about one invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The stable name, for alerts and tests.
    pub id: &'static str,
    /// What holds, in one sentence.
    pub says: &'static str,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    /// These rows break it, and so many more.
    Broken {
        rows: Vec<String>,
        more: u64,
    },
    /// It could not be looked at, for this reason.
    Unknown(String),
}

impl Outcome {
    /// How many rows break it.
    pub fn count(&self) -> u64 {
        match self {
            Self::Broken { rows, more } => rows.len() as u64 + more,
            Self::Holds | Self::Unknown(_) => 0,
        }
    }
}

/// Every invariant that has tables today, in the order in which an audit tells of them.
fn all() -> impl Iterator<Item = &'static Invariant> {
    [tasks::INVARIANTS, attempts::INVARIANTS, nodes::INVARIANTS, logs::INVARIANTS, artifacts::INVARIANTS]
        .into_iter()
        .flatten()
}

impl Store {
    /// Checks the invariants in one snapshot, so that what changes meanwhile is seen wholly or not at all. What is not done
    /// `within` this time is `Unknown`. Reads only; safe beside everything.
    pub async fn audit(&self, depth: Depth, within: Duration) -> Result<Vec<Finding>, StoreError> {
        let until = Instant::now() + within;
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let mut findings = Vec::new();
        for invariant in all().filter(|invariant| invariant.depth <= depth) {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = if left < Duration::from_millis(1) {
                Outcome::Unknown("no time was left for it".into())
            } else {
                // What a statement spoils is rolled back with its savepoint.
                let mut step = transaction.begin().await?;
                let outcome = check(&mut step, invariant, left).await?;
                step.rollback().await?;
                outcome
            };
            findings.push(Finding { id: invariant.id, says: invariant.says, outcome });
        }
        transaction.rollback().await?;
        Ok(findings)
    }

    /// How many rows break each of the cheap invariants: zeros in a sound database. For the periodic pass and for metrics.
    pub async fn audit_counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let findings = self.audit(Depth::Living, Duration::from_secs(10)).await?;
        Ok(findings.into_iter().map(|finding| (finding.id, finding.outcome.count())).collect())
    }
}

async fn check(connection: &mut PgConnection, invariant: &Invariant, within: Duration) -> Result<Outcome, StoreError> {
    let milliseconds = within.as_millis().to_string();
    // Whole tables are compared here: with plans for that, unlike all else.
    sqlx::query!(
        "SELECT set_config('statement_timeout', $1, true) AS within, set_config('enable_seqscan', 'on', true) AS by_scan,
                set_config('enable_hashjoin', 'on', true) AS by_hash, set_config('enable_mergejoin', 'on', true) AS by_merge,
                set_config('max_parallel_workers_per_gather', '2', true) AS by_many",
        milliseconds
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut rows = Vec::new();
    let mut more = 0;
    let mut broken = (invariant.broken)(connection);
    while let Some(row) = broken.next().await {
        match row {
            Ok(row) if rows.len() < SHOWN => rows.push(row),
            Ok(_) => more += 1,
            Err(error) if error.is_timeout() => {
                return Ok(Outcome::Unknown(format!("it took longer than {} s", within.as_secs())));
            }
            // A row that the statement itself can't read is no sound one.
            Err(error @ (StoreError::Statement(_) | StoreError::Corrupt(_))) => {
                rows.push(format!("rows can't be read: {}", error.chain()));
                return Ok(Outcome::Broken { rows, more });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(if rows.is_empty() { Outcome::Holds } else { Outcome::Broken { rows, more } })
}
