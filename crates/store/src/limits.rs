//! How long a database may say nothing. PostgreSQL ends statements that take too long (`statement_timeout`), but a server that is
//! out of reach ends nothing, and the kernel gives a connection up after a quarter of an hour: so there are limits on this side, too.

use crate::StoreError;
use sqlx::{Connection as _, PgConnection};
use std::{future::Future, io, time::Duration};

/// Longer than a connection is waited for (5 s) and a statement may take (15 s), together.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What a connection that comes back to the pool may need to say that it is in order.
const PING_WITHIN: Duration = Duration::from_secs(5);

/// An operation that gives up after 30 s without its answer, as when the database is away: whether it was done is not known. For loops
/// that nobody else gives a limit.
pub async fn in_time<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let gave_up = |_| Err(StoreError::Unavailable(sqlx::Error::Io(io::ErrorKind::TimedOut.into())));
    tokio::time::timeout(ANSWER_WITHIN, operation).await.unwrap_or_else(gave_up)
}

/// Asked of each connection that comes back to its pool. Whoever used it may have given up in the middle, and the pool would wait for
/// its answer without an end, and count it as in use for so long: a database that was out of reach for a moment would leave a
/// service without connections. An error here closes it hard.
pub(crate) async fn is_in_order(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(PING_WITHIN, connection.ping()).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
    }
}
