//! Records what nodes report. The way of everything that a node says: lock the tasks, apply the rule, write, commit, then answer.

use crate::{
    SessionKey, Store, StoreError, Topic,
    attempts::{releases::Releases, replace::retry_policies},
    figures,
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
    ids::{AttemptId, ClusterEpoch, Held, NodeId, TaskId},
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
    pub(super) fn is_release(&self) -> bool {
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
        let held: BTreeSet<AttemptId> = batch.iter().flat_map(|of| &of.reports).map(|item| item.held.attempt).collect();
        let mut transaction = self.begin_for(held.len()).await?;
        let known = Known::read(&mut transaction, batch).await?;
        if !batch.iter().any(|of| known.is_newest(&of.session)) {
            return Ok(batch.iter().map(|of| vec![ReportVerdict::StaleSession; of.reports.len()]).collect());
        }
        let mut turn = Turn::load(&mut transaction, known, batch, &self.black_hole).await?;
        let mut verdicts = Vec::with_capacity(batch.len());
        for SessionReports { session, reports } in batch {
            let is_newest = turn.known.is_newest(session);
            let answer = |item| if is_newest { turn.answer(session.node, item) } else { ReportVerdict::StaleSession };
            verdicts.push(reports.iter().map(answer).collect());
        }
        let done = turn.save(&mut transaction).await?;
        transaction.commit().await?;
        self.wakeups.publish(topics(&done.changed, done.releases.freed()));
        for (node, now) in &done.faults {
            self.tell_of_cordon(*node, done.faults_before.get(node).and_then(Option::as_ref), now.as_ref());
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

/// What the reports are about, as it was when the transaction began; the sessions' rows are held until its commit.
struct Known {
    at: Timestamp,
    epoch: ClusterEpoch,
    /// Each node's newest session.
    sessions: BTreeSet<(Uuid, i64)>,
    faulty: Vec<Uuid>,
    /// Of what is reported, but for releases: a release changes its attempt only, and no task is locked for it.
    attempts: Vec<Uuid>,
    tasks: Vec<Uuid>,
    /// Leased in another epoch than this, and known all the same.
    of_other_epochs: Vec<Uuid>,
}

impl Known {
    async fn read(connection: &mut sqlx::PgConnection, batch: &[SessionReports]) -> Result<Self, StoreError> {
        let reports = || batch.iter().flat_map(|of| &of.reports);
        let attempts: BTreeSet<Uuid> =
            reports().filter(|item| !item.is_release()).map(|item| item.held.attempt.as_uuid()).collect();
        let attempts: Vec<Uuid> = attempts.into_iter().collect();
        let leased: BTreeSet<(Uuid, i32)> =
            reports().map(|item| (item.held.attempt.as_uuid(), item.held.fence.epoch().0)).collect();
        let (leased, epochs): (Vec<Uuid>, Vec<i32>) = leased.into_iter().unzip();
        let nodes: BTreeSet<Uuid> = batch.iter().map(|of| of.session.node.as_uuid()).collect();
        let nodes: Vec<Uuid> = nodes.into_iter().collect();
        // The sessions' rows are held until the commit, so that none opened meanwhile finds these reports half counted.
        let row = sqlx::query!(
            r#"WITH sessions AS (SELECT node_id, session_epoch FROM node_live WHERE node_id = ANY($1) ORDER BY node_id FOR KEY SHARE)
               SELECT ARRAY(SELECT node_id FROM sessions) AS "nodes!", ARRAY(SELECT session_epoch FROM sessions) AS "epochs!", now() AS "at!",
                      ARRAY(SELECT node_id FROM node_faults WHERE node_id = ANY($1)) AS "faulty!",
                      ARRAY(SELECT DISTINCT task_id FROM attempts WHERE id = ANY($2) AND node_id = ANY($1)) AS "tasks!",
                      ARRAY(SELECT a.id FROM cluster c JOIN UNNEST($3::uuid[], $4::int[]) AS l(id, epoch) ON l.epoch <> c.epoch
                            JOIN attempts a ON a.id = l.id) AS "of_other_epochs!", (SELECT epoch FROM cluster) AS "epoch!""#,
            &nodes,
            &attempts,
            &leased,
            &epochs
        )
        .fetch_one(connection)
        .await?;
        Ok(Self {
            at: row.at,
            epoch: ClusterEpoch(row.epoch),
            sessions: row.nodes.into_iter().zip(row.epochs).collect(),
            faulty: row.faulty,
            attempts,
            tasks: row.tasks,
            of_other_epochs: row.of_other_epochs,
        })
    }

    fn is_newest(&self, session: &SessionKey) -> bool {
        self.sessions.contains(&(session.node.as_uuid(), session.epoch))
    }

    /// Leased before a restore, of which this database knows nothing.
    fn is_orphan(&self, held: Held) -> bool {
        held.fence.epoch() != self.epoch && !self.of_other_epochs.contains(&held.attempt.as_uuid())
    }
}

/// A task, what happened to it, and whether it is another than before.
type TaskInTurn = (TaskRow, Vec<Event>, bool);

/// The rows that reports are about, locked, and what becomes of them.
struct Turn<'a> {
    known: Known,
    rule: &'a black_hole::Rule,
    tasks: BTreeMap<TaskId, TaskInTurn>,
    attempts: BTreeMap<AttemptId, AttemptRow>,
    releases: Releases,
    around: Surroundings,
    faults: BTreeMap<NodeId, Option<NodeFaults>>,
    rejected: Vec<(NodeId, &'a NodeReport, &'static str)>,
}

/// What was written, for those who are told.
struct Done {
    changed: Vec<(TaskRow, Vec<Event>)>,
    releases: Releases,
    faults: BTreeMap<NodeId, Option<NodeFaults>>,
    faults_before: BTreeMap<NodeId, Option<NodeFaults>>,
}

impl<'a> Turn<'a> {
    async fn load(
        connection: &mut sqlx::PgConnection,
        known: Known,
        batch: &[SessionReports],
        rule: &'a black_hole::Rule,
    ) -> Result<Self, StoreError> {
        let tasks = lock_tasks(&mut *connection, &known.tasks).await?;
        let tasks = tasks.into_iter().map(|task| (task.id, (task, Vec::new(), false))).collect();
        let attempts = load_attempts(&mut *connection, &known.attempts).await?;
        let attempts = attempts.into_iter().map(|attempt| (attempt.id, attempt)).collect();
        let of_newest = batch.iter().filter(|of| known.is_newest(&of.session));
        let releases = Releases::write(&mut *connection, of_newest, &attempts).await?;
        let around = Surroundings::read(connection, batch, &known.tasks, &known.faulty).await?;
        let faults = around.faults.clone();
        Ok(Self { known, rule, tasks, attempts, releases, around, faults, rejected: Vec::new() })
    }

    /// What one report of a node's newest session changes, and the answer to it.
    fn answer(&mut self, node: NodeId, item: &'a NodeReport) -> ReportVerdict {
        let is_orphan = self.known.is_orphan(item.held);
        let attempt = self.attempts.get_mut(&item.held.attempt).filter(|attempt| attempt.node == node);
        if item.is_release() {
            return self.releases.answer((node, item.held), attempt, is_orphan);
        }
        let held = attempt.and_then(|attempt| Some((self.tasks.get_mut(&attempt.task)?, attempt)));
        let verdict = held.map_or(Verdict::Fenced, |((task, events, changed), attempt)| {
            let faults = self.faults.entry(node).or_default();
            let around = self.around.of(node, task.id, self.known.at, faults.as_ref(), attempt.id);
            let verdict = lifecycle::report(task, attempt, item.held, &item.report, &around);
            if let Verdict::Recorded(new) = &verdict {
                if let Report::Ended { ending } = &item.report {
                    let who = (attempt.id, attempt.task);
                    *faults = black_hole::after_end(faults.take(), self.rule, who, ending, self.known.at);
                }
                events.extend(new.iter().cloned());
                *changed = true;
            }
            verdict
        });
        let answer = match verdict {
            Verdict::Recorded(_) => ReportVerdict::Recorded,
            Verdict::Repeated => ReportVerdict::Repeated,
            Verdict::Fenced if is_orphan => ReportVerdict::Orphan,
            Verdict::Fenced => ReportVerdict::Fenced,
            Verdict::Conflict => ReportVerdict::Conflict,
        };
        if let Some(word) = answer.as_evidence() {
            self.rejected.push((node, item, word));
        }
        answer
    }

    async fn save(self, connection: &mut sqlx::PgConnection) -> Result<Done, StoreError> {
        let changed: Vec<(TaskRow, Vec<Event>)> =
            self.tasks.into_values().filter(|(.., changed)| *changed).map(|(task, events, _)| (task, events)).collect();
        let changed_tasks: BTreeSet<TaskId> = changed.iter().map(|(task, _)| task.id).collect();
        let is_touched =
            |attempt: &AttemptRow| changed_tasks.contains(&attempt.task) || self.releases.came_with_its_end(attempt.id);
        let touched: Vec<AttemptRow> = self.attempts.into_values().filter(is_touched).collect();
        save_attempts(&mut *connection, &touched).await?;
        save_tasks(&mut *connection, &changed).await?;
        figures::left_states(&touched, &changed);
        let faults_before = self.around.faults;
        let is_as_it_was = |node: &NodeId, now: &Option<NodeFaults>| faults_before.get(node).unwrap_or(&None) == now;
        for (node, now) in self.faults.iter().filter(|(node, now)| !is_as_it_was(node, now)) {
            save_faults(&mut *connection, *node, now.as_ref()).await?;
        }
        for (node, item, word) in self.rejected {
            keep_aside(&mut *connection, node, item, word).await?;
        }
        Ok(Done { changed, releases: self.releases, faults: self.faults, faults_before })
    }
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
            lock_faults(&mut *connection, &ids_of(&with_faults))
                .await?
                .into_iter()
                .map(|(node, faults)| (node, Some(faults)))
                .collect()
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
