//! A PostgreSQL database of its own for each test, migrated, in some 30 milliseconds.
//!
//! The server is the one that `UNIDESK_TEST_DATABASE_URL` names (`scripts/test.sh` sets it), else the shared private one
//! of `scripts/test-database.sh`, which is started when it is not there. The migrations run once into a template, named
//! by their content; a test's database is a copy of it.

use crate::pg_proxy::{PgProxy, Server};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::OnceCell;
use uuid::Uuid;

const URL_VARIABLE: &str = "UNIDESK_TEST_DATABASE_URL";

/// A database that only this test uses. Dropped with this value, except after a failed test: then it stays, to be looked at.
#[derive(Debug)]
pub struct TestDatabase {
    server: PgConnectOptions,
    name: String,
    url: String,
}

impl TestDatabase {
    /// A migrated database. Panics where there is no PostgreSQL, and says how to get one: a test is never skipped.
    pub async fn create() -> Self {
        let template = template().await;
        Self::create_like(template).await
    }

    /// A database with nothing in it, for tests of the migrations themselves.
    pub async fn create_empty() -> Self {
        Self::create_like("template0").await
    }

    async fn create_like(template: &str) -> Self {
        let server = server();
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = connect(&server).await;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template}")))
            .execute(&mut connection)
            .await
            .expect("creating a test database");
        connection.close().await.expect("leaving the server");
        Self { url: url_of(&name), server, name }
    }

    /// Another database with what is in this one now: a backup, or its restore. Ends this one's connections.
    pub async fn copy(&self) -> Self {
        let mut connection = connect(&self.server).await;
        let ended = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name);
        sqlx::raw_sql(AssertSqlSafe(ended)).execute(&mut connection).await.expect("a superuser's right");
        connection.close().await.expect("leaving the server");
        Self::create_like(&self.name).await
    }

    /// For programs that are given a URL: `postgres://...`.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }

    /// A go-between before this database that can be told to misbehave, and the URL for those who are to go through it.
    pub async fn behind_proxy(&self) -> (PgProxy, String) {
        let port = self.server.get_port();
        let server = match (self.server.get_socket(), self.server.get_host()) {
            (Some(directory), _) => Server::Unix(directory.join(format!(".s.PGSQL.{port}"))),
            (None, host) if host.starts_with('/') => Server::Unix(Path::new(host).join(format!(".s.PGSQL.{port}"))),
            (None, host) => Server::Tcp(host.to_owned(), port),
        };
        let proxy = PgProxy::start_before(server).await.expect("listening in the server's stead");
        let (base, _) = self.url.split_once('?').unwrap_or((&self.url, ""));
        // The port of the URL's host names the socket's file, too.
        let url = format!("{base}?host={}&port=5432", proxy.dir.display());
        (proxy, url)
    }

    /// Runs statements that no operation of the store makes: rows to begin with, damage, the passing of time.
    pub async fn execute(&self, statements: &str) {
        self.try_execute(statements).await.expect("a test's own statement");
    }

    /// As [`TestDatabase::execute`], where the database may refuse.
    pub async fn try_execute(&self, statements: &str) -> Result<(), sqlx::Error> {
        let mut connection = connect(&self.options()).await;
        let outcome = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await;
        connection.close().await?;
        outcome.map(drop)
    }

    /// One statement's number.
    pub async fn number(&self, query: &str) -> i64 {
        let mut connection = PgConnection::connect_with(&self.options()).await.expect("connecting");
        let query = sqlx::AssertSqlSafe(query.to_owned());
        sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number")
    }

    /// A small pool of its own. Several of them stand for several processes.
    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(self.options())
            .await
            .expect("connecting to the test database")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test's database is kept while its server runs: psql '{}'", self.url);
            return;
        }
        let server = self.server.clone();
        // `FORCE` ends connections that the test has left open.
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread of its own: a test's runtime can't be blocked on from within, and may be shutting down.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect_with(&server).await?;
                sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
                connection.close().await?;
                anyhow::Ok(())
            })
        })
        .join();
        // What is left behind goes with the server.
        if let Ok(Err(error)) = dropped {
            eprintln!("the test database {} was not dropped: {error:#}", self.name);
        }
    }
}

/// Where the server is. The first use in a process may start it, which takes about a second.
fn server_url() -> &'static str {
    static URL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    URL.get_or_init(|| match std::env::var(URL_VARIABLE) {
        Ok(url) if !url.is_empty() => url,
        _ => crate::script("test-database.sh"),
    })
}

fn server() -> PgConnectOptions {
    PgConnectOptions::from_str(server_url())
        .unwrap_or_else(|error| panic!("{URL_VARIABLE} is no URL of a PostgreSQL server: {error}"))
}

/// The server's URL with another database: only the path changes.
fn url_of(database: &str) -> String {
    let (base, query) = server_url().split_once('?').unwrap_or((server_url(), ""));
    let authority = match base.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split('/').next().unwrap_or_default()),
        None => base.to_owned(),
    };
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{authority}/{database}{separator}{query}")
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(options).await.unwrap_or_else(|error| {
        panic!(
            "no PostgreSQL for tests answers at {}: {error}\nunset {URL_VARIABLE} to have one started, or run scripts/test.sh",
            server_url()
        )
    })
}

/// The name of the template for the migrations as they are now. Whoever comes first makes it; the others wait.
async fn template() -> &'static str {
    static NAME: OnceCell<String> = OnceCell::const_new();
    NAME.get_or_init(|| async {
        // Read when the test runs, so that a changed migration needs no rebuild of this crate to be seen.
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let migrator = Migrator::new(migrations.as_path()).await.expect("reading the migrations");
        let mut content = DefaultHasher::new();
        for migration in migrator.iter() {
            (migration.version, &migration.checksum).hash(&mut content);
        }
        let content = content.finish();
        let name = format!("migrated_{content:016x}");
        make_template(&server(), &name, content, &migrator).await.expect("migrating the template database");
        name
    })
    .await
}

async fn make_template(server: &PgConnectOptions, name: &str, content: u64, migrator: &Migrator) -> anyhow::Result<()> {
    let mut connection = connect(server).await;
    let is_there = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    if sqlx::query_scalar::<_, bool>(is_there).bind(name).fetch_one(&mut connection).await? {
        return Ok(connection.close().await?);
    }
    // Held by the session, so it goes with the process that dies here.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(content.cast_signed()).execute(&mut connection).await?;
    if !sqlx::query_scalar::<_, bool>(is_there).bind(name).fetch_one(&mut connection).await? {
        // Half a template is never taken for a whole one: it gets its name at the end.
        let unfinished = format!("{name}_unfinished");
        for statement in [format!("DROP DATABASE IF EXISTS {unfinished}"), format!("CREATE DATABASE {unfinished}")] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        let mut inside = PgConnection::connect_with(&server.clone().database(&unfinished)).await?;
        migrator.run(&mut inside).await?;
        inside.close().await?;
        let rename = format!("ALTER DATABASE {unfinished} RENAME TO {name}");
        sqlx::query(AssertSqlSafe(rename)).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exists(name: &str) -> bool {
        let mut connection = connect(&server()).await;
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_test_sees_the_migrated_tables_and_nobody_elses_rows() {
        let (mine, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());
        let (mine, other) = (mine.pool().await, other.pool().await);
        let count = "SELECT count(*) FROM projects";
        let before: i64 = sqlx::query_scalar(count).fetch_one(&other).await.unwrap();
        sqlx::query("INSERT INTO projects (id, slug) VALUES (gen_random_uuid(), 'mine')").execute(&mine).await.unwrap();
        let here: i64 = sqlx::query_scalar(count).fetch_one(&mine).await.unwrap();
        let there: i64 = sqlx::query_scalar(count).fetch_one(&other).await.unwrap();
        assert_eq!((here, there), (before + 1, before));
    }

    #[tokio::test]
    async fn the_url_leads_to_the_same_database_as_the_pool() {
        let database = TestDatabase::create().await;
        let mut by_url = PgConnection::connect(database.url()).await.unwrap();
        let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut by_url).await.unwrap();
        assert_eq!(name, database.name);
    }

    #[tokio::test]
    async fn the_database_is_gone_with_its_value_even_while_it_is_connected_to() {
        let database = TestDatabase::create_empty().await;
        let name = database.name.clone();
        let _open = database.pool().await;
        assert!(exists(&name).await);
        drop(database);
        assert!(!exists(&name).await);
    }
}
