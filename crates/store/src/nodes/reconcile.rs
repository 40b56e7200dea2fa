//! Settles at a hello what the node has with what it should have, in the transaction that opens the session. The rules are
//! [`domain::reconcile`]'s; this locks the rows, asks for each, and writes what follows.

use crate::{
    OpenSession, StoreError, Topic,
    attempts::replace::{Machine, give_up},
    json::{JsonText, read_json},
    rows::{load_attempts, lock_tasks, now, save_attempts, save_leased, save_tasks},
};
use domain::{
    Timestamp,
    attempt::{AttemptRow, AttemptState, Report},
    ids::{AttemptId, ClusterEpoch, Held, TaskId},
    lifecycle::{self, Around, NewAttempt, Verdict},
    poison::Presence,
    reconcile::{Absence, Answer, HeldAttempt, Inventory, Restore, absent, answer},
    resources::Reservation,
    retry::RetryPolicy,
    spec::Requirements,
    task::TaskRow,
};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// In the order of `log_heads.next_offsets`.
const STREAMS: [&str; 4] = ["stdout", "stderr", "build", "system"];

#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) stop: Vec<Held>,
    pub(crate) orphans: Vec<Held>,
    pub(crate) adopted: Vec<Held>,
    pub(crate) topics: Vec<Topic>,
}

/// Both directions: what the node lacks is given up, and each attempt that it has gets its answer.
pub(crate) async fn reconcile(
    connection: &mut PgConnection,
    hello: &OpenSession,
    is_new_instance: bool,
    is_first_hello: bool,
) -> Result<Settled, StoreError> {
    let expected = sqlx::query!(
        r#"SELECT a.id, t.spec->>'executor' AS "executor!", (s.died_with IS NOT NULL AND s.ended_at IS NULL) AS "suspected!",
                  (s.queued AND s.live_attempt_id IS NOT DISTINCT FROM a.id) AS "to_be_replaced!"
           FROM attempts a JOIN tasks t ON t.id = a.task_id JOIN task_state s ON s.task_id = a.task_id WHERE a.node_id = $1 AND a.reserved"#,
        hello.node.as_uuid()
    )
    .fetch_all(&mut *connection)
    .await?;
    let has: BTreeSet<Uuid> = hello.attempts.iter().map(|said| said.held.attempt.as_uuid()).collect();
    let ids: Vec<Uuid> = expected.iter().map(|row| row.id).chain(has.iter().copied()).collect();
    // Nothing here, nothing there: nothing to settle.
    if ids.is_empty() {
        return Ok(Settled::default());
    }
    // A node that was made after the restore can have nothing from before it.
    let cluster = sqlx::query!(
        "SELECT c.epoch, CASE WHEN n.created_at < c.restored_at THEN c.restored_at END AS restored_at FROM cluster c, nodes n WHERE n.id = $1",
        hello.node.as_uuid()
    )
    .fetch_one(&mut *connection)
    .await?;
    let epoch = ClusterEpoch(cluster.epoch);
    let rows: BTreeMap<Uuid, AttemptRow> =
        load_attempts(&mut *connection, &ids).await?.into_iter().map(|row| (row.id.as_uuid(), row)).collect();

    // What the node has not, and what nobody is to replace now that it has it.
    let is_missing = |row: &AttemptRow, executor: &String| {
        let inventory = Inventory { is_complete: hello.complete_executors.contains(executor), is_new_instance };
        absent(row, inventory, epoch) == Absence::GiveUp
    };
    let mut missing: Vec<Uuid> = expected
        .iter()
        .filter(|row| !has.contains(&row.id) && rows.get(&row.id).is_some_and(|known| is_missing(known, &row.executor)))
        .map(|row| row.id)
        .collect();
    let mut returned: Vec<(Held, Report)> = expected
        .iter()
        .filter(|row| row.to_be_replaced && has.contains(&row.id))
        .filter_map(|row| Some((rows.get(&row.id)?.held(), Report::Accepted)))
        .collect();

    // What runs there still has not taken the machine down.
    let runs = |id: &Uuid| {
        let mut said = hello.attempts.iter().filter(|said| said.state == AttemptState::Running);
        said.any(|said| said.held.attempt.as_uuid() == *id)
    };
    let alive: Vec<Uuid> = expected.iter().filter(|row| row.suspected && runs(&row.id)).map(|row| row.id).collect();

    // All tasks that may change, at once and in their order; each step below finds its own locked already.
    let is_old = |said: &&HeldAttempt| said.held.fence.epoch() != epoch;
    let old = || hello.attempts.iter().filter(is_old);
    let task_of = |id: &Uuid| rows.get(id).map(|row| row.task);
    let concerned: BTreeSet<Uuid> = missing
        .iter()
        .chain(&alive)
        .filter_map(task_of)
        .chain(returned.iter().filter_map(|(held, _)| task_of(&held.attempt.as_uuid())))
        .chain(old().filter_map(|said| task_of(&said.held.attempt.as_uuid()).or(said.task)))
        .map(TaskId::as_uuid)
        .collect();
    let concerned: Vec<Uuid> = concerned.into_iter().collect();
    let tasks: BTreeMap<TaskId, TaskRow> = match concerned.is_empty() {
        true => BTreeMap::new(),
        false => lock_tasks(&mut *connection, &concerned).await?.into_iter().map(|task| (task.id, task)).collect(),
    };

    // As they are now that nobody else changes them: a lease may have been committed while this waited.
    let rows: BTreeMap<Uuid, AttemptRow> = match concerned.is_empty() {
        true => rows,
        false => load_attempts(&mut *connection, &ids).await?.into_iter().map(|row| (row.id.as_uuid(), row)).collect(),
    };

    let since = cluster.restored_at.filter(|_| is_first_hello && !concerned.is_empty());
    let of_backup = match since {
        None => Vec::new(),
        Some(since) => {
            sqlx::query_scalar!("SELECT id FROM tasks WHERE id = ANY($1) AND created_at < $2", &concerned, since)
                .fetch_all(&mut *connection)
                .await?
        }
    };

    let old_ids: Vec<Uuid> = old().map(|said| said.held.attempt.as_uuid()).collect();
    let logs: BTreeMap<Uuid, Vec<i64>> = match old_ids.is_empty() {
        true => BTreeMap::new(),
        false => sqlx::query!("SELECT attempt_id, next_offsets FROM log_heads WHERE attempt_id = ANY($1)", &old_ids)
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .map(|row| (row.attempt_id, row.next_offsets))
            .collect(),
    };
    let as_report = |said: &HeldAttempt| {
        let stored = |stream: &str| {
            let slot = STREAMS.iter().position(|name| *name == stream)?;
            logs.get(&said.held.attempt.as_uuid())?.get(slot).map(|offset| *offset as u64)
        };
        said.as_report(|stream| stored(stream).unwrap_or(0)).map(|report| (said.held, report))
    };

    let mut settled = Settled::default();
    for said in &hello.attempts {
        let task = said.task.and_then(|task| tasks.get(&task));
        let may_have_forgotten = task.is_some_and(|task| of_backup.contains(&task.id.as_uuid()));
        let restore = Restore { epoch, may_have_forgotten };
        match answer(said, hello.node, rows.get(&said.held.attempt.as_uuid()), task, restore) {
            // The platform may know less of it than it once did.
            Answer::Keep if is_old(&said) => returned.extend(as_report(said)),
            Answer::Keep | Answer::Collect | Answer::Forget => {}
            Answer::Stop => settled.stop.push(said.held),
            Answer::GiveUp => missing.push(said.held.attempt.as_uuid()),
            Answer::Orphan => settled.orphans.push(said.held),
            Answer::Adopt => {
                if let Some(task) = task
                    && adopt(&mut *connection, hello, task.id, said).await?
                {
                    settled.topics.push(Topic::Task(task.id));
                    settled.adopted.push(said.held);
                    returned.extend(as_report(said));
                } else {
                    settled.stop.push(said.held);
                }
            }
        }
    }
    let because = "the node came back without it";
    let machine = if is_new_instance { Machine::OfAnother } else { Machine::IsFree };
    settled.topics.extend(give_up(&mut *connection, hello.node, &missing, because, machine).await?);
    settled.topics.extend(hear(&mut *connection, &returned).await?);
    let alive_tasks: Vec<Uuid> = alive.iter().filter_map(|id| rows.get(id)).map(|row| row.task.as_uuid()).collect();
    absolve(connection, &alive, &alive_tasks).await?;
    Ok(settled)
}

/// Takes up again what a restore has forgotten. False: it was leased again by now.
async fn adopt(
    connection: &mut PgConnection,
    hello: &OpenSession,
    task: TaskId,
    said: &HeldAttempt,
) -> Result<bool, StoreError> {
    let requirements = sqlx::query_scalar!(
        r#"SELECT spec->'requirements' AS "requirements!: JsonText" FROM tasks WHERE id = $1"#,
        task.as_uuid()
    )
    .fetch_one(&mut *connection)
    .await?;
    let amounts = read_json::<Requirements>(requirements)?.amounts;
    let reservation = Reservation {
        cpu_millis: amounts.cpu_millis,
        memory_bytes: amounts.memory_bytes,
        disk_bytes: amounts.disk_bytes,
        gpu_ids: said.gpu_ids.clone(),
        ahead: said.ahead,
    };
    let at = now(&mut *connection).await?;
    // As it is by now: another attempt of the same task may stand in this very inventory.
    let Some(mut task) = lock_tasks(&mut *connection, &[task.as_uuid()]).await?.pop() else { return Ok(false) };
    let live: Vec<Uuid> = task.live.map(AttemptId::as_uuid).into_iter().collect();
    let mut previous = load_attempts(&mut *connection, &live).await?.pop();
    let forgotten = NewAttempt { id: said.held.attempt, node: hello.node, reservation };
    let adopted = lifecycle::adopt(&mut task, previous.as_mut(), forgotten, said.held.fence, said.number, at);
    let Some((attempt, events)) = adopted else { return Ok(false) };
    // The lost one first: at no moment may a task have two that live.
    save_attempts(&mut *connection, previous.as_slice()).await?;
    let new = [(attempt, task.exclusive)];
    save_leased(&mut *connection, &[(task, events)], &new, None).await?;
    Ok(true)
}

/// The node is back with its work, so nobody is to replace it: as if it had reported it. (The agent itself has nothing to say about
/// an attempt whose reports were all committed once.)
pub(crate) async fn hear(connection: &mut PgConnection, reports: &[(Held, Report)]) -> Result<Vec<Topic>, StoreError> {
    if reports.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = reports.iter().map(|(held, _)| held.attempt.as_uuid()).collect();
    let mut rows = load_attempts(&mut *connection, &ids).await?;
    let task_ids: Vec<Uuid> = rows.iter().map(|row| row.task.as_uuid()).collect();
    let mut tasks = lock_tasks(&mut *connection, &task_ids).await?;
    let mut policies: BTreeMap<TaskId, RetryPolicy> = BTreeMap::new();
    for row in
        sqlx::query!(r#"SELECT id, spec->'retry' AS "retry!: JsonText" FROM tasks WHERE id = ANY($1)"#, &task_ids)
            .fetch_all(&mut *connection)
            .await?
    {
        policies.insert(TaskId::from_uuid(row.id), read_json(row.retry)?);
    }
    let at = now(&mut *connection).await?;
    let mut changed: BTreeMap<TaskId, (TaskRow, Vec<lifecycle::Event>)> = BTreeMap::new();
    for (held, report) in reports {
        let Some(attempt) = rows.iter_mut().find(|attempt| attempt.id == held.attempt) else { continue };
        let Some(task) = tasks.iter_mut().find(|task| task.live == Some(attempt.id)) else { continue };
        let policy = policies.get(&task.id).cloned().unwrap_or_default();
        // It is there, so it did not go down.
        let node = Presence { session_since: Some(Timestamp::MIN_UTC), ..Presence::default() };
        let around = Around { policy: &policy, now: at, jitter_0_to_1: 0.0, node, is_probe: false };
        if let Verdict::Recorded(events) = lifecycle::report(task, attempt, *held, report, &around) {
            let (row, all) = changed.entry(task.id).or_insert_with(|| (task.clone(), Vec::new()));
            *row = task.clone();
            all.extend(events);
        }
    }
    save_attempts(&mut *connection, &rows).await?;
    let changed: Vec<_> = changed.into_values().collect();
    save_tasks(&mut *connection, &changed).await?;
    Ok(changed.iter().map(|(task, _)| Topic::Task(task.id)).collect())
}

/// The node was only out of reach: what runs there did not take it down.
pub(crate) async fn absolve(
    connection: &mut PgConnection,
    attempts: &[Uuid],
    tasks: &[Uuid],
) -> Result<(), StoreError> {
    if attempts.is_empty() {
        return Ok(());
    }
    let rows = load_attempts(&mut *connection, attempts).await?;
    let changed: Vec<_> = lock_tasks(&mut *connection, tasks)
        .await?
        .into_iter()
        .filter_map(|mut task| {
            let attempt = rows.iter().find(|attempt| attempt.task == task.id)?;
            lifecycle::returned_alive(&mut task, attempt).then_some((task, Vec::new()))
        })
        .collect();
    save_tasks(&mut *connection, &changed).await
}
