//! What can go wrong in the store, by what a caller can do about it.

/// Errors of every operation. What an operation means to answer (`Fenced`, `NotFound`) is in its result type instead.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, starved, or gave up a lock: the same call may be tried again.
    #[error("the database is away")]
    Unavailable(#[source] sqlx::Error),
    #[error("the address of the database is not readable")]
    BadUrl(#[source] sqlx::Error),
    #[error("the database would lose acknowledged work: {} off; turn it on, or give UniDesk another server", .0.join(", ") + if .0.len() == 1 { " is" } else { " are" })]
    NotDurable(Vec<String>),
    #[error("the schema could not be brought to this version")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A row holds what this version does not know.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
    /// The leadership was taken over: step down.
    #[error("another process leads now")]
    NotLeader,
    /// A mistake in this program.
    #[error("a statement failed")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
    /// The constraint that a statement broke, if it broke one.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let temporary = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => true,
            // Connection trouble, shutdown, deadlock, serialisation, lock and statement timeouts, full disk, too many connections.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                ["08", "57", "53", "58"].contains(&&code[..code.len().min(2)])
                    || matches!(&*code, "40P01" | "40001" | "55P03" | "25P03" | "25P04")
            }),
            _ => false,
        };
        if temporary { Self::Unavailable(error) } else { Self::Statement(error) }
    }
}
