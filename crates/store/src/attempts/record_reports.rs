//! Records what nodes report. The way of everything that a node says: lock the tasks, apply the rule, write, commit, then answer.

use crate::{
    SessionKey, Store, StoreError, Topic,
    rows::{load_attempts, lock_tasks, read_json, save_attempts, save_tasks, write_json},
};
use domain::{
    attempt::{AttemptRow, Report},
    ids::{AttemptId, ClusterEpoch, Held, TaskId},
    lifecycle::{self, Event, Verdict},
    retry::RetryPolicy,
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
        let policies = self.retry_policies(&mut transaction, batch, &task_ids).await?;
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for item in batch {
            let verdict = match attempts.get_mut(&item.held.attempt) {
                None => Verdict::Fenced,
                Some(attempt) => match tasks.get_mut(&attempt.task) {
                    None => Verdict::Fenced,
                    Some((task, events, changed)) => {
                        let policy = policies.get(&task.id).cloned().unwrap_or_default();
                        let jitter = rand::rng().random::<f64>();
                        let verdict = lifecycle::report(task, attempt, item.held, &item.report, &policy, at, jitter);
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
        Ok(verdicts)
    }

    /// Retry policies of the tasks whose attempts end in this batch.
    async fn retry_policies(
        &self,
        connection: &mut sqlx::PgConnection,
        batch: &[NodeReport],
        tasks: &[Uuid],
    ) -> Result<BTreeMap<TaskId, RetryPolicy>, StoreError> {
        if !batch.iter().any(|item| matches!(item.report, Report::Ended { .. })) {
            return Ok(BTreeMap::new());
        }
        sqlx::query!(r#"SELECT id, spec->'retry' AS "retry!" FROM tasks WHERE id = ANY($1)"#, tasks)
            .fetch_all(connection)
            .await?
            .into_iter()
            .map(|row| Ok((TaskId::from_uuid(row.id), read_json(row.retry)?)))
            .collect()
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
