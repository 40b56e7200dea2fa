//! A node's session: one at a time, the newest wins, and what an older one says changes nothing.

use crate::{
    Store, StoreError, Topic,
    json::{JsonText, read_json, write_json},
    nodes::reconcile::{absolve, hear, reconcile},
    rows::lock_tasks,
};
use domain::{
    attempt::Report,
    ids::{AttemptId, Fence, Held, InstanceId, NodeId},
    node::{NodeFacts, NodeMetrics},
    reconcile::HeldAttempt,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Names one session of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    pub node: NodeId,
    pub epoch: i64,
}

impl SessionKey {
    /// Below and above all others.
    pub const FIRST: Self = Self { node: NodeId::from_uuid(Uuid::nil()), epoch: i64::MIN };
    pub const LAST: Self = Self { node: NodeId::from_uuid(Uuid::max()), epoch: i64::MAX };
}

impl Default for SessionKey {
    fn default() -> Self {
        Self::FIRST
    }
}

/// What an agent said in its hello.
#[derive(Clone, Debug)]
pub struct OpenSession {
    pub node: NodeId,
    pub instance: InstanceId,
    pub facts: NodeFacts,
    pub metrics: NodeMetrics,
    /// All attempts that the agent has.
    pub attempts: Vec<HeldAttempt>,
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
        stop: Vec<Held>,
        /// Attempts of the inventory whose task nobody knows since a restore: left to their end.
        orphans: Vec<Held>,
        /// Attempts of the inventory that were forgotten by a restore and hold their task again.
        adopted: Vec<Held>,
        /// (attempt, next offset by stream) of the inventory.
        log_offsets: Vec<(AttemptId, Vec<i64>)>,
    },
    /// Another installation uses the node's token and is alive.
    OtherInstance,
    /// The same installation is alive on a machine that was started another time: one of the two is a copy. Or the machine was
    /// restarted so quickly that its former life is not silent yet; then it soon is.
    OtherBoot,
    /// The node has opened a session over a later connection since; this inventory is out of date.
    Superseded,
    Revoked,
}

impl Store {
    /// Opens a session and settles the difference between what the node has and what it should have. Attempts that the node should
    /// have and has not are placed again; those that it has and should not have are named.
    pub async fn open_session(&self, hello: &OpenSession) -> Result<Opened, StoreError> {
        let mut transaction = self.begin().await?;
        let node = hello.node.as_uuid();
        let row = sqlx::query!(
            r#"SELECT n.name, n.admission, n.facts AS "facts: JsonText", l.instance, l.session_epoch, l.connected_since, (l.connected AND l.beat_at > now() - make_interval(secs => $2)) AS alive
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
        // Two that take the session from each other would both be given the same work.
        if row.alive == Some(true) && read_json::<NodeFacts>(row.facts)?.is_of_another_boot(&hello.facts) {
            return Ok(Opened::OtherBoot);
        }
        // A hello can wait here for long, while its node has given up and connected anew: what it was given since would seem missing.
        // Counted in sessions, not in time: a clock that was set back would refuse every node until it is as late again.
        if row.session_epoch > hello.newest_epoch {
            return Ok(Opened::Superseded);
        }
        // What was sent to another installation may have begun there.
        let is_new_instance = row.instance.is_some_and(|instance| instance != hello.instance.as_uuid());
        let epoch = sqlx::query_scalar!(
            "UPDATE node_live SET instance = $2, session_epoch = session_epoch + 1, connected = true, connected_since = now(), away_from = beat_at, beat_at = now(),
                    offline_since = NULL, metrics = $3 WHERE node_id = $1 RETURNING session_epoch",
            node,
            hello.instance.as_uuid(),
            write_json(&hello.metrics) as JsonText
        )
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query!(
            "UPDATE nodes SET facts = $2 WHERE id = $1 AND facts <> $2",
            node,
            write_json(&hello.facts) as JsonText
        )
        .execute(&mut *transaction)
        .await?;
        let settled = reconcile(&mut transaction, hello, is_new_instance, row.connected_since.is_none()).await?;
        let ids: Vec<Uuid> = hello.attempts.iter().map(|said| said.held.attempt.as_uuid()).collect();
        let offsets = sqlx::query!(
            r#"SELECT a.id AS "attempt_id!", COALESCE(h.next_offsets, '{0,0,0,0}') AS "next_offsets!"
               FROM attempts a LEFT JOIN log_heads h ON h.attempt_id = a.id WHERE a.id = ANY($1)"#,
            &ids
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let node = [Topic::Room(hello.node), Topic::Queue, Topic::Node(hello.node)];
        self.wakeups.publish(settled.topics.into_iter().chain(node));
        Ok(Opened::Session {
            key: SessionKey { node: hello.node, epoch },
            name: row.name,
            draining: matches!(row.admission.as_str(), "draining" | "drained"),
            stop: settled.stop,
            orphans: settled.orphans,
            adopted: settled.adopted,
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
               FROM UNNEST($1::uuid[], $2::bigint[], $3::jsonb[]) AS b(node_id, epoch, metrics) JOIN node_live before ON before.node_id = b.node_id
               WHERE l.node_id = b.node_id AND l.session_epoch = b.epoch AND l.offline_since IS NULL
               RETURNING l.node_id, l.session_epoch, (NOT before.connected OR (before.metrics->'conditions', before.metrics->'warm')
                 IS DISTINCT FROM (b.metrics->'conditions', b.metrics->'warm')) AS "is_news!""#,
            &ordered.iter().map(|(key, _)| key.node.as_uuid()).collect::<Vec<_>>(),
            &ordered.iter().map(|(key, _)| key.epoch).collect::<Vec<_>>(),
            &ordered.iter().map(|(_, metrics)| write_json(metrics)).collect::<Vec<_>>() as &[JsonText],
        )
        .fetch_all(&self.beats)
        .await?;
        // Figures move with every heartbeat; what decides who gets work there seldom does.
        self.wakeups
            .publish(rows.iter().filter(|row| row.is_news).map(|row| Topic::Room(NodeId::from_uuid(row.node_id))));
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
        let mut transaction = self.begin().await?;
        let node = key.node.as_uuid();
        let counts = sqlx::query!(
            "UPDATE node_live SET beat_at = now(), metrics = $3, connected = true, offline_since = NULL WHERE node_id = $1 AND session_epoch = $2",
            node,
            key.epoch,
            write_json(metrics) as JsonText
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if counts == 0 {
            return Ok(false);
        }
        // What was never accepted may never have arrived: it is sent again, and waits for whoever accepts first.
        let rows = sqlx::query!(
            r#"SELECT a.id, a.task_id, a.fence FROM attempts a JOIN task_state s ON s.task_id = a.task_id
               WHERE a.node_id = $1 AND a.reserved AND a.accepted_at IS NOT NULL AND s.queued AND s.live_attempt_id = a.id"#,
            node
        )
        .fetch_all(&mut *transaction)
        .await?;
        // Its session was open all the time, so nothing went down there; what was placed elsewhere meanwhile is cleared by that, too.
        let suspected = sqlx::query!(
            r#"SELECT a.id, a.task_id FROM attempts a JOIN task_state s ON s.task_id = a.task_id
               WHERE a.node_id = $1 AND a.reserved AND s.died_with IS NOT NULL AND s.ended_at IS NULL"#,
            node
        )
        .fetch_all(&mut *transaction)
        .await?;
        let (alive, alive_tasks): (Vec<Uuid>, Vec<Uuid>) =
            suspected.into_iter().map(|row| (row.id, row.task_id)).unzip();
        let tasks: Vec<Uuid> = rows.iter().map(|row| row.task_id).chain(alive_tasks.iter().copied()).collect();
        lock_tasks(&mut transaction, &tasks).await?;
        let held = |id, fence| Held { attempt: AttemptId::from_uuid(id), fence: Fence::from_i64(fence) };
        let kept: Vec<(Held, Report)> =
            rows.into_iter().map(|row| (held(row.id, row.fence), Report::Accepted)).collect();
        let topics = hear(&mut transaction, &kept).await?;
        absolve(&mut transaction, &alive, &alive_tasks).await?;
        transaction.commit().await?;
        self.wakeups.publish(topics.into_iter().chain([Topic::Room(key.node), Topic::Queue, Topic::Node(key.node)]));
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
        self.wakeups.publish([Topic::Room(key.node)]);
        Ok(())
    }

    /// The machine changed: Docker came back, a disk was added.
    pub async fn update_facts(&self, key: SessionKey, facts: &NodeFacts) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE nodes n SET facts = $3 FROM node_live l WHERE n.id = $1 AND l.node_id = n.id AND l.session_epoch = $2",
            key.node.as_uuid(),
            key.epoch,
            write_json(facts) as JsonText
        )
        .execute(&self.pool)
        .await?;
        self.wakeups.publish([Topic::Room(key.node), Topic::Queue]);
        Ok(())
    }
}
