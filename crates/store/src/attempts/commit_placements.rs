//! Leases tasks to nodes. The plan was made from a snapshot, so everything is checked again under the tasks' locks.

use crate::{
    Leadership, Store, StoreError, Topic,
    attempts::exclusive,
    json::{JsonText, read_json, write_text},
    leader,
    nodes::faults::{lock_faults, save_faults},
    rows::{load_attempts, lock_tasks, save_attempts, save_tasks},
};
use domain::{
    attempt::AttemptRow,
    ids::{AttemptId, ClusterEpoch, NodeId, TaskId},
    lifecycle::{self, NewAttempt},
    placement::Placement,
    resources::Ledger,
};
use std::collections::{BTreeMap, BTreeSet};
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
        let leader::Led { epoch, at } = leader::require_to_lease(&mut transaction, leadership).await?;
        let wanted: BTreeMap<TaskId, &Placement> = plan.iter().map(|placement| (placement.task, placement)).collect();
        let ids: Vec<Uuid> = wanted.keys().map(|task| task.as_uuid()).collect();
        let nodes: Vec<Uuid> = plan.iter().map(|placement| placement.node.as_uuid()).collect();
        let (mut room, cordoned) = room_on(&mut transaction, &nodes).await?;
        let tasks = lock_tasks(&mut transaction, &ids).await?;
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
        for mut task in tasks.into_iter().filter(|task| !held_back.contains(&task.id.as_uuid())) {
            let Some(placement) = wanted.get(&task.id) else { continue };
            let Some(ledger) =
                room.get_mut(&placement.node).filter(|ledger| ledger.has_room_for(&placement.reservation))
            else {
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
                ledger.hold(&attempt.reservation);
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
        insert_attempts(&mut transaction, &new).await?;
        save_tasks(&mut transaction, &changed).await?;
        transaction.commit().await?;
        let topics = new.iter().flat_map(|(attempt, _)| [Topic::Leased(attempt.node), Topic::Task(attempt.task)]);
        self.wakeups.publish(topics.chain(lost.iter().map(|attempt| Topic::Node(attempt.node))));
        Ok(new.into_iter().map(|(attempt, _)| (attempt.task, attempt.id)).collect())
    }
}

/// The nodes among these that take work, with what is held on them now. The leader's row is locked by this transaction, so
/// nobody else places; but an earlier commit of this very leader, whose answer was lost, may have ended after the snapshot.
/// With them, those that the rule keeps work away from.
async fn room_on(
    connection: &mut sqlx::PgConnection,
    nodes: &[Uuid],
) -> Result<(BTreeMap<NodeId, Ledger>, Vec<Uuid>), StoreError> {
    let open = sqlx::query!(
        r#"SELECT n.id, n.facts->'capacity' AS "capacity!: JsonText", (f.record ->> 'cordon' IS NOT NULL) AS "cordoned!",
                  ARRAY(SELECT a.reservation FROM attempts a WHERE a.node_id = n.id AND a.reserved) AS "held!: Vec<JsonText>"
           FROM nodes n JOIN node_live l ON l.node_id = n.id LEFT JOIN node_faults f ON f.node_id = n.id
           WHERE n.id = ANY($1) AND n.admission = 'open' AND l.connected AND l.offline_since IS NULL"#,
        nodes
    )
    .fetch_all(connection)
    .await?;
    let cordoned = open.iter().filter(|node| node.cordoned).map(|node| node.id).collect();
    let mut room = BTreeMap::new();
    for node in open {
        let mut ledger = Ledger::new(read_json(node.capacity)?);
        for reservation in node.held {
            ledger.hold(&read_json(reservation)?);
        }
        room.insert(NodeId::from_uuid(node.id), ledger);
    }
    Ok((room, cordoned))
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

/// Inserts new attempts; with each, whether its task is exclusive. The second wall behind `task_state.live_attempt_id`: a task that has
/// an attempt which lives gets no other.
pub(crate) async fn insert_attempts(
    connection: &mut sqlx::PgConnection,
    new: &[(AttemptRow, bool)],
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let inserted = sqlx::query!(
        "INSERT INTO attempts (id, task_id, number, node_id, fence, state, reservation, reserved, placed_at, offline_after_ms)
         SELECT n.id, n.task_id, n.number, n.node_id, n.fence, 'assigned', n.reservation::json, true, now(), CASE WHEN n.exclusive THEN c.offline_after_ms END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::int[], $4::uuid[], $5::bigint[], $6::text[], $7::bool[])
           AS n(id, task_id, number, node_id, fence, reservation, exclusive) CROSS JOIN cluster c
         WHERE NOT EXISTS (SELECT FROM attempts live WHERE live.task_id = n.task_id AND live.ended_at IS NULL)",
        &new.iter().map(|(a, _)| a.id.as_uuid()).collect::<Vec<_>>(),
        &new.iter().map(|(a, _)| a.task.as_uuid()).collect::<Vec<_>>(),
        &new.iter().map(|(a, _)| a.number as i32).collect::<Vec<_>>(),
        &new.iter().map(|(a, _)| a.node.as_uuid()).collect::<Vec<_>>(),
        &new.iter().map(|(a, _)| a.fence.get()).collect::<Vec<_>>(),
        &new.iter().map(|(a, _)| write_text(&a.reservation)).collect::<Vec<_>>(),
        &new.iter().map(|(_, exclusive)| *exclusive).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?
    .rows_affected();
    if inserted < new.len() as u64 {
        return Err(StoreError::Corrupt("a task that waits has an attempt that lives".into()));
    }
    Ok(())
}
