//! Accepts tasks: durable, with their idempotency keys, in one transaction.

use super::{
    claim_keys::{Claims, IdempotencyKey, claim_batches},
    inputs::accept_readers,
};
use crate::{
    Store, StoreError, Topic, figures,
    json::{JsonText, write_json, write_text},
    wakeup::CHANNEL,
};
use domain::{
    Timestamp,
    ids::{PrincipalId, ProjectId, TaskId},
    lifecycle::Event,
    spec::{Needs, TaskSpec},
    warm,
};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A checked task on its way in.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub project: ProjectId,
    pub created_by: PrincipalId,
    pub spec: TaskSpec,
    pub idempotency: Option<IdempotencyKey>,
}

/// What became of one task of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    Accepted {
        id: TaskId,
    },
    /// The same key and the same request as before: this is the task of then.
    Replayed {
        id: TaskId,
    },
    /// The key stands for another request.
    KeyReused {
        first: TaskId,
    },
    /// An artifact that it reads was removed since it was looked up.
    InputGone,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Submission {
    /// When the new ones were accepted.
    pub at: Timestamp,
    /// What people call the projects of the batch.
    pub slugs: BTreeMap<ProjectId, String>,
    /// One answer a task, in their order.
    pub answers: Vec<Submitted>,
}

/// Class of the queue: equal project and needs, equal number. So the first tasks of each project are seen, however many others wait. The
/// number is of the needs as a tree with ordered keys. Nobody but the queue's reader compares such numbers, and what waits keeps its own.
fn class_of(project: ProjectId, needs: &Needs) -> i64 {
    let tree = serde_json::to_value(needs).expect("needs are maps with string keys, which JSON can hold");
    let digest = Sha256::new().chain_update(project.as_uuid().as_bytes()).chain_update(tree.to_string()).finalize();
    i64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// The classes of a batch. Its tasks are mostly alike, so a class is computed once.
fn classes_of(needs: &[(ProjectId, Needs)]) -> (Vec<i64>, BTreeMap<i64, &Needs>) {
    let mut known: BTreeMap<i64, &Needs> = BTreeMap::new();
    let mut classes: Vec<i64> = Vec::with_capacity(needs.len());
    for (index, of_one) in needs.iter().enumerate() {
        let class = match classes.last() {
            Some(class) if needs[index - 1] == *of_one => *class,
            _ => class_of(of_one.0, &of_one.1),
        };
        known.entry(class).or_insert(&of_one.1);
        classes.push(class);
    }
    (classes, known)
}

impl Store {
    /// The project of a slug; None: there is none.
    pub async fn project_by_slug(&self, slug: &str) -> Result<Option<ProjectId>, StoreError> {
        let id =
            sqlx::query_scalar!("SELECT id FROM projects WHERE slug = $1", slug).fetch_optional(&self.pool).await?;
        Ok(id.map(ProjectId::from_uuid))
    }

    /// [`Store::submit`] where only the answers matter.
    pub async fn submit_tasks(&self, batch: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        Ok(self.submit(&batch.iter().collect::<Vec<_>>()).await?.answers)
    }

    /// Accepts all tasks of the batch, each with its own answer, in their order. Safe to repeat for tasks with a key: the same key
    /// with the same request answers `Replayed`, also within one batch. When this returns Ok, the accepted ones survive any crash.
    pub async fn submit(&self, batch: &[&NewTask]) -> Result<Submission, StoreError> {
        let ids: Vec<TaskId> = batch.iter().map(|_| TaskId::from_uuid(Uuid::now_v7())).collect();
        let claims = Claims::of(batch, &ids);
        // One statement is a transaction by itself: who comes alone waits for no other round trip, and its hint travels with it.
        let reads = batch.iter().any(|task| !task.spec.inputs.is_empty());
        let is_alone = batch.len() == 1 && !claims.has_batches() && !reads;
        let submission = if is_alone {
            let hint = self.wakeups.to_be_carried(&[Topic::Queue]);
            accept(&mut *self.pool_for(1).acquire().await?, batch, &ids, &claims, hint).await?
        } else {
            let mut transaction = self.begin_for(batch.len()).await?;
            let submission = match reads {
                true => accept_readers(&mut transaction, batch, &ids).await?,
                false => accept(&mut transaction, batch, &ids, &claims, None).await?,
            };
            transaction.commit().await?;
            submission
        };
        let accepted = submission.answers.iter().filter(|answer| matches!(answer, Submitted::Accepted { .. })).count();
        if accepted > 0 {
            figures::submitted(accepted);
            match is_alone {
                true => self.wakeups.was_carried(&[Topic::Queue]),
                false => self.wakeups.publish([Topic::Queue]),
            }
        }
        Ok(submission)
    }
}

/// Claims names and makes the tasks that got theirs. Where no batch has a name, all that is written is written by one statement.
pub(super) async fn accept(
    connection: &mut PgConnection,
    batch: &[&NewTask],
    ids: &[TaskId],
    claims: &Claims<'_>,
    hint: Option<String>,
) -> Result<Submission, StoreError> {
    let mut claimed = claim_batches(connection, claims).await?;
    let is_new = |(task, id): &(&NewTask, TaskId)| claims.is_first(task, *id) && claimed.is_free_for(task, *id);
    let new: Vec<(&NewTask, TaskId)> = batch.iter().copied().zip(ids.iter().copied()).filter(is_new).collect();
    let projects: BTreeSet<Uuid> = batch.iter().map(|task| task.project.as_uuid()).collect();
    let projects: Vec<Uuid> = projects.into_iter().collect();
    let Made { at, projects: known, slugs, tasks } = make(connection, &projects, &new, claims, hint).await?;
    if known.len() < projects.len() {
        return Err(StoreError::Corrupt("a task was checked for a project that is not there".into()));
    }
    claimed.read_own(connection, claims, &tasks.into_iter().collect()).await?;
    let answers = batch.iter().zip(ids).map(|(new, id)| claimed.answer(new, *id)).collect();
    Ok(Submission { at, slugs: known.into_iter().map(ProjectId::from_uuid).zip(slugs).collect(), answers })
}

struct Made {
    at: Timestamp,
    /// Those that are there, in the order of their ids, and what people call them.
    projects: Vec<Uuid>,
    slugs: Vec<String>,
    /// Those whose key was free.
    tasks: Vec<Uuid>,
}

/// Nothing is made unless all `projects` are there.
async fn make(
    connection: &mut PgConnection,
    projects: &[Uuid],
    new: &[(&NewTask, TaskId)],
    claims: &Claims<'_>,
    hint: Option<String>,
) -> Result<Made, StoreError> {
    let needs: Vec<(ProjectId, Needs)> = new.iter().map(|(task, _)| (task.project, task.spec.needs())).collect();
    let (classes, known) = classes_of(&needs);
    macro_rules! column {
        ($task:ident => $value:expr) => {
            new.iter().map(|($task, _)| $value).collect::<Vec<_>>()
        };
    }
    macro_rules! key {
        ($key:pat => $value:expr) => {
            claims.own.iter().map(|$key| $value).collect::<Vec<_>>()
        };
    }
    let ids: Vec<Uuid> = new.iter().map(|(_, id)| id.as_uuid()).collect();
    // No key has a space.
    let warm_keys = column!(t => warm::keys(&t.spec.source).into_iter().collect::<Vec<_>>().join(" "));
    let has_own_key = |task: &NewTask| task.idempotency.as_ref().is_some_and(|key| key.place.is_none());
    let made = sqlx::query!(
        r#"WITH known AS (
             SELECT id, slug FROM projects WHERE id = ANY($15)
           ), keys AS (
             INSERT INTO idempotency_keys (project_id, key, created_by, request_hash, task_id)
             SELECT * FROM UNNEST($16::uuid[], $17::text[], $18::uuid[], $19::bytea[], $20::uuid[])
             WHERE (SELECT count(*) FROM known) = cardinality($15) ON CONFLICT DO NOTHING RETURNING task_id
           ), new AS (
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::bigint[], $9::int[], $10::bigint[],
                                  $14::bool[], $21::bool[])
               AS n(id, project_id, created_by, name, spec, metadata, warm_keys, class, priority, queue_timeout_ms, exclusive, has_key)
             WHERE (NOT has_key OR id IN (SELECT task_id FROM keys)) AND (SELECT count(*) FROM known) = cardinality($15)
           ), classes AS (
             -- Asked for first: who only tries to insert waits for whoever is doing so.
             INSERT INTO requirement_classes (id, needs) SELECT id, needs FROM UNNEST($12::bigint[], $13::jsonb[]) AS c(id, needs)
             WHERE NOT EXISTS (SELECT FROM requirement_classes r WHERE r.id = c.id) ON CONFLICT DO NOTHING
           ), cold AS (
             INSERT INTO tasks (id, project_id, created_by, name, spec, metadata, warm_keys)
             SELECT id, project_id, created_by, name, spec::json, metadata, string_to_array(warm_keys, ' ') FROM new
           ), hot AS (
             INSERT INTO task_state (task_id, project_id, class, priority, queued_at, queue_expires_at, queued, state, fence, attempts, user_failures,
                                     infra_failures, node_losses, cancel_requested, message, exclusive)
             SELECT id, project_id, class, priority, now(), now() + queue_timeout_ms * interval '1 millisecond', true, 'pending', 0, 0, 0, 0, 0, false, '', exclusive
             FROM new
           ), history AS (
             INSERT INTO task_events (task_id, project_id, state, events) SELECT id, project_id, 'pending', $11 FROM new
           )
           -- Keys are claimed before anything else is written, since this asks for what came of it.
           SELECT now() AS "at!", ARRAY(SELECT id FROM known ORDER BY id) AS "projects!", ARRAY(SELECT slug FROM known ORDER BY id) AS "slugs!",
                  ARRAY(SELECT id FROM new) AS "tasks!",
                  CASE WHEN $22::text IS NOT NULL AND EXISTS (SELECT FROM new) THEN pg_notify($23, $22)::text END AS told"#,
        &ids,
        &column!(t => t.project.as_uuid()),
        &column!(t => t.created_by.as_uuid()),
        &column!(t => t.spec.name.clone()),
        &column!(t => write_text(&t.spec)),
        &column!(t => write_json(&t.spec.metadata)) as &[JsonText],
        &warm_keys,
        &classes,
        &column!(t => t.spec.priority),
        &column!(t => t.spec.queue_timeout_ms.map(|ms| ms as i64)) as &[Option<i64>],
        write_json(&[Event::Submitted]) as JsonText,
        &known.keys().copied().collect::<Vec<i64>>(),
        &known.values().map(|needs| write_json(needs)).collect::<Vec<_>>() as &[JsonText],
        &column!(t => t.spec.on_node_loss.exclusive),
        projects,
        &key!(((project, _), _) => project.as_uuid()),
        &key!(((_, key), _) => (*key).to_owned()),
        &key!((_, claim) => claim.maker.as_uuid()),
        &key!((_, claim) => claim.hash.to_vec()),
        &key!((_, claim) => claim.task.as_uuid()),
        &column!(t => has_own_key(t)),
        hint,
        CHANNEL,
    )
    .fetch_one(connection)
    .await?;
    Ok(Made { at: made.at, projects: made.projects, slugs: made.slugs, tasks: made.tasks })
}

impl Store {
    /// Forgets idempotency keys older than so long, by the database's clock. Returns how many.
    pub async fn expire_idempotency_keys(&self, age: chrono::TimeDelta) -> Result<u64, StoreError> {
        let seconds = age.num_seconds() as f64;
        let own =
            sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1)", seconds)
                .execute(&self.pool)
                .await?;
        let of_batches = sqlx::query!(
            "DELETE FROM idempotency_batches WHERE created_at < now() - make_interval(secs => $1)",
            seconds
        )
        .execute(&self.pool)
        .await?;
        Ok(own.rows_affected() + of_batches.rows_affected())
    }
}
