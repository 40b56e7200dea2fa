//! Leases tasks to nodes. The plan was made from a snapshot, so everything is checked again under the tasks' locks.

use crate::{
    Leadership, Store, StoreError, Topic,
    attempts::exclusive,
    figures,
    json::{JsonText, read_json},
    leader,
    nodes::faults::{lock_faults, save_faults},
    rows::{TaskStateRecord, load_attempts, save_attempts, save_leased},
};
use domain::{
    Timestamp,
    attempt::AttemptRow,
    ids::{AttemptId, ClusterEpoch, NodeId, TaskId},
    lifecycle::{self, NewAttempt},
    placement::Placement,
    resources::{Ledger, Reservation},
    task::TaskRow,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use uuid::Uuid;

/// What one commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    pub placed: usize,
    /// Placements that were not true any more.
    pub stale: usize,
}

impl Store {
    /// As [`Store::lease_tasks`], counted.
    pub async fn commit_placements(
        &self,
        leadership: &Leadership,
        plan: &[Placement],
    ) -> Result<CommitReport, StoreError> {
        let placed = self.lease_tasks(leadership, plan).await?.len();
        Ok(CommitReport { placed, stale: plan.len() - placed })
    }

    /// Commits what still holds, in one transaction, and returns the attempts that were made. `StoreError::NotLeader`: nothing was
    /// written; step down.
    pub async fn lease_tasks(
        &self,
        leadership: &Leadership,
        plan: &[Placement],
    ) -> Result<BTreeMap<TaskId, AttemptId>, StoreError> {
        let mut transaction = self.begin_for(plan.len()).await?;
        // What leases of exclusive work are made from is not set meanwhile.
        let began = Instant::now();
        let leader::Led { epoch, at } = leader::require_to_lease(&mut transaction, leadership).await?;
        let wanted: BTreeMap<TaskId, &Placement> = plan.iter().map(|placement| (placement.task, placement)).collect();
        let Seen { mut tasks, mut room, first, cordoned } = look_again(&mut transaction, &wanted).await?;
        let previous: Vec<Uuid> = tasks.iter().filter_map(|task| task.live).map(AttemptId::as_uuid).collect();
        let mut previous: BTreeMap<AttemptId, AttemptRow> =
            load_attempts(&mut transaction, &previous).await?.into_iter().map(|a| (a.id, a)).collect();
        // Cordoned by the rule: one task each, if its probe is due.
        let mut faults =
            if cordoned.is_empty() { BTreeMap::new() } else { lock_faults(&mut transaction, &cordoned).await? };
        let under_way = probes_under_way(&mut transaction, &cordoned).await?;
        let exclusive: Vec<Uuid> = tasks.iter().filter(|task| task.exclusive).map(|task| task.id.as_uuid()).collect();
        let held_back = exclusive::held_back(&mut transaction, &exclusive).await?;
        let (mut changed, mut new) = (Vec::new(), Vec::new());
        // What there is room for comes before what is to wait for room, or that would have it.
        tasks.sort_by_key(|task| wanted.get(&task.id).is_some_and(|placement| placement.reservation.ahead));
        for mut task in tasks.into_iter().filter(|task| !held_back.contains(&task.id.as_uuid())) {
            let Some(placement) = wanted.get(&task.id) else { continue };
            let Some(room) = room.get_mut(&placement.node).filter(|room| room.is_for(&placement.reservation)) else {
                continue;
            };
            let cordon = faults.get_mut(&placement.node).filter(|faults| faults.is_cordoned());
            if cordon.as_ref().is_some_and(|it| !it.may_probe(under_way.contains(&placement.node), at)) {
                continue;
            }
            let live = task.live.and_then(|live| previous.get_mut(&live));
            let placed = NewAttempt {
                id: AttemptId::from_uuid(Uuid::now_v7()),
                node: placement.node,
                reservation: placement.reservation.clone(),
            };
            if let Some((attempt, events)) = lifecycle::place(&mut task, live, placed, ClusterEpoch(epoch), at) {
                room.ledger.hold(&attempt.reservation);
                if let Some(cordon) = cordon {
                    cordon.probe_with(attempt.id, at);
                    save_faults(&mut transaction, attempt.node, Some(cordon)).await?;
                }
                new.push((attempt, task.exclusive));
                changed.push((task, events));
            }
        }
        // The lost attempt first: at no moment may a task have two that live.
        let lost: Vec<AttemptRow> = previous.into_values().filter(|attempt| attempt.state.is_terminal()).collect();
        save_attempts(&mut transaction, &lost).await?;
        let topics: Vec<Topic> = new
            .iter()
            .flat_map(|(attempt, _)| [Topic::Leased(attempt.node), Topic::Task(attempt.task)])
            .chain(lost.iter().map(|attempt| Topic::Node(attempt.node)))
            .collect();
        let hint = if new.len() == 1 { self.wakeups.to_be_carried(&topics) } else { None };
        let is_carried = hint.is_some();
        save_leased(&mut transaction, &changed, &new, hint).await?;
        transaction.commit().await?;
        // The transaction began at `at`, by the database's clock.
        let took = began.elapsed().as_secs_f64();
        let waited =
            |(attempt, _): &(AttemptRow, bool)| Some(figures::seconds_between(*first.get(&attempt.task)?, at) + took);
        figures::placed(new.iter().filter_map(waited));
        match is_carried {
            true => self.wakeups.was_carried(&topics),
            false => self.wakeups.publish(topics),
        }
        Ok(new.into_iter().map(|(attempt, _)| (attempt.task, attempt.id)).collect())
    }
}

/// What a node that takes work has, and what is held of it.
struct Room {
    ledger: Ledger,
    /// Its agent keeps what is sent ahead until it has room for it, and nothing keeps work away from it.
    lets_wait: bool,
}

impl Room {
    fn is_for(&self, reservation: &Reservation) -> bool {
        match reservation.ahead {
            false => self.ledger.has_room_for(reservation),
            true => self.lets_wait && self.ledger.has_room_ahead_for(reservation),
        }
    }
}

/// What a plan is checked against.
struct Seen {
    /// Those that are there, locked.
    tasks: Vec<TaskRow>,
    /// The nodes that take work, with what is held on them.
    room: BTreeMap<NodeId, Room>,
    /// Of those that never had an attempt: since when they wait.
    first: BTreeMap<TaskId, Timestamp>,
    /// Of these, those that the rule keeps work away from.
    cordoned: Vec<Uuid>,
}

/// Locks the tasks in the order of their ids, and reads the nodes. The leader's row is locked by this transaction, so nobody else places;
/// but an earlier commit of this very leader, whose answer was lost, may have ended after the snapshot.
///
/// One statement, since a lone task waits for each. A node is read beside the first of its tasks: if that one is not there any more, the
/// node is not seen either, and the others are planned again.
async fn look_again(
    connection: &mut sqlx::PgConnection,
    wanted: &BTreeMap<TaskId, &Placement>,
) -> Result<Seen, StoreError> {
    let ids: Vec<Uuid> = wanted.keys().map(|task| task.as_uuid()).collect();
    let mut named = BTreeSet::new();
    let nodes: Vec<Option<Uuid>> = wanted.values().map(|it| named.insert(it.node).then(|| it.node.as_uuid())).collect();
    let rows = sqlx::query!(
        r#"SELECT s.task_id, s.project_id,
                  COALESCE(s.exclusive, (SELECT (t.spec->'on_node_loss'->>'exclusive')::boolean FROM tasks t WHERE t.id = s.task_id), false) AS "exclusive!",
                  s.queued, s.state, s.live_attempt_id, s.fence, s.attempts, s.user_failures, s.infra_failures, s.node_losses,
                  s.cancel_requested, s.not_before, s.avoid_node, s.died_with, s.failure, s.exit_code, s.message, s.ended_at, s.queued_at,
                  n.id AS "node?", n.capacity AS "capacity?: JsonText", n.cordoned AS "cordoned?", n.lets_wait AS "lets_wait?", n.held AS "held?: Vec<JsonText>"
           FROM UNNEST($1::uuid[], $2::uuid[]) AS wanted(task_id, node_id) JOIN task_state s ON s.task_id = wanted.task_id
           LEFT JOIN LATERAL (
             SELECT n.id, n.facts->'capacity' AS capacity, (f.record ->> 'cordon' IS NOT NULL) AS cordoned,
                    COALESCE((n.facts->'features')::jsonb ? 'ahead', false) AS lets_wait,
                    ARRAY(SELECT a.reservation FROM attempts a WHERE a.node_id = n.id AND a.reserved) AS held
             FROM nodes n JOIN node_live l ON l.node_id = n.id LEFT JOIN node_faults f ON f.node_id = n.id
             WHERE n.id = wanted.node_id AND n.admission = 'open' AND l.connected AND l.offline_since IS NULL
           ) n ON true
           ORDER BY s.task_id FOR UPDATE OF s"#,
        &ids,
        &nodes as &[Option<Uuid>],
    )
    .fetch_all(connection)
    .await?;
    let mut seen = Seen {
        tasks: Vec::with_capacity(rows.len()),
        room: BTreeMap::new(),
        first: BTreeMap::new(),
        cordoned: Vec::new(),
    };
    for row in rows {
        if let (Some(node), Some(capacity)) = (row.node, row.capacity) {
            let mut ledger = Ledger::new(read_json(capacity)?);
            for reservation in row.held.unwrap_or_default() {
                ledger.hold(&read_json(reservation)?);
            }
            let is_cordoned = row.cordoned.unwrap_or(false);
            let lets_wait = row.lets_wait.unwrap_or(false) && !is_cordoned;
            seen.room.insert(NodeId::from_uuid(node), Room { ledger, lets_wait });
            seen.cordoned.extend(is_cordoned.then_some(node));
        }
        if row.attempts == 0 {
            seen.first.insert(TaskId::from_uuid(row.task_id), row.queued_at);
        }
        let task = TaskStateRecord {
            task_id: row.task_id,
            project_id: row.project_id,
            exclusive: row.exclusive,
            queued: row.queued,
            state: row.state,
            live_attempt_id: row.live_attempt_id,
            fence: row.fence,
            attempts: row.attempts,
            user_failures: row.user_failures,
            infra_failures: row.infra_failures,
            node_losses: row.node_losses,
            cancel_requested: row.cancel_requested,
            not_before: row.not_before,
            avoid_node: row.avoid_node,
            died_with: row.died_with,
            failure: row.failure,
            exit_code: row.exit_code,
            message: row.message,
            ended_at: row.ended_at,
        };
        seen.tasks.push(task.into_row()?);
    }
    Ok(seen)
}

/// Nodes whose last probe has not ended.
async fn probes_under_way(connection: &mut sqlx::PgConnection, nodes: &[Uuid]) -> Result<BTreeSet<NodeId>, StoreError> {
    if nodes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let nodes = sqlx::query_scalar!(
        "SELECT f.node_id FROM node_faults f JOIN attempts a ON a.id = (f.record #>> '{cordon,probe}')::uuid
         WHERE f.node_id = ANY($1) AND a.ended_at IS NULL",
        nodes
    )
    .fetch_all(connection)
    .await?;
    Ok(nodes.into_iter().map(NodeId::from_uuid).collect())
}
