//! What the leader looks at in the queue: the first waiting tasks of every class, so that what cannot be placed blocks nobody.

use crate::{
    FEW, Store, StoreError,
    attempts::exclusive,
    json::{JsonText, read_json},
};
use domain::{
    Timestamp,
    ids::{NodeId, ProjectId, TaskId},
    placement::Head,
    spec::Needs,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// Classes that one look visits.
pub const CLASSES_PER_LOOK: usize = 2_000;

/// Where to look, and for how many.
#[derive(Clone, Debug)]
pub struct QueueLook {
    /// Classes after this one, up to [`CLASSES_PER_LOOK`] of them.
    pub after_class: i64,
    /// So many tasks of these classes; 0: only whether there are any.
    pub wanted: BTreeMap<i64, i64>,
    /// So many tasks of the others.
    pub wanted_otherwise: i64,
    /// Classes of which much was placed lately, and where what waits begins there. The index keeps an entry of everything that was
    /// placed until it is vacuumed, and who begins before them walks over them all. What is queued again stands before that place:
    /// it is seen by the next look without it.
    pub begin_at: BTreeMap<i64, QueuePlace>,
    /// The restore after which every node has come back or is away, as [`Store::settled_restore`] said.
    pub settled_restore: Option<Timestamp>,
}

/// A task's place within its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    pub priority: i32,
    pub queued_at: Timestamp,
    pub task: TaskId,
}

impl From<&Head> for QueuePlace {
    fn from(head: &Head) -> Self {
        Self { priority: head.priority, queued_at: head.queued_at, task: head.task }
    }
}

impl QueueLook {
    /// What an idle queue is asked.
    fn is_short(&self) -> bool {
        /// Of a class of which nothing is known, or little.
        const SHORT: i64 = 64;
        self.begin_at.is_empty() && self.wanted.len() <= FEW && self.wanted.values().all(|wanted| *wanted <= SHORT)
    }

    /// Every class from the first, so many tasks of each.
    pub fn of_all(wanted: i64) -> Self {
        Self {
            after_class: i64::MIN,
            wanted: BTreeMap::new(),
            wanted_otherwise: wanted,
            begin_at: BTreeMap::new(),
            settled_restore: None,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct QueueHeads {
    pub heads: Vec<Head>,
    /// Those of them that [`Store::add_old_heads`] has added.
    pub old: BTreeSet<TaskId>,
    /// When that was, by the database's clock; None: nothing waits.
    pub at: Option<Timestamp>,
    /// The classes in which something waits, in their order, with how many tasks were read: more than there are heads where some
    /// must not be placed yet.
    pub read: BTreeMap<i64, usize>,
}

impl Store {
    /// Work here grows with the number of classes, not with the queue or the nodes. `needs` remembers what classes ask for.
    pub async fn queue_heads(
        &self,
        look: &QueueLook,
        needs: &mut BTreeMap<i64, Arc<Needs>>,
    ) -> Result<QueueHeads, StoreError> {
        let mut connection = if look.is_short() { self.brisk.acquire().await? } else { self.pool.acquire().await? };
        let (classes, wanted): (Vec<i64>, Vec<i64>) = look.wanted.iter().unzip();
        let begin_at = || look.begin_at.values();
        // Walks the queue's index from class to class; classes with a place to begin at are known to be there, and not stepped into.
        // After a restore nothing is placed until every node has said hello or is offline: what waits here may be running there. (The
        // inner SELECT of warm keys is one look by key for each row, whatever the planner believes of the sizes.)
        let rows = sqlx::query!(
            r#"WITH RECURSIVE known AS (
                 SELECT * FROM UNNEST($7::bigint[], $8::int[], $9::timestamptz[], $10::uuid[]) AS b(class, priority, queued_at, task_id)
               ), classes AS (
                 SELECT $1::bigint AS class
                 UNION ALL
                 SELECT COALESCE(
                   (SELECT s.class FROM task_state s WHERE s.queued AND s.class > c.class
                      AND s.class < COALESCE((SELECT min(k.class) FROM known k WHERE k.class > c.class), 9223372036854775807)
                    ORDER BY s.class LIMIT 1),
                   (SELECT min(k.class) FROM known k WHERE k.class > c.class))
                 FROM classes c WHERE c.class IS NOT NULL
               ), here AS (
                 SELECT class FROM classes WHERE class > $1 AND (
                   SELECT CASE WHEN u.restored_at IS NOT DISTINCT FROM $6 THEN true ELSE NOT EXISTS (
                     SELECT 1 FROM node_live l JOIN nodes n ON n.id = l.node_id
                     WHERE l.instance IS NOT NULL AND l.offline_since IS NULL AND n.admission <> 'revoked' AND l.connected_since IS NULL) END FROM cluster u)
                 LIMIT $2
               )
               SELECT now() AS "at!", c.class AS "class!", h.task_id AS "task_id?", h.project_id AS "project_id?", h.priority AS "priority?",
                      h.queued_at AS "queued_at?", h.avoid_node AS "avoid_node?",
                      (SELECT t.warm_keys FROM tasks t WHERE t.id = h.task_id) AS warm_keys
               FROM here c LEFT JOIN UNNEST($3::bigint[], $4::bigint[]) AS k(class, wanted) ON k.class = c.class
               LEFT JOIN known b ON b.class = c.class
               LEFT JOIN LATERAL (
                 SELECT * FROM (
                   (SELECT s.task_id, s.project_id, s.priority, s.queued_at, s.avoid_node FROM task_state s
                    WHERE b.class IS NULL AND s.queued AND s.class = c.class AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                    ORDER BY s.priority DESC, s.queued_at, s.task_id LIMIT COALESCE(k.wanted, $5))
                   UNION ALL
                   (SELECT s.task_id, s.project_id, s.priority, s.queued_at, s.avoid_node FROM task_state s
                    WHERE s.queued AND s.class = c.class AND s.priority > b.priority AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                    ORDER BY s.priority DESC, s.queued_at, s.task_id LIMIT COALESCE(k.wanted, $5))
                   UNION ALL
                   (SELECT s.task_id, s.project_id, s.priority, s.queued_at, s.avoid_node FROM task_state s
                    WHERE s.queued AND s.class = c.class AND s.priority = b.priority AND (s.queued_at, s.task_id) >= (b.queued_at, b.task_id)
                      AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                    ORDER BY s.queued_at, s.task_id LIMIT COALESCE(k.wanted, $5))
                   UNION ALL
                   (SELECT s.task_id, s.project_id, s.priority, s.queued_at, s.avoid_node FROM task_state s
                    WHERE s.queued AND s.class = c.class AND s.priority < b.priority AND (s.not_before IS NULL OR s.not_before <= now()) AND NOT s.cancel_requested
                    ORDER BY s.priority DESC, s.queued_at, s.task_id LIMIT COALESCE(k.wanted, $5))
                 ) of_class LIMIT COALESCE(k.wanted, $5)
               ) h ON true"#,
            look.after_class,
            CLASSES_PER_LOOK as i64,
            &classes,
            &wanted,
            look.wanted_otherwise,
            look.settled_restore,
            &look.begin_at.keys().copied().collect::<Vec<i64>>(),
            &begin_at().map(|place| place.priority).collect::<Vec<i32>>(),
            &begin_at().map(|place| place.queued_at).collect::<Vec<Timestamp>>(),
            &begin_at().map(|place| place.task.as_uuid()).collect::<Vec<Uuid>>()
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut read: BTreeMap<i64, usize> = BTreeMap::new();
        for row in &rows {
            *read.entry(row.class).or_default() += usize::from(row.task_id.is_some());
        }
        let unknown: Vec<i64> = read.keys().filter(|class| !needs.contains_key(class)).copied().collect();
        if !unknown.is_empty() {
            for row in sqlx::query!(
                r#"SELECT id, needs AS "needs: JsonText" FROM requirement_classes WHERE id = ANY($1)"#,
                &unknown
            )
            .fetch_all(&mut *connection)
            .await?
            {
                needs.insert(row.id, Arc::new(read_json(row.needs)?));
            }
        }
        let at = rows.first().map(|row| row.at);
        let mut heads = Vec::with_capacity(rows.len());
        for row in rows {
            let Some((task, needs)) = row.task_id.zip(needs.get(&row.class)) else { continue };
            let Some(((priority, queued_at), project)) = row.priority.zip(row.queued_at).zip(row.project_id) else {
                continue;
            };
            heads.push(Head {
                task: TaskId::from_uuid(task),
                project: ProjectId::from_uuid(project),
                class: row.class,
                needs: needs.clone(),
                priority,
                queued_at,
                avoid_node: row.avoid_node.map(NodeId::from_uuid),
                warm_keys: row.warm_keys.unwrap_or_default().into_iter().collect(),
            });
        }
        leave_out_held_back(&mut connection, &mut heads).await?;
        Ok(QueueHeads { heads, old: BTreeSet::new(), at, read })
    }

    /// The last restore, once no node is waited for any more; None: there was none, or one may come back with work.
    pub async fn settled_restore(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT restored_at FROM cluster WHERE NOT EXISTS (
               SELECT 1 FROM node_live l JOIN nodes n ON n.id = l.node_id
               WHERE l.instance IS NOT NULL AND l.offline_since IS NULL AND n.admission <> 'revoked' AND l.connected_since IS NULL)"
        )
        .fetch_optional(&self.pool)
        .await?
        .flatten())
    }
}

/// Exclusive tasks of which an earlier attempt may have a process.
pub(super) async fn leave_out_held_back(
    connection: &mut sqlx::PgConnection,
    heads: &mut Vec<Head>,
) -> Result<(), StoreError> {
    let exclusive: Vec<Uuid> =
        heads.iter().filter(|head| head.needs.exclusive).map(|head| head.task.as_uuid()).collect();
    if !exclusive.is_empty() {
        let held_back: BTreeSet<Uuid> = exclusive::held_back(connection, &exclusive).await?;
        heads.retain(|head| !held_back.contains(&head.task.as_uuid()));
    }
    Ok(())
}
