//! What statements cost, as PostgreSQL counts it: how many buffers each read, whatever the machine's load.

use crate::database::TestDatabase;
use sqlx::{Connection, PgConnection};

/// One statement since the last [`Statements::forget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Of one call, rounded up.
    pub buffers: i64,
    pub calls: i64,
    pub text: String,
}

/// The counters of one test's database.
pub struct Statements {
    connection: PgConnection,
}

impl Statements {
    /// Panics where the server does not count: it must preload `pg_stat_statements`, as the one of `scripts/test-database.sh` does.
    pub async fn of(database: &TestDatabase) -> Self {
        let mut connection = PgConnection::connect_with(&database.options()).await.expect("connecting");
        let made =
            sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT count(*) FROM pg_stat_statements")
                .execute(&mut connection)
                .await;
        made.expect("start the server with shared_preload_libraries = 'pg_stat_statements'");
        Self { connection }
    }

    /// Counts from zero.
    pub async fn forget(&mut self) {
        let mine =
            "SELECT pg_stat_statements_reset(0, (SELECT oid FROM pg_database WHERE datname = current_database()), 0)";
        sqlx::query(mine).execute(&mut self.connection).await.expect("a superuser's right");
    }

    /// The dearest first.
    pub async fn costs(&mut self) -> Vec<Cost> {
        let rows: Vec<(i64, i64, String)> = sqlx::query_as(
            "SELECT ((shared_blks_hit + shared_blks_read + calls - 1) / calls)::bigint, calls, query FROM pg_stat_statements
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_stat_statements%'
             ORDER BY 1 DESC",
        )
        .fetch_all(&mut self.connection)
        .await
        .expect("reading the counters");
        rows.into_iter().map(|(buffers, calls, text)| Cost { buffers, calls, text }).collect()
    }

    /// The one value of a query, as text.
    pub async fn value(&mut self, query: &str) -> String {
        let query = sqlx::AssertSqlSafe(format!("SELECT ({query})::text"));
        sqlx::query_scalar(query).fetch_one(&mut self.connection).await.expect("a value")
    }
}
