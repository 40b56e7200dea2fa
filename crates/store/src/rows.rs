//! Rows of the hot tables to and from the values of `domain`. Every write of a state goes through here.

use crate::{
    StoreError, figures,
    json::{JsonText, read_json, write_text},
    wakeup::CHANNEL,
};
use chrono::{DateTime, Utc};
use domain::{
    Timestamp,
    attempt::AttemptRow,
    ids::{AttemptId, Fence, NodeId, ProjectId, TaskId},
    lifecycle::Event,
    task::TaskRow,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// The columns of `task_state`.
pub(crate) struct TaskStateRecord {
    pub(crate) task_id: Uuid,
    pub(crate) project_id: Uuid,
    pub(crate) exclusive: bool,
    pub(crate) queued: bool,
    pub(crate) state: String,
    pub(crate) live_attempt_id: Option<Uuid>,
    pub(crate) fence: i64,
    pub(crate) attempts: i32,
    pub(crate) user_failures: i32,
    pub(crate) infra_failures: i32,
    pub(crate) node_losses: i32,
    pub(crate) cancel_requested: bool,
    pub(crate) not_before: Option<DateTime<Utc>>,
    pub(crate) avoid_node: Option<Uuid>,
    pub(crate) died_with: Option<Uuid>,
    pub(crate) failure: Option<String>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) message: String,
    pub(crate) ended_at: Option<DateTime<Utc>>,
}

impl TaskStateRecord {
    pub(crate) fn into_row(self) -> Result<TaskRow, StoreError> {
        Ok(TaskRow {
            id: TaskId::from_uuid(self.task_id),
            project: ProjectId::from_uuid(self.project_id),
            exclusive: self.exclusive,
            state: word(&self.state)?,
            queued: self.queued,
            live: self.live_attempt_id.map(AttemptId::from_uuid),
            fence: Fence::from_i64(self.fence),
            attempts: self.attempts as u32,
            user_failures: self.user_failures as u32,
            infra_failures: self.infra_failures as u32,
            node_losses: self.node_losses as u32,
            cancel_requested: self.cancel_requested,
            not_before: self.not_before,
            avoid_node: self.avoid_node.map(NodeId::from_uuid),
            died_with: self.died_with.map(NodeId::from_uuid),
            failure: self.failure.as_deref().map(word).transpose()?,
            exit_code: self.exit_code,
            message: self.message,
            ended_at: self.ended_at,
        })
    }
}

/// The columns of `attempts`.
pub(crate) struct AttemptRecord {
    pub(crate) id: Uuid,
    pub(crate) task_id: Uuid,
    pub(crate) number: i32,
    pub(crate) node_id: Uuid,
    pub(crate) fence: i64,
    pub(crate) state: String,
    pub(crate) reservation: JsonText,
    pub(crate) reserved: bool,
    pub(crate) placed_at: DateTime<Utc>,
    pub(crate) accepted_at: Option<DateTime<Utc>>,
    pub(crate) preparing_at: Option<DateTime<Utc>>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) exited_at: Option<DateTime<Utc>>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) exit: Option<JsonText>,
    pub(crate) ending: Option<JsonText>,
    pub(crate) provenance: Option<JsonText>,
    pub(crate) outputs_stored: Option<i32>,
}

impl AttemptRecord {
    pub(crate) fn into_row(self) -> Result<AttemptRow, StoreError> {
        Ok(AttemptRow {
            id: AttemptId::from_uuid(self.id),
            task: TaskId::from_uuid(self.task_id),
            number: self.number as u32,
            node: NodeId::from_uuid(self.node_id),
            fence: Fence::from_i64(self.fence),
            state: word(&self.state)?,
            reservation: read_json(self.reservation)?,
            reserved: self.reserved,
            placed_at: self.placed_at,
            accepted_at: self.accepted_at,
            preparing_at: self.preparing_at,
            started_at: self.started_at,
            exited_at: self.exited_at,
            ended_at: self.ended_at,
            exit: self.exit.map(read_json).transpose()?,
            ending: self.ending.map(read_json).transpose()?,
            provenance: self.provenance.map(read_json).transpose()?,
            outputs_stored: self.outputs_stored.map_or(0, i32::unsigned_abs),
        })
    }
}

pub(crate) fn word<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(StoreError::Corrupt)
}

/// Locks the rows of tasks in the order of their ids, so that two batches never wait for each other in a circle.
pub(crate) async fn lock_tasks(connection: &mut PgConnection, tasks: &[Uuid]) -> Result<Vec<TaskRow>, StoreError> {
    sqlx::query_as!(
        TaskStateRecord,
        r#"SELECT task_id, project_id,
                  COALESCE(exclusive, (SELECT (t.spec->'on_node_loss'->>'exclusive')::boolean FROM tasks t WHERE t.id = task_id), false) AS "exclusive!",
                  queued, state, live_attempt_id, fence, attempts, user_failures, infra_failures, node_losses,
                  cancel_requested, not_before, avoid_node, died_with, failure, exit_code, message, ended_at
           FROM task_state WHERE task_id = ANY($1) ORDER BY task_id FOR UPDATE"#,
        tasks,
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(TaskStateRecord::into_row)
    .collect()
}

/// Reads attempts. Their tasks' rows are locked by the caller: whoever changes an attempt holds its task.
pub(crate) async fn load_attempts(
    connection: &mut PgConnection,
    attempts: &[Uuid],
) -> Result<Vec<AttemptRow>, StoreError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as!(
        AttemptRecord,
        r#"SELECT id, task_id, number, node_id, fence, state, reservation AS "reservation: JsonText", reserved, placed_at, accepted_at,
                  preparing_at, started_at, exited_at, ended_at, exit AS "exit: JsonText", ending AS "ending: JsonText",
                  provenance AS "provenance: JsonText", outputs_stored
           FROM attempts WHERE id = ANY($1)"#,
        attempts,
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(AttemptRecord::into_row)
    .collect()
}

/// The database's clock, the only one that decides.
pub(crate) async fn now(connection: &mut PgConnection) -> Result<Timestamp, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(connection).await?)
}

/// Writes the changed rows of tasks and one history entry each, in one statement. The rows are locked by this transaction.
pub(crate) async fn save_tasks(
    connection: &mut PgConnection,
    changed: &[(TaskRow, Vec<Event>)],
) -> Result<(), StoreError> {
    save_leased(connection, changed, &[], None).await
}

/// As [`save_tasks`], with the attempts that were made of them; with each, whether its task is exclusive. Here stands the second wall
/// behind `task_state.live_attempt_id`: a task that has an attempt which lives gets no other. `hint`: see
/// [`crate::Wakeups::to_be_carried`].
pub(crate) async fn save_leased(
    connection: &mut PgConnection,
    changed: &[(TaskRow, Vec<Event>)],
    new: &[(AttemptRow, bool)],
    hint: Option<String>,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    figures::count_ends(changed);
    macro_rules! new {
        ($attempt:pat => $value:expr) => {
            new.iter().map(|$attempt| $value).collect::<Vec<_>>()
        };
    }
    macro_rules! column {
        ($task:ident => $value:expr) => {
            changed.iter().map(|($task, _)| $value).collect::<Vec<_>>()
        };
    }
    let events: Vec<String> = changed.iter().map(|(_, events)| write_text(events)).collect();
    let saved = sqlx::query!(
        r#"WITH changed AS (
             SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::bool[], $4::uuid[], $5::bigint[], $6::int[], $7::int[], $8::int[], $9::int[], $10::bool[],
                                  $11::timestamptz[], $12::uuid[], $13::text[], $14::int[], $15::text[], $16::timestamptz[], $17::text[], $18::uuid[], $19::uuid[])
               AS c(id, state, queued, live, fence, attempts, user_failures, infra_failures, node_losses, cancel_requested,
                    not_before, avoid_node, failure, exit_code, message, ended_at, events, died_with, project_id)
           ), saved AS (
             UPDATE task_state t SET state = c.state, queued = c.queued, live_attempt_id = c.live, fence = c.fence, attempts = c.attempts,
                    user_failures = c.user_failures, infra_failures = c.infra_failures, node_losses = c.node_losses,
                    cancel_requested = c.cancel_requested, not_before = c.not_before, avoid_node = c.avoid_node, died_with = c.died_with, failure = c.failure,
                    exit_code = c.exit_code, message = c.message, ended_at = c.ended_at,
                    -- The time in which an attempt ran is no wait: whoever is queued again waits from now on.
                    queue_expires_at = CASE WHEN c.queued AND NOT t.queued
                      THEN now() + (SELECT (spec->>'queue_timeout_ms')::bigint FROM tasks WHERE id = t.task_id) * interval '1 millisecond'
                      ELSE t.queue_expires_at END
             -- A release changes only the attempt: what is as it was is not written anew.
             FROM changed c WHERE t.task_id = c.id AND
               (t.state, t.queued, t.live_attempt_id, t.fence, t.attempts, t.user_failures, t.infra_failures, t.node_losses, t.cancel_requested,
                t.not_before, t.avoid_node, t.died_with, t.failure, t.exit_code, t.message, t.ended_at) IS DISTINCT FROM
               (c.state, c.queued, c.live, c.fence, c.attempts, c.user_failures, c.infra_failures, c.node_losses, c.cancel_requested,
                c.not_before, c.avoid_node, c.died_with, c.failure, c.exit_code, c.message, c.ended_at)
           ), history AS (
             INSERT INTO task_events (task_id, project_id, state, events) SELECT id, project_id, state, events::json FROM changed WHERE events <> '[]'
           ), made AS (
             INSERT INTO attempts (id, task_id, number, node_id, fence, state, reservation, reserved, placed_at, offline_after_ms)
             SELECT n.id, n.task_id, n.number, n.node_id, n.fence, 'assigned', n.reservation::json, true, now(), CASE WHEN n.exclusive THEN c.offline_after_ms END
             FROM UNNEST($20::uuid[], $21::uuid[], $22::int[], $23::uuid[], $24::bigint[], $25::text[], $26::bool[])
               AS n(id, task_id, number, node_id, fence, reservation, exclusive) CROSS JOIN cluster c
             WHERE NOT EXISTS (SELECT FROM attempts live WHERE live.task_id = n.task_id AND live.ended_at IS NULL)
             RETURNING id
           )
           SELECT (SELECT count(*) FROM made) AS "attempts!", CASE WHEN $27::text IS NOT NULL THEN pg_notify($28, $27)::text END AS told"#,
        &column!(t => t.id.as_uuid()),
        &column!(t => t.state.as_str().to_owned()),
        &column!(t => t.queued),
        &column!(t => t.live.map(AttemptId::as_uuid)) as &[Option<Uuid>],
        &column!(t => t.fence.get()),
        &column!(t => t.attempts as i32),
        &column!(t => t.user_failures as i32),
        &column!(t => t.infra_failures as i32),
        &column!(t => t.node_losses as i32),
        &column!(t => t.cancel_requested),
        &column!(t => t.not_before) as &[Option<Timestamp>],
        &column!(t => t.avoid_node.map(NodeId::as_uuid)) as &[Option<Uuid>],
        &column!(t => t.failure.map(|kind| kind.as_str().to_owned())) as &[Option<String>],
        &column!(t => t.exit_code) as &[Option<i32>],
        &column!(t => t.message.replace('\0', "")),
        &column!(t => t.ended_at) as &[Option<Timestamp>],
        &events,
        &column!(t => t.died_with.map(NodeId::as_uuid)) as &[Option<Uuid>],
        &column!(t => t.project.as_uuid()),
        &new!((a, _) => a.id.as_uuid()),
        &new!((a, _) => a.task.as_uuid()),
        &new!((a, _) => a.number as i32),
        &new!((a, _) => a.node.as_uuid()),
        &new!((a, _) => a.fence.get()),
        &new!((a, _) => write_text(&a.reservation)),
        &new!((_, exclusive) => *exclusive),
        hint,
        CHANNEL,
    )
    .fetch_one(connection)
    .await?;
    if saved.attempts < new.len() as i64 {
        return Err(StoreError::Corrupt("a task that waits has an attempt that lives".into()));
    }
    Ok(())
}

/// Writes the changed rows of attempts in one statement. A release meanwhile, which needs no lock of the task, is not undone. Outputs are
/// counted where they are stored (`artifacts/outputs.rs`).
pub(crate) async fn save_attempts(connection: &mut PgConnection, changed: &[AttemptRow]) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    macro_rules! column {
        ($attempt:ident => $value:expr) => {
            changed.iter().map(|$attempt| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query!(
        r#"UPDATE attempts a SET state = c.state, reserved = a.reserved AND c.reserved, accepted_at = c.accepted_at, preparing_at = c.preparing_at,
                  started_at = c.started_at, exited_at = c.exited_at, ended_at = c.ended_at, exit = c.exit::json, ending = c.ending::json,
                  provenance = c.provenance::json
           FROM UNNEST($1::uuid[], $2::text[], $3::bool[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
                       $9::text[], $10::text[], $11::text[])
             AS c(id, state, reserved, accepted_at, preparing_at, started_at, exited_at, ended_at, exit, ending, provenance)
           WHERE a.id = c.id"#,
        &column!(a => a.id.as_uuid()),
        &column!(a => a.state.as_str().to_owned()),
        &column!(a => a.reserved),
        &column!(a => a.accepted_at) as &[Option<Timestamp>],
        &column!(a => a.preparing_at) as &[Option<Timestamp>],
        &column!(a => a.started_at) as &[Option<Timestamp>],
        &column!(a => a.exited_at) as &[Option<Timestamp>],
        &column!(a => a.ended_at) as &[Option<Timestamp>],
        &column!(a => a.exit.as_ref().map(write_text)) as &[Option<String>],
        &column!(a => a.ending.as_ref().map(write_text)) as &[Option<String>],
        &column!(a => a.provenance.as_ref().map(write_text)) as &[Option<String>],
    )
    .execute(connection)
    .await?;
    Ok(())
}
