//! Records what nodes report. The way of everything that a node says: lock the tasks, apply the rule, write, commit, then answer.

use crate::{
    SessionKey, Store, StoreError, Topic,
    attempts::replace::retry_policies,
    nodes::{
        faults::{lock_faults, save_faults},
        presence::presence_of,
    },
    rows::{load_attempts, lock_tasks, save_attempts, save_tasks, write_json},
};
use domain::{
    attempt::{AttemptRow, Report},
    black_hole::{self, Evidence, NodeFaults},
    ids::{AttemptId, ClusterEpoch, Held, TaskId},
    lifecycle::{self, Around, Event, Verdict},
    outcome::FailureKind,
    poison::Presence,
    task::TaskRow,
};
use rand::RngExt as _;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    pub held: Held,
    pub report: Report,
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

impl Store {
    /// Records a batch in the order in which the node sent it. Each report gets its own answer. Safe to repeat: a report that was
    /// committed answers `Repeated`. When this returns Ok, what was recorded survives any crash, so it may be acknowledged.
    pub async fn record_reports(
        &self,
        session: SessionKey,
        batch: &[NodeReport],
    ) -> Result<Vec<ReportVerdict>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let ids: Vec<Uuid> = batch.iter().map(|report| report.held.attempt.as_uuid()).collect();
        // The session's row is held until the commit, so that none opened meanwhile finds these reports half counted.
        let Some(session_now) = sqlx::query!(
            r#"SELECT l.session_epoch, now() AS "at!",
                      EXISTS (SELECT 1 FROM node_faults f WHERE f.node_id = $1) AS "has_faults!",
                      ARRAY(SELECT DISTINCT task_id FROM attempts WHERE id = ANY($2) AND node_id = $1) AS "tasks!",
                      ARRAY(SELECT id FROM attempts WHERE id = ANY($2)) AS "known!", (SELECT epoch FROM cluster) AS "epoch!"
               FROM node_live l WHERE l.node_id = $1 FOR KEY SHARE"#,
            session.node.as_uuid(),
            &ids
        )
        .fetch_optional(&mut *transaction)
        .await?
        .filter(|row| row.session_epoch == session.epoch) else {
            return Ok(vec![ReportVerdict::StaleSession; batch.len()]);
        };
        let (task_ids, at) = (session_now.tasks, session_now.at);
        let is_orphan = |held: Held| {
            held.fence.epoch() != ClusterEpoch(session_now.epoch)
                && !session_now.known.contains(&held.attempt.as_uuid())
        };
        let mut tasks: BTreeMap<TaskId, (TaskRow, Vec<Event>, bool)> = lock_tasks(&mut transaction, &task_ids)
            .await?
            .into_iter()
            .map(|task| (task.id, (task, Vec::new(), false)))
            .collect();
        let mut attempts: BTreeMap<AttemptId, AttemptRow> = load_attempts(&mut transaction, &ids)
            .await?
            .into_iter()
            .filter(|attempt| attempt.node == session.node)
            .map(|attempt| (attempt.id, attempt))
            .collect();
        let endings = Endings::of(batch);
        let policies = if endings.any { retry_policies(&mut transaction, &task_ids).await? } else { BTreeMap::new() };
        let node =
            if endings.blames_node { presence_of(&mut transaction, session.node).await? } else { Presence::default() };
        let known_faults: Option<NodeFaults> = if endings.any && session_now.has_faults || endings.fails {
            lock_faults(&mut transaction, &[session.node.as_uuid()]).await?.remove(&session.node)
        } else {
            None
        };
        let mut faults = known_faults.clone();
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for item in batch {
            let verdict = match attempts.get_mut(&item.held.attempt) {
                None => Verdict::Fenced,
                Some(attempt) => match tasks.get_mut(&attempt.task) {
                    None => Verdict::Fenced,
                    Some((task, events, changed)) => {
                        let policy = policies.get(&task.id).cloned().unwrap_or_default();
                        let around = Around {
                            policy: &policy,
                            now: at,
                            jitter_0_to_1: rand::rng().random::<f64>(),
                            node,
                            is_probe: faults.as_ref().is_some_and(|faults| faults.is_probe(attempt.id)),
                        };
                        let verdict = lifecycle::report(task, attempt, item.held, &item.report, &around);
                        if let (Verdict::Recorded(_), Report::Ended { ending }) = (&verdict, &item.report) {
                            let who = (attempt.id, attempt.task);
                            faults = black_hole::after_end(faults, &self.black_hole, who, ending, at);
                        }
                        if let Verdict::Recorded(new) = &verdict {
                            events.extend(new.iter().cloned());
                            *changed = true;
                        }
                        verdict
                    }
                },
            };
            verdicts.push(match verdict {
                Verdict::Recorded(_) => ReportVerdict::Recorded,
                Verdict::Repeated => ReportVerdict::Repeated,
                Verdict::Fenced if is_orphan(item.held) => ReportVerdict::Orphan,
                Verdict::Fenced => ReportVerdict::Fenced,
                Verdict::Conflict => ReportVerdict::Conflict,
            });
            let evidence = match verdicts.last() {
                // A late release is no evidence of anything.
                _ if item.report == Report::Released => None,
                Some(ReportVerdict::Fenced) => Some("fenced"),
                Some(ReportVerdict::Conflict) => Some("conflict"),
                Some(ReportVerdict::Orphan) => Some("orphan"),
                _ => None,
            };
            rejected.extend(evidence.map(|word| (item, word)));
        }
        let changed: Vec<(TaskRow, Vec<Event>)> =
            tasks.into_values().filter(|(.., changed)| *changed).map(|(task, events, _)| (task, events)).collect();
        let touched: Vec<AttemptRow> =
            attempts.into_values().filter(|attempt| changed.iter().any(|(task, _)| task.id == attempt.task)).collect();
        save_attempts(&mut transaction, &touched).await?;
        save_tasks(&mut transaction, &changed).await?;
        if faults != known_faults {
            save_faults(&mut transaction, session.node, faults.as_ref()).await?;
        }
        for (item, verdict) in rejected {
            sqlx::query!(
                "INSERT INTO rejected_reports (attempt_id, node_id, fence, verdict, report) SELECT $1, $2, $3, $4, $5
                 WHERE NOT EXISTS (SELECT 1 FROM rejected_reports
                                   WHERE attempt_id = $1 AND node_id = $2 AND fence = $3 AND verdict = $4 AND report = $5)",
                item.held.attempt.as_uuid(),
                session.node.as_uuid(),
                item.held.fence.get(),
                verdict,
                write_json(&item.report)
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        self.wakeups.publish(topics(&changed));
        let is_cordoned = |faults: &Option<NodeFaults>| faults.as_ref().is_some_and(NodeFaults::is_cordoned);
        match (is_cordoned(&known_faults), is_cordoned(&faults)) {
            (false, true) => {
                let because = faults.as_ref().map_or("", |faults| &faults.last_words);
                tracing::warn!(node.id = %session.node, because, "a node on which everything fails gets no more work");
            }
            (true, false) => {
                tracing::info!(node.id = %session.node, "a probe succeeded: the node gets work again");
                self.wakeups.publish([Topic::Queue]);
            }
            (false, false) | (true, true) => {}
        }
        Ok(verdicts)
    }
}

/// What the ends in a batch make it necessary to read.
struct Endings {
    any: bool,
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
            fails: endings().any(|ending| Evidence::of(ending) == Evidence::Fails),
            blames_node: endings().any(|ending| !ending.planned_stop && blames_node(ending.failure)),
        }
    }
}

/// Who should look: followers of the tasks, and the scheduler where room became free or a task waits again.
fn topics(changed: &[(TaskRow, Vec<Event>)]) -> Vec<Topic> {
    let mut topics: Vec<Topic> = changed.iter().map(|(task, _)| Topic::Task(task.id)).collect();
    let frees_or_queues = |event: &Event| matches!(event, Event::Released { .. } | Event::Requeued { .. });
    if changed.iter().any(|(_, events)| events.iter().any(frees_or_queues)) {
        topics.push(Topic::Queue);
    }
    // A log's followers learn that the attempt ended.
    topics.extend(changed.iter().flat_map(|(_, events)| events).filter_map(|event| match event {
        Event::Ended { attempt, .. } => Some(Topic::Log(*attempt)),
        _ => None,
    }));
    topics
}
