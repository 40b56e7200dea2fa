//! Rows by the hundred thousand: copies of a task that went the product's own way, made inside the database. No other state is
//! written past the API; what is measured afterwards goes the whole way.

use crate::database::Database;
use anyhow::Context as _;
use domain::ids::TaskId;
use sqlx::AssertSqlSafe;

/// Rows of one statement, so that no transaction grows without bound.
const PER_STATEMENT: usize = 50_000;

/// Tables that know a task, with the columns that get an id of the copy's own. One that this version does not have is left out.
const TABLES: [(&str, &[(&str, &str)]); 5] = [
    ("tasks", &[("id", "task")]),
    ("task_state", &[("task_id", "task")]),
    ("attempts", &[("id", "attempt"), ("task_id", "task")]),
    ("task_events", &[("task_id", "task")]),
    ("log_heads", &[("attempt_id", "attempt")]),
];

/// Makes so many copies of the task, with all rows of its own, and lets the planner know.
pub async fn copies(database: &mut Database, template: TaskId, count: usize) -> anyhow::Result<()> {
    // Ids that grow with time, as the product's.
    database
        .run(
            "CREATE OR REPLACE FUNCTION pg_temp.id_of_now() RETURNS uuid LANGUAGE sql VOLATILE AS $$
               SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' ||
                       substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid $$",
        )
        .await?;
    let mut left = count;
    while left > 0 {
        let now = left.min(PER_STATEMENT);
        left -= now;
        database
            .run(&format!(
                "DROP TABLE IF EXISTS pg_temp.copies;
                 CREATE TEMP TABLE copies AS SELECT pg_temp.id_of_now() AS task, pg_temp.id_of_now() AS attempt FROM generate_series(1, {now})"
            ))
            .await?;
        for (table, ids) in TABLES {
            copy(database, table, ids, template).await.with_context(|| format!("copying into {table}"))?;
        }
    }
    database.run("ANALYZE").await
}

/// As it would stand after a while: rows that were just made cost whoever comes next their first vacuum, and the disk their first write.
pub async fn settle(database: &mut Database) -> anyhow::Result<()> {
    database.run("VACUUM (ANALYZE)").await?;
    database.run("CHECKPOINT").await
}

async fn copy(database: &mut Database, table: &str, ids: &[(&str, &str)], template: TaskId) -> anyhow::Result<()> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name = $1 AND is_identity = 'NO' AND is_generated = 'NEVER' ORDER BY ordinal_position",
    )
    .bind(table)
    .fetch_all(&mut database.connection)
    .await?;
    if columns.is_empty() {
        return Ok(());
    }
    let own = |column: &String| ids.iter().find(|(id, _)| id == column).map(|(_, of)| *of);
    let values: Vec<String> =
        columns.iter().map(|column| own(column).map_or(format!("t.{column}"), |of| format!("c.{of}"))).collect();
    // Which rows are the template's: by its own id, or by that of its attempts.
    let is_of_task = ids.iter().find(|(_, of)| *of == "task").map(|(column, _)| format!("t.{column} = '{template}'"));
    let is_its = is_of_task.unwrap_or_else(|| {
        let (column, _) = ids[0];
        format!("t.{column} IN (SELECT id FROM attempts WHERE task_id = '{template}')")
    });
    let sql = format!(
        "INSERT INTO {table} ({}) SELECT {} FROM {table} t CROSS JOIN copies c WHERE {is_its}",
        columns.join(", "),
        values.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database.connection).await?;
    Ok(())
}
