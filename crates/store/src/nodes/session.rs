//! A node's session: one at a time, the newest wins, and what an older one says changes nothing.

use crate::{
    Store, StoreError, Topic,
    json::{JsonText, read_json, write_json},
    nodes::reconcile::{Settled, absolve, hear, reconcile},
    rows::lock_tasks,
};
use chrono::{DateTime, Utc};
use domain::{
    attempt::Report,
    ids::{AttemptId, Fence, Held, InstanceId, NodeId},
    node::{NodeFacts, NodeMetrics},
    reconcile::HeldAttempt,
};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Its inventory shows that the database was restored: a new epoch has begun, and every node has to say hello anew.
    Forgotten,
    Revoked,
}

/// What is known of a node when it says hello.
struct Seen {
    id: Uuid,
    name: String,
    admission: String,
    facts: JsonText,
    instance: Option<Uuid>,
    session_epoch: i64,
    connected_since: Option<DateTime<Utc>>,
    /// Its session is open, and it was heard a moment ago.
    is_alive: bool,
}

impl Seen {
    /// Why this hello opens no session.
    fn refuses(&self, hello: &OpenSession) -> Result<Option<Opened>, StoreError> {
        if self.admission == "revoked" {
            return Ok(Some(Opened::Revoked));
        }
        if self.is_alive && self.instance.is_some_and(|instance| instance != hello.instance.as_uuid()) {
            return Ok(Some(Opened::OtherInstance));
        }
        // Two that take the session from each other would both be given the same work.
        if self.is_alive && read_json::<NodeFacts>(self.facts.clone())?.is_of_another_boot(&hello.facts) {
            return Ok(Some(Opened::OtherBoot));
        }
        // A hello can wait here for long, while its node has given up and connected anew: what it was given since would seem missing.
        // Counted in sessions, not in time: a clock that was set back would refuse every node until it is as late again.
        Ok((self.session_epoch > hello.newest_epoch).then_some(Opened::Superseded))
    }

    fn opened(self, epoch: i64, settled: Settled, log_offsets: Vec<(AttemptId, Vec<i64>)>) -> Opened {
        Opened::Session {
            key: SessionKey { node: NodeId::from_uuid(self.id), epoch },
            name: self.name,
            draining: matches!(self.admission.as_str(), "draining" | "drained"),
            stop: settled.stop,
            orphans: settled.orphans,
            adopted: settled.adopted,
            log_offsets,
        }
    }
}

impl Store {
    /// Opens a session and settles the difference between what the node has and what it should have. Attempts that the node should
    /// have and has not are placed again; those that it has and should not have are named.
    pub async fn open_session(&self, hello: &OpenSession) -> Result<Opened, StoreError> {
        if let Some(forgotten) = self.forgotten_epoch(hello).await? {
            let epoch = self.begin_epoch_above(forgotten).await?;
            tracing::warn!(
                node.id = %hello.node,
                epoch,
                "a node has what this database has forgotten, as after a restore from a backup: a new epoch begins, and nothing is placed \
                 before the nodes are back"
            );
            return Ok(Opened::Forgotten);
        }
        let mut transaction = self.begin().await?;
        let seen = sqlx::query_as!(
            Seen,
            r#"SELECT n.id, n.name, n.admission, n.facts AS "facts: JsonText", l.instance, l.session_epoch, l.connected_since,
                      COALESCE(l.connected AND l.beat_at > now() - make_interval(secs => $2), false) AS "is_alive!"
               FROM nodes n JOIN node_live l ON l.node_id = n.id WHERE n.id = $1 FOR UPDATE OF l"#,
            hello.node.as_uuid(),
            self.silence_s()
        )
        .fetch_one(&mut *transaction)
        .await?;
        if let Some(refused) = seen.refuses(hello)? {
            return Ok(refused);
        }
        // What was sent to another installation may have begun there.
        let is_new_instance = seen.instance.is_some_and(|instance| instance != hello.instance.as_uuid());
        let epoch = sqlx::query_scalar!(
            "WITH facts AS (UPDATE nodes SET facts = $4 WHERE id = $1 AND facts <> $4)
             UPDATE node_live SET instance = $2, session_epoch = session_epoch + 1, connected = true, connected_since = now(), away_from = beat_at, beat_at = now(),
                    offline_since = NULL, metrics = $3 WHERE node_id = $1 RETURNING session_epoch",
            hello.node.as_uuid(),
            hello.instance.as_uuid(),
            write_json(&hello.metrics) as JsonText,
            write_json(&hello.facts) as JsonText
        )
        .fetch_one(&mut *transaction)
        .await?;
        let mut settled = reconcile(&mut transaction, hello, is_new_instance, seen.connected_since.is_none()).await?;
        let ids: Vec<Uuid> = hello.attempts.iter().map(|said| said.held.attempt.as_uuid()).collect();
        let mut log_offsets = Vec::new();
        if !ids.is_empty() {
            let offsets = sqlx::query!(
                r#"SELECT a.id AS "attempt_id!", COALESCE(h.next_offsets, '{0,0,0,0}') AS "next_offsets!"
                   FROM attempts a LEFT JOIN log_heads h ON h.attempt_id = a.id WHERE a.id = ANY($1)"#,
                &ids
            );
            let rows = offsets.fetch_all(&mut *transaction).await?.into_iter();
            log_offsets = rows.map(|row| (AttemptId::from_uuid(row.attempt_id), row.next_offsets)).collect();
        }
        transaction.commit().await?;
        let node = [Topic::Room(hello.node), Topic::Queue, Topic::Node(hello.node)];
        self.wakeups.publish(std::mem::take(&mut settled.topics).into_iter().chain(node));
        Ok(seen.opened(epoch, settled, log_offsets))
    }

    /// As [`Store::open_session`], for the many nodes that come back at once and have nothing: four statements for all of them. Those
    /// with an inventory, with something that they should have, or whose row somebody else changes at this moment get no answer
    /// here, and nothing is changed of theirs: each is to be opened alone.
    pub async fn open_idle_sessions(&self, hellos: &[OpenSession]) -> Result<Vec<Option<Opened>>, StoreError> {
        // Of two connections of one node the second one waits for the first.
        let mut by_node: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (at, hello) in hellos.iter().enumerate().filter(|(_, hello)| hello.attempts.is_empty()) {
            by_node.entry(hello.node.as_uuid()).or_insert(at);
        }
        let mut answers: Vec<Option<Opened>> = hellos.iter().map(|_| None).collect();
        let mut transaction = self.begin().await?;
        // Whoever waits for a row while it holds others may be waited for in turn; here nothing is waited for.
        let all_seen = sqlx::query_as!(
            Seen,
            r#"SELECT n.id, n.name, n.admission, n.facts AS "facts: JsonText", l.instance, l.session_epoch, l.connected_since,
                      COALESCE(l.connected AND l.beat_at > now() - make_interval(secs => $2), false) AS "is_alive!"
               FROM nodes n JOIN node_live l ON l.node_id = n.id WHERE n.id = ANY($1) FOR UPDATE OF l SKIP LOCKED"#,
            &by_node.keys().copied().collect::<Vec<_>>(),
            self.silence_s()
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut welcome: BTreeMap<Uuid, Seen> = BTreeMap::new();
        for seen in all_seen {
            let Some(at) = by_node.get(&seen.id) else { continue };
            match seen.refuses(&hellos[*at])? {
                Some(refused) => answers[*at] = Some(refused),
                None => _ = welcome.insert(seen.id, seen),
            }
        }
        let said: Vec<&OpenSession> = welcome.keys().filter_map(|id| by_node.get(id)).map(|at| &hellos[*at]).collect();
        // Asked under the lock, by a statement of its own: what was leased while this waited for nobody is seen.
        let opened = sqlx::query!(
            r#"WITH said AS (SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::jsonb[], $4::jsonb[]) AS s(node_id, instance, metrics, facts)
                             WHERE NOT EXISTS (SELECT 1 FROM attempts a WHERE a.node_id = s.node_id AND a.reserved)),
                    facts AS (UPDATE nodes n SET facts = s.facts FROM said s WHERE n.id = s.node_id AND n.facts <> s.facts)
               UPDATE node_live l SET instance = s.instance, session_epoch = session_epoch + 1, connected = true, connected_since = now(), away_from = beat_at,
                      beat_at = now(), offline_since = NULL, metrics = s.metrics
               FROM said s WHERE l.node_id = s.node_id RETURNING l.node_id, l.session_epoch"#,
            &said.iter().map(|hello| hello.node.as_uuid()).collect::<Vec<_>>(),
            &said.iter().map(|hello| hello.instance.as_uuid()).collect::<Vec<_>>(),
            &said.iter().map(|hello| write_json(&hello.metrics)).collect::<Vec<_>>() as &[JsonText],
            &said.iter().map(|hello| write_json(&hello.facts)).collect::<Vec<_>>() as &[JsonText],
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let mut topics = Vec::new();
        for row in opened {
            let Some((seen, at)) = welcome.remove(&row.node_id).zip(by_node.get(&row.node_id)) else { continue };
            let node = NodeId::from_uuid(row.node_id);
            topics.extend([Topic::Room(node), Topic::Node(node)]);
            answers[*at] = Some(seen.opened(row.session_epoch, Settled::default(), Vec::new()));
        }
        if !topics.is_empty() {
            topics.push(Topic::Queue);
        }
        self.wakeups.publish(topics);
        Ok(answers)
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
