//! Who may place tasks and end leases: one row per role, renewed by its holder, taken over when it was not renewed for 4 s by the
//! database's clock. (An advisory lock would be kept by a frozen holder for as long as its kernel answers.) A holder that freezes
//! inside a transaction that relies on its leadership has the row locked: the server ends that transaction after 2 s, before the
//! row may be taken over. What lies 4 s in the future was written by a clock that has been set back since: that holder is gone too.

use crate::{Store, StoreError};
use domain::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Places tasks.
    Scheduler,
    /// Marks nodes offline and queues what may be replaced.
    Sweeper,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Sweeper => "sweeper",
        }
    }
}

/// Proof of leadership at the moment when it was given. Every transaction that relies on it renews it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub role: Role,
    pub holder: Uuid,
    pub epoch: i64,
    /// When this holder took over, by the database's clock.
    pub since: Timestamp,
}

impl Store {
    /// Renews the leadership of `holder`, or takes over one that was not renewed for 4 s. None: another process leads.
    /// `StoreError::Unavailable` also when the row is locked for 2 s: to be asked again.
    pub async fn lead(
        &self,
        role: Role,
        holder: Uuid,
        known: Option<Leadership>,
    ) -> Result<Option<Leadership>, StoreError> {
        let row = sqlx::query!(
            r#"INSERT INTO leader AS l (role, holder, epoch, renewed_at, led_since) VALUES ($1, $2, 1, now(), now())
               ON CONFLICT (role) DO UPDATE SET holder = $2, renewed_at = now(),
                   led_since = CASE WHEN l.holder = $2 AND l.renewed_at > now() - interval '4 seconds' AND l.renewed_at <= now() + interval '4 seconds'
                     THEN l.led_since ELSE now() END,
                   epoch = CASE WHEN l.holder = $2 AND l.renewed_at > now() - interval '4 seconds' AND l.renewed_at <= now() + interval '4 seconds'
                     THEN l.epoch ELSE l.epoch + 1 END
               WHERE l.holder = $2 OR l.renewed_at <= now() - interval '4 seconds' OR l.renewed_at > now() + interval '4 seconds'
               RETURNING epoch, renewed_at"#,
            role.as_str(),
            holder
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| {
            let since = known.filter(|known| known.epoch == row.epoch).map_or(row.renewed_at, |known| known.since);
            Leadership { role, holder, epoch: row.epoch, since }
        }))
    }

    /// Gives the leadership up, so that a standby need not wait.
    pub async fn resign(&self, leadership: &Leadership) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE leader SET renewed_at = '-infinity' WHERE role = $1 AND holder = $2 AND epoch = $3",
            leadership.role.as_str(),
            leadership.holder,
            leadership.epoch
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Renews the leadership inside a transaction that relies on it: a woken former leader finds its epoch gone. From here on the
/// transaction may not be idle for 2 s, lest a frozen leader keep its locks.
pub(crate) async fn require(connection: &mut PgConnection, leadership: &Leadership) -> Result<(), StoreError> {
    let renewed = sqlx::query!(
        "UPDATE leader SET renewed_at = now() WHERE role = $1 AND holder = $2 AND epoch = $3
         RETURNING set_config('idle_in_transaction_session_timeout', '2s', true)",
        leadership.role.as_str(),
        leadership.holder,
        leadership.epoch
    )
    .fetch_optional(connection)
    .await?;
    renewed.map(drop).ok_or(StoreError::NotLeader)
}

/// What every lease is made from.
pub(crate) struct Led {
    pub(crate) epoch: i32,
    pub(crate) at: Timestamp,
}

/// As [`require`], and holds what all leases share until the transaction ends: one statement, since a lone task waits for each. What is
/// held on a node is then read by its index, which learns from each reading what is held no more; a bitmap of it learns nothing and
/// visited all that had been held since the last vacuum, 17,000 buffers instead of 280.
pub(crate) async fn require_to_lease(
    connection: &mut PgConnection,
    leadership: &Leadership,
) -> Result<Led, StoreError> {
    sqlx::query_as!(
        Led,
        r#"WITH led AS (
             UPDATE leader SET renewed_at = now() WHERE role = $1 AND holder = $2 AND epoch = $3
             RETURNING set_config('idle_in_transaction_session_timeout', '2s', true), set_config('enable_bitmapscan', 'off', true)
           )
           SELECT c.epoch, now() AS "at!" FROM led CROSS JOIN cluster c FOR SHARE OF c"#,
        leadership.role.as_str(),
        leadership.holder,
        leadership.epoch
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotLeader)
}

/// Waits until nothing is being placed, and lets nothing be placed until this transaction has ended: a placement looks at nodes
/// without locking them, so whoever closes one must not be answered while a look of before may still be acted upon. To be taken
/// before any other lock.
pub(crate) async fn hold_placements(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query_scalar!("SELECT 1 AS one FROM leader WHERE role = $1 FOR SHARE", Role::Scheduler.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(())
}
