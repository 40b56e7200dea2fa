//! What can go wrong in the store, by what a caller can do about it.

use std::{error::Error as _, fmt::Write as _};

/// Errors of every operation. What an operation means to answer (`Fenced`, `NotFound`) is in its result type instead.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, starved, full, or gave up a lock: the same call may be tried again. Where it was a commit, it may have
    /// been done; operations are safe to repeat for that.
    #[error("the database is away")]
    Unavailable(#[source] sqlx::Error),
    #[error("this is no address of a database; one has the form postgres://user:password@host/database")]
    BadUrl(#[source] sqlx::Error),
    #[error(
        "the database would lose acknowledged work in a crash: {} off; set {} in its postgresql.conf and reload it, or name another server",
        .0.join(", ") + if .0.len() == 1 { " is" } else { " are" },
        .0.iter().map(|name| format!("{name} = on")).collect::<Vec<_>>().join(", "),
    )]
    NotDurable(Vec<String>),
    #[error("the schema could not be brought to this version")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A row holds what this version does not know.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
    /// The leadership was taken over: step down.
    #[error("another process leads now")]
    NotLeader,
    /// Too many calls wait already: the same call may be tried again in a moment. Nothing was done.
    #[error("too much is waiting to be written")]
    Busy,
    /// The service is going down: nothing was done, another process may be asked.
    #[error("the service is going down")]
    Stopping,
    /// What a key stood for was forgotten while it was asked for. Nothing was done: tried again at once, the key is free.
    #[error("an idempotency key was forgotten at this moment")]
    KeyForgotten,
    /// What befell the group with which a call was written.
    #[error(transparent)]
    Shared(std::sync::Arc<StoreError>),
    /// A mistake in this program; what it said is in the log.
    #[error("an operation panicked")]
    Panicked,
    /// A mistake in this program.
    #[error("a statement failed")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Busy | Self::Stopping | Self::KeyForgotten => true,
            Self::Shared(error) => error.is_temporary(),
            _ => false,
        }
    }
    /// The database's disk is full: what takes no room still works, and the same call may be tried again once somebody made room.
    pub fn is_storage_full(&self) -> bool {
        self.code().as_deref() == Some(DISK_FULL)
    }
    /// PostgreSQL broke the transaction off for another's sake: begun again, it may well succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::KeyForgotten) || matches!(self.code().as_deref(), Some("40001" | "40P01"))
    }
    /// Whether one call of a group may be the reason: not when the database itself is in trouble.
    pub(crate) fn may_be_of_one_call(&self) -> bool {
        // A lock that was not to be had is on one row.
        !self.is_temporary() || self.is_conflict() || self.code().as_deref() == Some("55P03")
    }
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Unavailable(sqlx::Error::Database(error)) | Self::Statement(sqlx::Error::Database(error)) => {
                error.code()
            }
            Self::Shared(error) => error.code(),
            _ => None,
        }
    }
    /// The statement took longer than it may.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(error)) if error.code().as_deref() == Some("57014"))
    }
    /// The constraint that a statement broke, if it broke one.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
    /// The error and its causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to a string can't fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

/// PostgreSQL's code for a disk without room.
const DISK_FULL: &str = "53100";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let passes = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|code| passes(&code)),
            _ => false,
        };
        if passes { Self::Unavailable(error) } else { Self::Statement(error) }
    }
}

/// Whether what PostgreSQL calls by this code is a state of the server, which passes or is mended there, rather than a mistake of
/// ours in a statement.
fn passes(code: &str) -> bool {
    match code.get(..2).unwrap_or_default() {
        // Connections; resources; an operator's hand (57014: a timeout); the system (58030: I/O).
        "08" | "53" | "57" | "58" => true,
        // Logins refused, a database that is not there: as it is while a server is set up anew.
        "28" => true,
        // Rolled back: a deadlock, a conflict, a commit whose answer is not known. A broken constraint is ours.
        "40" => code != "40002",
        _ => matches!(
            code,
            // A lock was not to be had; a transaction was idle or went on for too long; the server takes no writes, since it is a
            // standby or was told so; the database is not there.
            "55P03" | "25P03" | "25P04" | "25006" | "3D000" | "55006"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_server_passes_and_no_mistake_of_ours_does() {
        let states = "08000 08003 08006 08001 08004 08007 08P01 53000 53100 53200 53300 53400 57000 57014 57P01 57P02 57P03 57P04 57P05 \
                      58000 58030 58P01 40000 40001 40003 40P01 55P03 55006 25P03 25P04 25006 28000 28P01 3D000";
        for code in states.split_whitespace() {
            assert!(passes(code), "{code}");
        }
        let mistakes = "21000 22001 22003 22021 22023 22P02 22P05 23502 23503 23505 23514 23P01 25001 25P01 25P02 34000 40002 42501 42601 \
                        42703 42883 42P01 42P18 54001 54000 55000 0A000 XX000 XX001 XX002 P0001 '' x";
        for code in mistakes.split_whitespace() {
            assert!(!passes(code), "{code}");
        }
    }

    #[test]
    fn a_server_that_forgets_is_refused_with_what_to_do() {
        let told = StoreError::NotDurable(vec!["fsync".into(), "synchronous_commit".into()]).to_string();
        assert!(told.contains("fsync, synchronous_commit are off"), "{told}");
        assert!(told.contains("set fsync = on, synchronous_commit = on in its postgresql.conf"), "{told}");
    }
}
