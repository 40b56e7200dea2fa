//! What a task keeps while it runs: the newest states of one of its directories, from which its next attempt goes on, wherever that is. Its
//! attempts store them one after the other, and only who holds the task does; of all of them the newest few stay.

use super::{
    complete::{CompletedArtifact, StoredObject},
    outputs::{Holder, lock_held},
    pins::PassedOver,
    read::{ArtifactView, by_id, state},
    remove::{Expiry, expire, expire_checkpoint},
    reserve::{Left, NewArtifact, insert},
};
use crate::{Store, StoreError};
use domain::{
    artifact::ArtifactState,
    ids::{ArtifactId, AttemptId, PrincipalId, TaskId},
    principal::Origin,
    spec::CHECKPOINTS_KEPT,
};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// One step of a walk over the checkpoints of all tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointsWalked {
    pub expired: u64,
    /// Where the next step begins. None: the walk is over.
    pub next: Option<(TaskId, u32)>,
}

impl Store {
    /// Begins the upload of a checkpoint. What this attempt has begun before and not completed is given up: it is of another moment. `by`: whose
    /// artifact it is to be. None: the node does not hold the task.
    pub async fn begin_checkpoint(
        &self,
        who: Holder,
        new: &NewArtifact,
        by: (PrincipalId, &str),
        grace: Duration,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let Some(task) = lock_held(&mut transaction, who).await? else { return Ok(None) };
        for known in lock_unpinned(&mut transaction, task).await? {
            if known.state == ArtifactState::Uploading && known.attempt == Some(who.held.attempt) {
                expire(&mut transaction, known.id, &PassedOver::default(), None, grace).await?;
            }
        }
        let id = Uuid::now_v7();
        insert(&mut transaction, id, new, (by.0.as_uuid(), by.1), Some((who, Left::Checkpoint(task)))).await?;
        let made = by_id(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// The checkpoint of this id, in whatever state. None: this attempt has begun none.
    pub async fn checkpoint(
        &self,
        attempt: AttemptId,
        checkpoint: ArtifactId,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let found = by_id(&mut *self.pool_for(1).acquire().await?, checkpoint.as_uuid()).await?;
        Ok(found.filter(|found| found.attempt == Some(attempt) && found.checkpoint_of.is_some()))
    }

    /// As [`Store::complete_output`], of a checkpoint of this attempt: in the same transaction older ones of its task go that nobody has pinned. None:
    /// the node does not hold the task any more, and what it has stored never becomes ready.
    pub async fn complete_checkpoint(
        &self,
        who: Holder,
        checkpoint: ArtifactId,
        stored: &StoredObject,
        grace: Duration,
        origin: &Origin,
    ) -> Result<Option<CompletedArtifact>, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let Some(task) = lock_held(&mut transaction, who).await? else { return Ok(None) };
        // Before the name's count of versions is locked: rules lock one of them first, too, and then the count.
        let known = lock_unpinned(&mut transaction, task).await?;
        let attempt = Some(who.held.attempt);
        let completed = self.complete(&mut transaction, checkpoint, attempt, stored, grace, origin).await?;
        let kept = newest(&mut transaction, task, CHECKPOINTS_KEPT).await?;
        for older in known {
            if older.state != ArtifactState::Uploading && !kept.contains(&older.id) {
                expire_checkpoint(&mut transaction, older.id, task, &PassedOver::default(), grace).await?;
            }
        }
        transaction.commit().await?;
        Ok(Some(completed))
    }

    /// The checkpoints of a task that are ready, whichever attempt took them: the newest `most`, the newest first.
    pub async fn newest_checkpoints(&self, task: TaskId, most: usize) -> Result<Vec<ArtifactView>, StoreError> {
        let mut connection = self.pool_for(1).acquire().await?;
        let mut views = Vec::with_capacity(most);
        for id in newest(&mut connection, task, most).await? {
            // One that has gone since is left out.
            views.extend(by_id(&mut connection, id).await?.filter(|found| found.state == ArtifactState::Ready));
        }
        Ok(views)
    }

    /// Of the next `limit` checkpoints, after that version of that task's, expires those from which nothing will go on: their task has succeeded, was
    /// deleted, or ended so long ago otherwise that nobody will run it again. Never one of a task that has not ended, that is pinned, or that another
    /// task reads. Safe to repeat, and while others do the same.
    pub async fn expire_checkpoints(
        &self,
        after: Option<(TaskId, u32)>,
        kept_for: Duration,
        grace: Duration,
        limit: i64,
        origin: &Origin,
    ) -> Result<CheckpointsWalked, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT c.id AS "id!", c.checkpoint_of AS "task!", c.version AS "version!",
                      (s.task_id IS NULL OR s.ended_at IS NOT NULL AND (s.state = 'succeeded' OR s.ended_at <= now() - make_interval(secs => $4))) AS "is_over!"
               FROM (SELECT id, checkpoint_of, version FROM artifacts
                     WHERE checkpoint_of IS NOT NULL AND (checkpoint_of, version) > ($1, $2) AND state IN ('ready', 'corrupt') AND NOT pinned
                     ORDER BY checkpoint_of, version LIMIT $3) c
               LEFT JOIN task_state s ON s.task_id = c.checkpoint_of ORDER BY c.checkpoint_of, c.version"#,
            after.map_or(Uuid::nil(), |(task, _)| task.as_uuid()),
            after.map_or(0, |(_, version)| version as i32),
            limit,
            kept_for.as_secs_f64()
        )
        .fetch_all(self.pool_for(1))
        .await?;
        let last = rows.last().filter(|_| rows.len() as i64 >= limit);
        let next = last.map(|last| (TaskId::from_uuid(last.task), last.version.unsigned_abs()));
        let mut expired = 0;
        for row in rows.into_iter().filter(|row| row.is_over) {
            let of = (ArtifactId::from_uuid(row.id), TaskId::from_uuid(row.task));
            expired += u64::from(self.expire_of_ended(of, kept_for, grace, origin).await?);
        }
        Ok(CheckpointsWalked { expired, next })
    }

    async fn expire_of_ended(
        &self,
        (checkpoint, task): (ArtifactId, TaskId),
        kept_for: Duration,
        grace: Duration,
        origin: &Origin,
    ) -> Result<bool, StoreError> {
        let id = checkpoint.as_uuid();
        let passed = self.forget_ended_readers(checkpoint).await?;
        let mut transaction = self.begin_for(1).await?;
        // Whoever runs it again at this moment has it locked, and is seen.
        let lives = sqlx::query_scalar!(
            r#"SELECT (ended_at IS NULL OR state <> 'succeeded' AND ended_at > now() - make_interval(secs => $2)) AS "lives!"
               FROM task_state WHERE task_id = $1 FOR SHARE"#,
            task.as_uuid(),
            kept_for.as_secs_f64()
        );
        if lives.fetch_optional(&mut *transaction).await? == Some(true) {
            return Ok(false);
        }
        let is_pinned = sqlx::query_scalar!("SELECT pinned FROM artifacts WHERE id = $1 FOR NO KEY UPDATE", id);
        if is_pinned.fetch_optional(&mut *transaction).await? != Some(false)
            || expire_checkpoint(&mut transaction, id, task, &passed, grace).await? != Expiry::Done
        {
            return Ok(false);
        }
        let Some(removed) = by_id(&mut transaction, id).await? else { return Ok(false) };
        let detail = json!({ "name": removed.name, "version": removed.version, "checkpoint_of": task });
        self.write_audit(&mut transaction, Some(removed.project), origin, "artifact.expire", &id.to_string(), &detail)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

struct Known {
    id: Uuid,
    state: ArtifactState,
    attempt: Option<AttemptId>,
}

/// The checkpoints of a task that are not removed and not pinned, locked.
async fn lock_unpinned(connection: &mut PgConnection, task: TaskId) -> Result<Vec<Known>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, state, attempt_id FROM artifacts WHERE checkpoint_of = $1 AND state IN ('uploading', 'ready', 'corrupt') AND NOT pinned
         ORDER BY id FOR NO KEY UPDATE",
        task.as_uuid()
    )
    .fetch_all(connection)
    .await?;
    let known = |attempt: Option<Uuid>| attempt.map(AttemptId::from_uuid);
    rows.into_iter()
        .map(|row| Ok(Known { id: row.id, state: state(&row.state)?, attempt: known(row.attempt_id) }))
        .collect()
}

/// Those that are ready, the newest first. What is damaged is passed over apart: a condition on the state alone is also that of indexes which a plan of an
/// empty table would rather walk through.
async fn newest(connection: &mut PgConnection, task: TaskId, most: usize) -> Result<Vec<Uuid>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT c.id FROM (SELECT id, version, state FROM artifacts WHERE checkpoint_of = $1 AND state IN ('uploading', 'ready', 'corrupt')
                           ORDER BY version DESC OFFSET 0) c
         WHERE c.state = 'ready' ORDER BY c.version DESC LIMIT $2",
        task.as_uuid(),
        most as i64
    );
    Ok(ids.fetch_all(connection).await?)
}

/// Whether this task has not ended: then it keeps its checkpoints.
pub(super) async fn is_live(connection: &mut PgConnection, task: Uuid) -> Result<bool, StoreError> {
    let lives = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM task_state WHERE task_id = $1 AND ended_at IS NULL) AS "lives!""#,
        task
    );
    Ok(lives.fetch_one(connection).await?)
}
