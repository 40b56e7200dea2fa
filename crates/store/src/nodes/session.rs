//! A node's session: one at a time, the newest wins, and what an older one says changes nothing.

use crate::{
    Store, StoreError, Topic,
    attempts::replace::give_up,
    rows::{load_attempts, lock_tasks, now, save_attempts, save_tasks, write_json},
};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held, InstanceId, NodeId},
    lifecycle::{self, Verdict},
    node::{NodeFacts, NodeMetrics},
    retry::RetryPolicy,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Names one session of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    pub node: NodeId,
    pub epoch: i64,
}

/// What an agent said in its hello.
#[derive(Clone, Debug)]
pub struct OpenSession {
    pub node: NodeId,
    pub instance: InstanceId,
    pub facts: NodeFacts,
    pub metrics: NodeMetrics,
    /// All attempts that the agent has.
    pub attempts: Vec<Held>,
    /// Executors that could be asked: absence from `attempts` counts for these only.
    pub complete_executors: BTreeSet<String>,
    /// The node's newest session when its connection was taken, before the hello could be said.
    pub newest_epoch: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    Session {
        key: SessionKey,
        name: String,
        draining: bool,
        /// Attempts of the inventory that hold nothing here any more: to be stopped and removed there.
        unknown: Vec<Held>,
        /// (attempt, next offset by stream) of the inventory.
        log_offsets: Vec<(AttemptId, Vec<i64>)>,
    },
    /// Another installation uses the node's token and is alive.
    OtherInstance,
    /// The node has opened a session over a later connection since; this inventory is out of date.
    Superseded,
    Revoked,
}

impl Store {
    /// Opens a session and settles the difference between what the node has and what it should have. Attempts that the node should
    /// have and has not are placed again; those that it has and should not have are named.
    pub async fn open_session(&self, hello: &OpenSession) -> Result<Opened, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let node = hello.node.as_uuid();
        let row = sqlx::query!(
            r#"SELECT n.name, n.admission, l.instance, l.session_epoch, (l.connected AND l.beat_at > now() - make_interval(secs => $2)) AS alive
               FROM nodes n JOIN node_live l ON l.node_id = n.id WHERE n.id = $1 FOR UPDATE OF l"#,
            node,
            self.silence_s()
        )
        .fetch_one(&mut *transaction)
        .await?;
        if row.admission == "revoked" {
            return Ok(Opened::Revoked);
        }
        if row.instance.is_some_and(|instance| instance != hello.instance.as_uuid()) && row.alive == Some(true) {
            return Ok(Opened::OtherInstance);
        }
        // A hello can wait here for long, while its node has given up and connected anew: what it was given since would seem missing.
        // Counted in sessions, not in time: a clock that was set back would refuse every node until it is as late again.
        if row.session_epoch > hello.newest_epoch {
            return Ok(Opened::Superseded);
        }
        // What was sent to another installation may have begun there.
        let is_new_instance = row.instance.is_some_and(|instance| instance != hello.instance.as_uuid());
        let epoch = sqlx::query_scalar!(
            "UPDATE node_live SET instance = $2, session_epoch = session_epoch + 1, connected = true, connected_since = now(), beat_at = now(),
                    offline_since = NULL, metrics = $3 WHERE node_id = $1 RETURNING session_epoch",
            node,
            hello.instance.as_uuid(),
            write_json(&hello.metrics)
        )
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query!("UPDATE nodes SET facts = $2 WHERE id = $1 AND facts <> $2", node, write_json(&hello.facts))
            .execute(&mut *transaction)
            .await?;
        let (unknown, mut topics) = reconcile(&mut transaction, hello, is_new_instance).await?;
        let ids: Vec<Uuid> = hello.attempts.iter().map(|held| held.attempt.as_uuid()).collect();
        let offsets = sqlx::query!("SELECT attempt_id, next_offsets FROM log_heads WHERE attempt_id = ANY($1)", &ids)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        topics.extend([Topic::Queue, Topic::Node(hello.node)]);
        self.wakeups.publish(topics);
        Ok(Opened::Session {
            key: SessionKey { node: hello.node, epoch },
            name: row.name,
            draining: matches!(row.admission.as_str(), "draining" | "drained"),
            unknown,
            log_offsets: offsets
                .into_iter()
                .map(|row| (AttemptId::from_uuid(row.attempt_id), row.next_offsets))
                .collect(),
        })
    }

    /// One statement for the heartbeats of many nodes. Returns the sessions whose heartbeat counted. Of the others some are not the
    /// newest, and some belong to nodes that are offline: [`Store::end_offline`] tells which, and lets these back in.
    pub async fn heartbeat(&self, beats: &[(SessionKey, NodeMetrics)]) -> Result<Vec<SessionKey>, StoreError> {
        let mut ordered: Vec<&(SessionKey, NodeMetrics)> = beats.iter().collect();
        ordered.sort_by_key(|(key, _)| *key);
        let rows = sqlx::query!(
            r#"UPDATE node_live l SET beat_at = now(), metrics = b.metrics, connected = true
               FROM UNNEST($1::uuid[], $2::bigint[], $3::jsonb[]) AS b(node_id, epoch, metrics)
               WHERE l.node_id = b.node_id AND l.session_epoch = b.epoch AND l.offline_since IS NULL RETURNING l.node_id, l.session_epoch"#,
            &ordered.iter().map(|(key, _)| key.node.as_uuid()).collect::<Vec<_>>(),
            &ordered.iter().map(|(key, _)| key.epoch).collect::<Vec<_>>(),
            &ordered.iter().map(|(_, metrics)| write_json(metrics)).collect::<Vec<_>>(),
        )
        .fetch_all(&self.beats)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| SessionKey { node: NodeId::from_uuid(row.node_id), epoch: row.session_epoch })
            .collect())
    }

    /// A heartbeat of a node that was called offline while its session was open: it never lost its work, so nobody is to replace it.
    /// True once that is committed, and the heartbeat counts. False: the session is not the node's newest.
    ///
    /// It waits for locks on tasks, so it is not on the heartbeats' connections. Safe to repeat.
    pub async fn end_offline(&self, key: SessionKey, metrics: &NodeMetrics) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let node = key.node.as_uuid();
        let counts = sqlx::query!(
            "UPDATE node_live SET beat_at = now(), metrics = $3, connected = true, offline_since = NULL WHERE node_id = $1 AND session_epoch = $2",
            node,
            key.epoch,
            write_json(metrics)
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if counts == 0 {
            return Ok(false);
        }
        // What was never accepted may never have arrived: it is sent again, and waits for whoever accepts first.
        let rows = sqlx::query!(
            r#"SELECT a.id, a.task_id FROM attempts a JOIN task_state s ON s.task_id = a.task_id
               WHERE a.node_id = $1 AND a.reserved AND a.accepted_at IS NOT NULL AND s.queued AND s.live_attempt_id = a.id"#,
            node
        )
        .fetch_all(&mut *transaction)
        .await?;
        let (attempts, tasks): (Vec<Uuid>, Vec<Uuid>) = rows.into_iter().map(|row| (row.id, row.task_id)).unzip();
        let topics = keep(&mut transaction, &attempts, &tasks).await?;
        transaction.commit().await?;
        self.wakeups.publish(topics.into_iter().chain([Topic::Queue, Topic::Node(key.node)]));
        Ok(true)
    }

    /// The socket is gone: no new work for this node until it is back. A newer session is not touched.
    pub async fn close_session(&self, key: SessionKey) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE node_live SET connected = false WHERE node_id = $1 AND session_epoch = $2",
            key.node.as_uuid(),
            key.epoch
        )
        .execute(&self.beats)
        .await?;
        Ok(())
    }

    /// The machine changed: Docker came back, a disk was added.
    pub async fn update_facts(&self, key: SessionKey, facts: &NodeFacts) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE nodes n SET facts = $3 FROM node_live l WHERE n.id = $1 AND l.node_id = n.id AND l.session_epoch = $2",
            key.node.as_uuid(),
            key.epoch,
            write_json(facts)
        )
        .execute(&self.pool)
        .await?;
        self.wakeups.publish([Topic::Queue]);
        Ok(())
    }
}

/// Both directions: what the node lacks is given up, what it has too much is returned.
async fn reconcile(
    connection: &mut sqlx::PgConnection,
    hello: &OpenSession,
    is_new_instance: bool,
) -> Result<(Vec<Held>, Vec<Topic>), StoreError> {
    let expected = sqlx::query!(
        r#"SELECT a.id, a.task_id, a.fence, (a.accepted_at IS NULL AND a.ended_at IS NULL) AS "unaccepted!", t.spec->>'executor' AS "executor!",
                  (s.queued AND s.live_attempt_id IS NOT DISTINCT FROM a.id) AS "to_be_replaced!"
           FROM attempts a JOIN tasks t ON t.id = a.task_id JOIN task_state s ON s.task_id = a.task_id WHERE a.node_id = $1 AND a.reserved"#,
        hello.node.as_uuid()
    )
    .fetch_all(&mut *connection)
    .await?;
    let has: BTreeSet<Uuid> = hello.attempts.iter().map(|held| held.attempt.as_uuid()).collect();
    let missing: Vec<Uuid> = expected
        .iter()
        // An assignment that was not accepted may never have arrived: it is sent again.
        .filter(|row| {
            !has.contains(&row.id)
                && (!row.unaccepted || is_new_instance)
                && hello.complete_executors.contains(&row.executor)
        })
        .map(|row| row.id)
        .collect();
    let returned: Vec<Uuid> =
        expected.iter().filter(|row| row.to_be_replaced && has.contains(&row.id)).map(|row| row.id).collect();
    // All at once and in their order; each step below finds its own locked already.
    let of =
        |ids: &[Uuid]| expected.iter().filter(|row| ids.contains(&row.id)).map(|row| row.task_id).collect::<Vec<_>>();
    lock_tasks(connection, &[of(&missing), of(&returned)].concat()).await?;
    let mut topics = give_up(connection, hello.node, &missing, "the node came back without it").await?;
    topics.extend(keep(connection, &returned, &of(&returned)).await?);
    let unknown = hello
        .attempts
        .iter()
        .filter(|held| !expected.iter().any(|row| row.id == held.attempt.as_uuid() && row.fence == held.fence.get()))
        .copied()
        .collect();
    Ok((unknown, topics))
}

/// The node is back with its work, so nobody is to replace it: as if it had reported it, in the transaction that opens the session.
/// (The agent itself has nothing to say about an attempt whose reports were all committed.)
async fn keep(
    connection: &mut sqlx::PgConnection,
    attempts: &[Uuid],
    tasks: &[Uuid],
) -> Result<Vec<Topic>, StoreError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = load_attempts(&mut *connection, attempts).await?;
    let at = now(&mut *connection).await?;
    let mut changed = Vec::new();
    for mut task in lock_tasks(&mut *connection, tasks).await? {
        let Some(attempt) = rows.iter_mut().find(|attempt| task.live == Some(attempt.id)) else { continue };
        let held = attempt.held();
        let policy = RetryPolicy::default();
        if let Verdict::Recorded(events) =
            lifecycle::report(&mut task, attempt, held, &Report::Accepted, &policy, at, 0.0)
        {
            changed.push((task, events));
        }
    }
    save_attempts(&mut *connection, &rows).await?;
    save_tasks(&mut *connection, &changed).await?;
    Ok(changed.iter().map(|(task, _)| Topic::Task(task.id)).collect())
}
