//! The epoch in which fences are given. A database that was restored from a backup has forgotten what was leased since; the nodes have
//! not. So it begins a new epoch: because it is seen to be another database than before, because a node has what it forgot, or because
//! somebody says so.
//!
//! What a server was restored from can't be asked, but what it is: `cluster.identity` names server, timeline, database and table. A dump
//! comes back as another table at least, a base backup on another timeline. Only whole files that were put back (a snapshot of a
//! disk) look as before; then the first node that comes back with something unknown tells.

use crate::{OpenSession, Store, StoreError, carried, nodes::restored};
use domain::{
    ids::{ClusterEpoch, TaskId},
    reconcile::{self, HeldAttempt},
};
use futures::FutureExt as _;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::{
    str::FromStr,
    sync::Once,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// So many epochs the clock may be behind: what a node claims beyond that is made up.
const AHEAD_OF_CLOCK: i32 = 16;

/// The server knows a connection for a moment after it was closed.
const LEAVES_WITHIN: Duration = Duration::from_secs(3);

/// What came of [`declare_restored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Fences are given in this epoch from now on.
    Epoch(i32),
    /// So many connections of services are open: nothing was changed.
    InUse(i64),
}

/// Begins a new epoch because somebody says that the database was restored: before any service is started on it. Harmless to repeat.
pub async fn declare_restored(url: &str) -> Result<Restored, StoreError> {
    // A connection of its own and by another name: those of services are counted.
    let options = PgConnectOptions::from_str(url).map_err(StoreError::BadUrl)?.application_name("unidesk migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    let began = Instant::now();
    loop {
        let others = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'unidesk'"#
        )
        .fetch_one(&mut connection)
        .await?;
        match others {
            0 => break,
            others if began.elapsed() >= LEAVES_WITHIN => return Ok(Restored::InUse(others)),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let mut transaction = connection.begin().await?;
    restored::lock(&mut transaction).await?;
    let epoch = restored::begin_epoch(&mut transaction, 0).await?;
    note_identity(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Restored::Epoch(epoch))
}

/// Asked on each new connection, before it is used: whoever puts another database in the place of this one ends all connections to it,
/// so nothing is ever done in one whose epoch is of another. Services that are running find it out as those do that are started.
pub(crate) async fn confirm(connection: &mut PgConnection, options: PgConnectOptions) -> Result<(), sqlx::Error> {
    let found = match look(connection).await {
        Ok(found) => found,
        Err(error) => return explain(error),
    };
    if found.known.is_some() && found.known == found.identity {
        return Ok(());
    }
    // It reads all tasks, and whoever waits for this connection may give up before.
    carried::to_its_end(recognise(options).boxed()).await
}

struct Found {
    known: Option<String>,
    identity: Option<String>,
}

async fn look(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    // The control file would name the new timeline only after the first checkpoint.
    sqlx::query_as!(
        Found,
        r#"SELECT c.identity AS known, concat_ws('.', s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid, c.tableoid) AS identity
           FROM cluster c CROSS JOIN pg_control_system() s JOIN pg_database d ON d.datname = current_database()"#
    )
    .fetch_one(connection)
    .await
}

/// So that the services find what they expect. Where the database does not say which one it is, the transaction goes on.
async fn note_identity(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut inner = connection.begin().await?;
    match look(&mut inner).await {
        Ok(found) => {
            sqlx::query!("UPDATE cluster SET identity = $1", found.identity).execute(&mut *inner).await?;
            inner.commit().await
        }
        Err(error) => {
            inner.rollback().await?;
            explain(error)
        }
    }
}

/// A database that does not say which one it is may be used all the same.
fn explain(error: sqlx::Error) -> Result<(), sqlx::Error> {
    static TOLD: Once = Once::new();
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    match code.as_str() {
        // Not migrated yet; or a standby, which takes no writes either.
        "42P01" | "42703" | "55000" => Ok(()),
        "42501" | "42883" => {
            TOLD.call_once(|| {
                tracing::warn!(
                    %error,
                    "the database does not say which one it is, so a restore from a backup is not noticed by itself: after one, run \
                     `unidesk migrate --restored` before any service is started"
                );
            });
            Ok(())
        }
        _ => Err(error),
    }
}

/// Takes the database for the one that it is. Of many that ask for it at once, one begins the new epoch.
async fn recognise(options: PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(&options).await?;
    let mut transaction = connection.begin().await?;
    restored::lock(&mut transaction).await?;
    let found = look(&mut transaction).await?;
    if found.known != found.identity {
        // A database from before this was noted says nothing of where it comes from.
        if let Some(known) = &found.known {
            let epoch = restored::begin_epoch(&mut transaction, 0).await?;
            tracing::warn!(
                epoch,
                known,
                found = found.identity,
                "this is another database than before, as after a restore from a backup or a failover: a new epoch begins, and nothing is \
                 placed before the nodes are back"
            );
        }
        sqlx::query!("UPDATE cluster SET identity = $1", found.identity).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.close().await
}

impl Store {
    /// As on each new connection, for one that was made before there was a table to ask.
    pub(crate) async fn confirm_identity(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        Ok(confirm(&mut connection, self.options.clone()).await?)
    }

    /// What a node says that it has may show that this database has forgotten something since it gave its last fence: then the epoch
    /// above which a new one is to begin.
    pub(crate) async fn forgotten_epoch(&self, hello: &OpenSession) -> Result<Option<i32>, StoreError> {
        if hello.attempts.is_empty() {
            return Ok(None);
        }
        let attempts: Vec<Uuid> = hello.attempts.iter().map(|said| said.held.attempt.as_uuid()).collect();
        let tasks: Vec<Uuid> = hello.attempts.iter().filter_map(|said| said.task).map(TaskId::as_uuid).collect();
        let known = sqlx::query!(
            r#"SELECT c.epoch, ARRAY(SELECT id FROM attempts WHERE id = ANY($1)) AS "attempts!",
                      ARRAY(SELECT task_id FROM task_state WHERE task_id = ANY($2)) AS "tasks!",
                      (extract(epoch FROM now() - timestamptz '2026-01-01 00:00:00Z') / 600)::integer AS "of_the_clock!"
               FROM cluster c"#,
            &attempts,
            &tasks
        )
        .fetch_one(self.pool_for(attempts.len()))
        .await?;
        // Epochs are given by the clock, so that a node can't use them up with what it makes up.
        let most = known.of_the_clock.saturating_add(AHEAD_OF_CLOCK);
        let is_known = |said: &HeldAttempt| known.attempts.contains(&said.held.attempt.as_uuid());
        let has_task = |said: &HeldAttempt| said.task.is_some_and(|task| known.tasks.contains(&task.as_uuid()));
        let shows = |said: &&HeldAttempt| {
            reconcile::shows_loss(said, is_known(said), has_task(said), ClusterEpoch(known.epoch))
        };
        let epochs = hello.attempts.iter().filter(shows).map(|said| said.held.fence.epoch().0);
        Ok(epochs.filter(|epoch| *epoch < most).max())
    }

    /// A node has what this database has forgotten: begins an epoch above `epoch`, in which that was given.
    pub(crate) async fn begin_epoch_above(&self, epoch: i32) -> Result<i32, StoreError> {
        let options = self.options.clone();
        let begun = async move {
            let mut connection = PgConnection::connect_with(&options).await?;
            let mut transaction = connection.begin().await?;
            restored::lock(&mut transaction).await?;
            // Several nodes may have noticed.
            let now = sqlx::query_scalar!("SELECT epoch FROM cluster").fetch_one(&mut *transaction).await?;
            let begun = if now > epoch { now } else { restored::begin_epoch(&mut transaction, epoch).await? };
            transaction.commit().await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(begun)
        };
        Ok(carried::to_its_end(begun.boxed()).await?)
    }
}
