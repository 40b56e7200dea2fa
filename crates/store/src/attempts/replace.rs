//! Work on nodes that are away: queues what may be replaced, and gives up what a node can't have any more.

use crate::{
    Leadership, Store, StoreError, Topic,
    attempts::exclusive,
    json::{JsonText, read_json},
    leader,
    nodes::presence::presence_of,
    rows::{load_attempts, lock_tasks, now, save_attempts, save_tasks},
};
use domain::{
    attempt::AttemptRow,
    ids::{AttemptId, NodeId, TaskId},
    lifecycle::{self, Around, CancelVerdict},
    poison::Presence,
    retry::RetryPolicy,
};
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

impl Store {
    /// Queues tasks whose node has been offline for longer than their `replace_after`, at most `limit`. Returns how many.
    /// State and fence stay: the old attempt may still come back before the new one is leased. What is revoked never comes back, so
    /// it is given up at once; a task whose exit facts are committed ends by them; and a task that is to be cancelled waits for
    /// nobody: it ends, since its node may never confirm.
    ///
    /// Counted in the time that sweeps have measured, so that a step of the database's clock is none of it.
    pub async fn queue_replaceable(&self, leadership: &Leadership, limit: i64) -> Result<usize, StoreError> {
        let mut transaction = self.begin().await?;
        leader::require(&mut transaction, leadership).await?;
        // The nodes' rows are locked as when a node comes back: whichever of the two is first, the other one sees it.
        let due = sqlx::query!(
            r#"SELECT a.task_id, a.node_id, (n.admission = 'revoked') AS "revoked!"
               FROM node_live l CROSS JOIN sweep w
               -- From the few nodes that are away to what they have, step by step, never from all that runs or waits.
               CROSS JOIN LATERAL (SELECT admission FROM nodes WHERE id = l.node_id OFFSET 0) n
               CROSS JOIN LATERAL (SELECT id, task_id, node_id, exit, outputs_stored FROM attempts WHERE node_id = l.node_id AND reserved AND ended_at IS NULL OFFSET 0) a
               CROSS JOIN LATERAL (SELECT cancel_requested, queued, state FROM task_state
                                   WHERE task_id = a.task_id AND live_attempt_id = a.id OFFSET 0) s
               WHERE l.offline_since IS NOT NULL
                 AND (s.cancel_requested OR (NOT s.queued OR n.admission = 'revoked' OR s.state = 'finishing'
                        -- What waits to be run again for outputs that went with its node is looked at once they turn out to be stored.
                        AND COALESCE((a.exit->>'outputs_due')::int, 0) <= COALESCE(a.outputs_stored, 0)) AND
                      l.offline_at_ms + (SELECT (t.spec->'on_node_loss'->>'replace_after_ms')::bigint FROM tasks t WHERE t.id = a.task_id) <= w.seen_ms)
               ORDER BY a.task_id LIMIT $1 FOR SHARE OF l"#,
            limit
        )
        .fetch_all(&mut *transaction)
        .await?;
        let ids: Vec<Uuid> = due.iter().map(|row| row.task_id).collect();
        let tasks = lock_tasks(&mut transaction, &ids).await?;
        let live: Vec<Uuid> = tasks.iter().filter_map(|task| task.live).map(AttemptId::as_uuid).collect();
        let mut attempts = load_attempts(&mut transaction, &live).await?;
        let policies = retry_policies(&mut transaction, &ids).await?;
        let mut presences: BTreeMap<NodeId, Presence> = BTreeMap::new();
        for node in due.iter().map(|row| row.node_id).collect::<BTreeSet<_>>() {
            let node = NodeId::from_uuid(node);
            presences.insert(node, presence_of(&mut transaction, node).await?);
        }
        let at = now(&mut transaction).await?;
        let mut changed = Vec::new();
        let mut touched = Vec::new();
        for mut task in tasks {
            let Some(attempt) = attempts.iter_mut().find(|attempt| task.live == Some(attempt.id)) else { continue };
            let before = attempt.clone();
            let policy = policies.get(&task.id).cloned().unwrap_or_default();
            let around = Around {
                policy: &policy,
                now: at,
                jitter_0_to_1: rand::rng().random::<f64>(),
                node: presences.get(&attempt.node).copied().unwrap_or_default(),
                is_probe: false,
            };
            let is_revoked = due.iter().any(|row| row.task_id == task.id.as_uuid() && row.revoked);
            let events = if task.cancel_requested {
                match lifecycle::cancel(&mut task, Some(attempt), true, at) {
                    CancelVerdict::Cancelled(events) => Some(events),
                    CancelVerdict::Requested(_) | CancelVerdict::Repeated | CancelVerdict::AlreadyEnded => None,
                }
            } else if is_revoked {
                lifecycle::give_up(&mut task, attempt, "its node was revoked", &around)
            } else {
                lifecycle::allow_replacement(&mut task, attempt, &around)
            };
            if *attempt != before {
                touched.push(attempt.clone());
            }
            changed.extend(events.map(|events| (task, events)));
        }
        save_attempts(&mut transaction, &touched).await?;
        // Nobody will ever say that these are free. What is exclusive holds back its task's next attempt for as long as it may live.
        sqlx::query!(
            "UPDATE attempts a SET reserved = false FROM nodes n JOIN node_live l ON l.node_id = n.id, tasks t, sweep w
             WHERE a.node_id = ANY(ARRAY(SELECT id FROM nodes WHERE admission = 'revoked'))
               AND a.node_id = n.id AND t.id = a.task_id AND n.admission = 'revoked' AND l.offline_at_ms <= w.seen_ms AND a.reserved AND a.ended_at IS NOT NULL
               AND (NOT COALESCE((t.spec->'on_node_loss'->>'exclusive')::boolean, false) OR
                    l.offline_at_ms + (t.spec->'on_node_loss'->>'replace_after_ms')::bigint <= w.seen_ms)"
        )
        .execute(&mut *transaction)
        .await?;
        save_tasks(&mut transaction, &changed).await?;
        transaction.commit().await?;
        if !changed.is_empty() {
            self.wakeups.publish(changed.iter().map(|(task, _)| Topic::Task(task.id)).chain([Topic::Queue]));
        }
        Ok(changed.len())
    }
}

/// Retry policies of these tasks.
pub(crate) async fn retry_policies(
    connection: &mut sqlx::PgConnection,
    tasks: &[Uuid],
) -> Result<BTreeMap<TaskId, RetryPolicy>, StoreError> {
    sqlx::query!(r#"SELECT id, spec->'retry' AS "retry!: JsonText" FROM tasks WHERE id = ANY($1)"#, tasks)
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok((TaskId::from_uuid(row.id), read_json(row.retry)?)))
        .collect()
}

/// Whether what an attempt held is free once it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// It knows nothing of the attempt.
    IsFree,
    /// It may go on until it hears that it must stop.
    MayGoOn,
    /// Another installation has its place. Nobody can ask the old one: what is exclusive there ends by itself, and is waited for.
    OfAnother,
}

/// Gives up attempts that their node does not have any more, or may not have: live ones are placed again, or end by their exit facts.
pub(crate) async fn give_up(
    connection: &mut sqlx::PgConnection,
    node: NodeId,
    attempts: &[Uuid],
    because: &str,
    machine: Machine,
) -> Result<Vec<Topic>, StoreError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let task_ids = sqlx::query_scalar!(
        "SELECT DISTINCT task_id FROM attempts WHERE id = ANY($1) AND node_id = $2",
        attempts,
        node.as_uuid()
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut tasks = lock_tasks(&mut *connection, &task_ids).await?;
    let mut rows: Vec<AttemptRow> = load_attempts(&mut *connection, attempts).await?;
    let policies = retry_policies(&mut *connection, &task_ids).await?;
    let presence = presence_of(&mut *connection, node).await?;
    let at = now(&mut *connection).await?;
    let wait = match machine {
        Machine::IsFree | Machine::MayGoOn => BTreeMap::new(),
        Machine::OfAnother => {
            // Exit facts are of a process that has ended.
            let may_live = |row: &&AttemptRow| row.exit.is_none();
            let may_live: Vec<Uuid> = rows.iter().filter(may_live).map(|row| row.id.as_uuid()).collect();
            exclusive::wait_for(&mut *connection, &may_live).await?
        }
    };
    let mut changed = Vec::new();
    for attempt in &mut rows {
        attempt.reserved &= machine == Machine::MayGoOn;
        let policy = policies.get(&attempt.task).cloned().unwrap_or_default();
        let around = Around {
            policy: &policy,
            now: at,
            jitter_0_to_1: rand::rng().random::<f64>(),
            node: presence,
            is_probe: false,
        };
        if let Some(place) = tasks.iter().position(|task| task.id == attempt.task && task.live == Some(attempt.id))
            && let Some(events) = lifecycle::give_up(&mut tasks[place], attempt, because, &around)
        {
            let mut task = tasks.swap_remove(place);
            task.not_before = task.not_before.max(wait.get(&task.id.as_uuid()).copied());
            changed.push((task, events));
        }
    }
    // Those that have ended already may be run again by a person, and then they wait as well.
    for mut task in tasks.into_iter().filter(|task| task.live.is_none() && wait.contains_key(&task.id.as_uuid())) {
        task.not_before = task.not_before.max(wait.get(&task.id.as_uuid()).copied());
        changed.push((task, Vec::new()));
    }
    save_attempts(&mut *connection, &rows).await?;
    save_tasks(&mut *connection, &changed).await?;
    let ended = rows.iter().map(|attempt: &AttemptRow| attempt.id).collect::<Vec<AttemptId>>();
    Ok(changed
        .iter()
        .map(|(task, _)| Topic::Task(task.id))
        .chain(ended.into_iter().map(Topic::Log))
        .chain([Topic::Queue])
        .collect())
}
