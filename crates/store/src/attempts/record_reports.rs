//! Records what nodes report. The way of everything that a node says: lock the tasks, apply the rule, write, commit, then answer.

use crate::{
    SessionKey, Store, StoreError, Topic,
    attempts::replace::retry_policies,
    json::{JsonText, write_json},
    nodes::{
        faults::{lock_failing, lock_faults, save_faults},
        presence::presence_of,
    },
    rows::{load_attempts, lock_tasks, save_attempts, save_tasks},
};
use domain::{
    Timestamp,
    attempt::{AttemptRow, Report},
    black_hole::{self, Evidence, NodeFaults},
    ids::{AttemptId, ClusterEpoch, Fence, Held, NodeId, TaskId},
    lifecycle::{self, Around, Event, Verdict},
    outcome::FailureKind,
    poison::Presence,
    retry::RetryPolicy,
    task::TaskRow,
};
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    pub held: Held,
    pub report: Report,
}

impl NodeReport {
    fn is_release(&self) -> bool {
        self.report == Report::Released
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportVerdict {
    Recorded,
    /// Recorded before: the same answer again.
    Repeated,
    /// The attempt holds its task no more, or never was this node's: it is to be stopped and removed there.
    Fenced,
    /// It ended otherwise before.
    Conflict,
    /// The database has forgotten it since a restore, and nobody leased its task again: it may end, and its end is kept aside.
    Orphan,
    /// The session is not the node's newest: nothing was looked at.
    StaleSession,
}

/// What one session's node sent, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionReports {
    pub session: SessionKey,
    pub reports: Vec<NodeReport>,
}

impl ReportVerdict {
    /// The word under which a report is kept that did not count.
    fn as_evidence(self) -> Option<&'static str> {
        match self {
            Self::Fenced => Some("fenced"),
            Self::Conflict => Some("conflict"),
            Self::Orphan => Some("orphan"),
            Self::Recorded | Self::Repeated | Self::StaleSession => None,
        }
    }
}

impl Store {
    /// [`Store::record_reports_of_many`] for one session.
    pub async fn record_reports(
        &self,
        session: SessionKey,
        batch: &[NodeReport],
    ) -> Result<Vec<ReportVerdict>, StoreError> {
        let one = SessionReports { session, reports: batch.to_vec() };
        Ok(self.record_reports_of_many(&[one]).await?.pop().unwrap_or_default())
    }

    /// Records what several nodes sent, each in its own order, in one transaction. Each report gets its own answer. Safe to repeat:
    /// a report that was committed answers `Repeated`. When this returns Ok, what was recorded survives any crash, so it may be
    /// acknowledged.
    pub async fn record_reports_of_many(
        &self,
        batch: &[SessionReports],
    ) -> Result<Vec<Vec<ReportVerdict>>, StoreError> {
        let attempts: BTreeSet<AttemptId> =
            batch.iter().flat_map(|of| &of.reports).map(|item| item.held.attempt).collect();
        let mut transaction = self.begin_for(attempts.len()).await?;
        let reports = || batch.iter().flat_map(|of| &of.reports);
        // A release changes its attempt only: no task is locked for it.
        let ids: BTreeSet<Uuid> =
            reports().filter(|item| !item.is_release()).map(|item| item.held.attempt.as_uuid()).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let leased: BTreeSet<(Uuid, i32)> =
            reports().map(|item| (item.held.attempt.as_uuid(), item.held.fence.epoch().0)).collect();
        let (leased, epochs): (Vec<Uuid>, Vec<i32>) = leased.into_iter().unzip();
        let nodes: BTreeSet<Uuid> = batch.iter().map(|of| of.session.node.as_uuid()).collect();
        let nodes: Vec<Uuid> = nodes.into_iter().collect();
        // The sessions' rows are held until the commit, so that none opened meanwhile finds these reports half counted.
        let known = sqlx::query!(
            r#"WITH sessions AS (SELECT node_id, session_epoch FROM node_live WHERE node_id = ANY($1) ORDER BY node_id FOR KEY SHARE)
               SELECT ARRAY(SELECT node_id FROM sessions) AS "nodes!", ARRAY(SELECT session_epoch FROM sessions) AS "epochs!", now() AS "at!",
                      ARRAY(SELECT node_id FROM node_faults WHERE node_id = ANY($1)) AS "faulty!",
                      ARRAY(SELECT DISTINCT task_id FROM attempts WHERE id = ANY($2) AND node_id = ANY($1)) AS "tasks!",
                      ARRAY(SELECT a.id FROM cluster c JOIN UNNEST($3::uuid[], $4::int[]) AS l(id, epoch) ON l.epoch <> c.epoch
                            JOIN attempts a ON a.id = l.id) AS "of_other_epochs!", (SELECT epoch FROM cluster) AS "epoch!""#,
            &nodes,
            &ids,
            &leased,
            &epochs
        )
        .fetch_one(&mut *transaction)
        .await?;
        let newest: BTreeSet<(Uuid, i64)> = known.nodes.into_iter().zip(known.epochs).collect();
        let is_newest = |session: &SessionKey| newest.contains(&(session.node.as_uuid(), session.epoch));
        if !batch.iter().any(|of| is_newest(&of.session)) {
            return Ok(batch.iter().map(|of| vec![ReportVerdict::StaleSession; of.reports.len()]).collect());
        }
        let at = known.at;
        let is_orphan = |held: Held| {
            held.fence.epoch() != ClusterEpoch(known.epoch) && !known.of_other_epochs.contains(&held.attempt.as_uuid())
        };
        let mut tasks: BTreeMap<TaskId, (TaskRow, Vec<Event>, bool)> = lock_tasks(&mut transaction, &known.tasks)
            .await?
            .into_iter()
            .map(|task| (task.id, (task, Vec::new(), false)))
            .collect();
        let mut attempts: BTreeMap<AttemptId, AttemptRow> =
            load_attempts(&mut transaction, &ids).await?.into_iter().map(|attempt| (attempt.id, attempt)).collect();
        let of_newest = batch.iter().filter(|of| is_newest(&of.session));
        let Freed { now: mut freed, known: mut known_free } = release(&mut transaction, of_newest, &attempts).await?;
        let mut unanswered = freed.clone();
        let mut released = BTreeSet::new();
        let around = Surroundings::read(&mut transaction, batch, &known.tasks, &known.faulty).await?;
        let mut faults = around.faults.clone();
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for SessionReports { session, reports } in batch {
            if !is_newest(session) {
                verdicts.push(vec![ReportVerdict::StaleSession; reports.len()]);
                continue;
            }
            let mut answers = Vec::with_capacity(reports.len());
            for item in reports {
                if item.is_release() {
                    let who = (session.node, item.held);
                    // With its end, as short work says it: one write for both.
                    if let Some(attempt) = attempts.get_mut(&item.held.attempt).filter(|it| is_of(it, &who)) {
                        if std::mem::take(&mut attempt.reserved) {
                            released.insert(attempt.id);
                            freed.insert(who);
                            unanswered.insert(who);
                        }
                        known_free.insert(who);
                    }
                    answers.push(match () {
                        () if unanswered.remove(&who) => ReportVerdict::Recorded,
                        () if known_free.contains(&who) => ReportVerdict::Repeated,
                        () if is_orphan(item.held) => ReportVerdict::Orphan,
                        // A late release is no evidence of anything.
                        () => ReportVerdict::Fenced,
                    });
                    continue;
                }
                let attempt = attempts.get_mut(&item.held.attempt).filter(|attempt| attempt.node == session.node);
                let held = attempt.and_then(|attempt| Some((tasks.get_mut(&attempt.task)?, attempt)));
                let answer = match held {
                    None if is_orphan(item.held) => ReportVerdict::Orphan,
                    None => ReportVerdict::Fenced,
                    Some(((task, events, changed), attempt)) => {
                        let faults = faults.entry(session.node).or_default();
                        let around = around.of(session.node, task.id, at, faults.as_ref(), attempt.id);
                        match lifecycle::report(task, attempt, item.held, &item.report, &around) {
                            Verdict::Recorded(new) => {
                                if let Report::Ended { ending } = &item.report {
                                    let who = (attempt.id, attempt.task);
                                    *faults = black_hole::after_end(faults.take(), &self.black_hole, who, ending, at);
                                }
                                events.extend(new);
                                *changed = true;
                                ReportVerdict::Recorded
                            }
                            Verdict::Repeated => ReportVerdict::Repeated,
                            Verdict::Fenced if is_orphan(item.held) => ReportVerdict::Orphan,
                            Verdict::Fenced => ReportVerdict::Fenced,
                            Verdict::Conflict => ReportVerdict::Conflict,
                        }
                    }
                };
                if let Some(word) = answer.as_evidence() {
                    rejected.push((session.node, item, word));
                }
                answers.push(answer);
            }
            verdicts.push(answers);
        }
        let changed: Vec<(TaskRow, Vec<Event>)> =
            tasks.into_values().filter(|(.., changed)| *changed).map(|(task, events, _)| (task, events)).collect();
        let changed_tasks: BTreeSet<TaskId> = changed.iter().map(|(task, _)| task.id).collect();
        let is_touched = |attempt: &AttemptRow| changed_tasks.contains(&attempt.task) || released.contains(&attempt.id);
        let touched: Vec<AttemptRow> = attempts.into_values().filter(is_touched).collect();
        save_attempts(&mut transaction, &touched).await?;
        save_tasks(&mut transaction, &changed).await?;
        let is_as_it_was = |node: &NodeId, now: &Option<NodeFaults>| around.faults.get(node).unwrap_or(&None) == now;
        for (node, now) in faults.iter().filter(|(node, now)| !is_as_it_was(node, now)) {
            save_faults(&mut transaction, *node, now.as_ref()).await?;
        }
        for (node, item, word) in rejected {
            keep_aside(&mut transaction, node, item, word).await?;
        }
        transaction.commit().await?;
        self.wakeups.publish(topics(&changed, &freed));
        for (node, now) in &faults {
            self.tell_of_cordon(*node, around.faults.get(node).and_then(Option::as_ref), now.as_ref());
        }
        Ok(verdicts)
    }

    fn tell_of_cordon(&self, node: NodeId, before: Option<&NodeFaults>, now: Option<&NodeFaults>) {
        let is_cordoned = |faults: Option<&NodeFaults>| faults.is_some_and(NodeFaults::is_cordoned);
        match (is_cordoned(before), is_cordoned(now)) {
            (false, true) => {
                let because = now.map_or("", |faults| &faults.last_words);
                tracing::warn!(node.id = %node, because, "a node on which everything fails gets no more work");
            }
            (true, false) => {
                tracing::info!(node.id = %node, "a probe succeeded: the node gets work again");
                self.wakeups.publish([Topic::Room(node), Topic::Queue]);
            }
            (false, false) | (true, true) => {}
        }
    }
}

/// What became of releases.
struct Freed {
    /// Held something until now.
    now: BTreeSet<(NodeId, Held)>,
    /// Those that hold nothing, whoever freed them.
    known: BTreeSet<(NodeId, Held)>,
}

/// Frees what nodes say is free, but for the attempts that are loaded. It counts whoever holds the task now, and whatever became of
/// it: twin of [`lifecycle::report`].
async fn release(
    connection: &mut sqlx::PgConnection,
    batch: impl Iterator<Item = &SessionReports>,
    loaded: &BTreeMap<AttemptId, AttemptRow>,
) -> Result<Freed, StoreError> {
    let said: BTreeSet<(NodeId, Held)> = batch
        .flat_map(|of| of.reports.iter().filter(|item| item.is_release()).map(|item| (of.session.node, item.held)))
        .filter(|who| !loaded.get(&who.1.attempt).is_some_and(|attempt| is_of(attempt, who)))
        .collect();
    let mut freed = Freed { now: BTreeSet::new(), known: BTreeSet::new() };
    if said.is_empty() {
        return Ok(freed);
    }
    let attempts: Vec<Uuid> = said.iter().map(|(_, held)| held.attempt.as_uuid()).collect();
    let fences: Vec<i64> = said.iter().map(|(_, held)| held.fence.get()).collect();
    let nodes: Vec<Uuid> = said.iter().map(|(node, _)| node.as_uuid()).collect();
    let now = sqlx::query!(
        "UPDATE attempts a SET reserved = false FROM UNNEST($1::uuid[], $2::bigint[], $3::uuid[]) AS r(id, fence, node_id)
         WHERE a.id = r.id AND a.fence = r.fence AND a.node_id = r.node_id AND a.reserved RETURNING a.id, a.fence, a.node_id",
        &attempts,
        &fences,
        &nodes
    )
    .fetch_all(&mut *connection)
    .await?;
    freed.now = now.into_iter().map(|row| held_on(row.node_id, row.id, row.fence)).collect();
    if freed.now.len() == said.len() {
        freed.known = said;
        return Ok(freed);
    }
    let known = sqlx::query!(
        "SELECT a.id, a.fence, a.node_id FROM attempts a JOIN UNNEST($1::uuid[], $2::bigint[], $3::uuid[]) AS r(id, fence, node_id)
           ON a.id = r.id AND a.fence = r.fence AND a.node_id = r.node_id",
        &attempts,
        &fences,
        &nodes
    )
    .fetch_all(connection)
    .await?;
    freed.known = known.into_iter().map(|row| held_on(row.node_id, row.id, row.fence)).collect();
    Ok(freed)
}

/// This node has it, by this lease.
fn is_of(attempt: &AttemptRow, (node, held): &(NodeId, Held)) -> bool {
    attempt.node == *node && attempt.held() == *held
}

fn held_on(node: Uuid, attempt: Uuid, fence: i64) -> (NodeId, Held) {
    (NodeId::from_uuid(node), Held { attempt: AttemptId::from_uuid(attempt), fence: Fence::from_i64(fence) })
}

/// A report that changed nothing and may tell something, once.
async fn keep_aside(
    connection: &mut sqlx::PgConnection,
    node: NodeId,
    item: &NodeReport,
    word: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO rejected_reports (attempt_id, node_id, fence, verdict, report) SELECT $1, $2, $3, $4, $5
         WHERE NOT EXISTS (SELECT 1 FROM rejected_reports
                           WHERE attempt_id = $1 AND node_id = $2 AND fence = $3 AND verdict = $4 AND report = $5)",
        item.held.attempt.as_uuid(),
        node.as_uuid(),
        item.held.fence.get(),
        word,
        write_json(&item.report) as JsonText
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the ends in a batch made it necessary to read: nothing where all went well.
struct Surroundings {
    policies: BTreeMap<TaskId, RetryPolicy>,
    no_policy: RetryPolicy,
    presence: BTreeMap<NodeId, Presence>,
    /// Of nodes that had an end; None: nothing is kept of it.
    faults: BTreeMap<NodeId, Option<NodeFaults>>,
}

impl Surroundings {
    async fn read(
        connection: &mut sqlx::PgConnection,
        batch: &[SessionReports],
        tasks: &[Uuid],
        faulty: &[Uuid],
    ) -> Result<Self, StoreError> {
        let endings: Vec<(NodeId, Endings)> =
            batch.iter().map(|of| (of.session.node, Endings::of(&of.reports))).collect();
        let nodes_where = |is: fn(&Endings) -> bool| {
            endings.iter().filter(move |(_, endings)| is(endings)).map(|(node, _)| *node).collect::<BTreeSet<NodeId>>()
        };
        let policies = if nodes_where(|it| it.any_failed).is_empty() {
            BTreeMap::new()
        } else {
            retry_policies(&mut *connection, tasks).await?
        };
        let mut presence = BTreeMap::new();
        for node in nodes_where(|it| it.blames_node) {
            presence.insert(node, presence_of(&mut *connection, node).await?);
        }
        // A success tells only of a node that has faults.
        let mut with_faults = nodes_where(|it| it.any);
        with_faults.retain(|node| faulty.contains(&node.as_uuid()));
        let failing = nodes_where(|it| it.fails);
        if !failing.is_empty() {
            lock_failing(&mut *connection, &ids_of(&failing)).await?;
            with_faults.extend(failing);
        }
        let faults = if with_faults.is_empty() {
            BTreeMap::new()
        } else {
            lock_faults(&mut *connection, &ids_of(&with_faults)).await?.into_iter().map(|(node, faults)| (node, Some(faults))).collect()
        };
        Ok(Self { policies, no_policy: RetryPolicy::default(), presence, faults })
    }

    fn of(
        &self,
        node: NodeId,
        task: TaskId,
        now: Timestamp,
        faults: Option<&NodeFaults>,
        attempt: AttemptId,
    ) -> Around<'_> {
        Around {
            policy: self.policies.get(&task).unwrap_or(&self.no_policy),
            now,
            jitter_0_to_1: rand::rng().random::<f64>(),
            node: self.presence.get(&node).copied().unwrap_or_default(),
            is_probe: faults.is_some_and(|faults| faults.is_probe(attempt)),
        }
    }
}

fn ids_of(nodes: &BTreeSet<NodeId>) -> Vec<Uuid> {
    nodes.iter().map(|node| node.as_uuid()).collect()
}

/// The ends among one node's reports.
struct Endings {
    any: bool,
    any_failed: bool,
    /// One says that the node failed it.
    fails: bool,
    /// One may have gone down with the machine.
    blames_node: bool,
}

impl Endings {
    fn of(batch: &[NodeReport]) -> Self {
        let endings = || {
            batch.iter().filter_map(|item| match &item.report {
                Report::Ended { ending } => Some(ending),
                _ => None,
            })
        };
        let blames_node =
            |kind: Option<FailureKind>| matches!(kind, Some(FailureKind::NodeLost | FailureKind::NodeError));
        Self {
            any: endings().next().is_some(),
            any_failed: endings().any(|ending| ending.failure.is_some()),
            fails: endings().any(|ending| Evidence::of(ending) == Evidence::Fails),
            blames_node: endings().any(|ending| !ending.planned_stop && blames_node(ending.failure)),
        }
    }
}

/// Who should look: followers of the tasks, and the scheduler where room became free or a task waits again.
fn topics(changed: &[(TaskRow, Vec<Event>)], freed: &BTreeSet<(NodeId, Held)>) -> Vec<Topic> {
    let mut topics: Vec<Topic> = changed.iter().map(|(task, _)| Topic::Task(task.id)).collect();
    topics.extend(freed.iter().map(|(_, held)| Topic::Freed(held.attempt)));
    let queues = |event: &Event| matches!(event, Event::Requeued { .. });
    if !freed.is_empty() || changed.iter().any(|(_, events)| events.iter().any(queues)) {
        topics.push(Topic::Queue);
    }
    // A log's followers learn that the attempt ended.
    topics.extend(changed.iter().flat_map(|(_, events)| events).filter_map(|event| match event {
        Event::Ended { attempt, .. } => Some(Topic::Log(*attempt)),
        _ => None,
    }));
    topics
}
