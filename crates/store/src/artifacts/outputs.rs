//! What nodes do for the attempts that they hold: they fetch what was pinned, and store what is left. Whoever does not hold the task any more
//! stores nothing.

use super::{
    complete::{CompletedArtifact, StoredObject},
    pins::PassedOver,
    read::{ArtifactView, by_id, select_artifacts, view},
    remove::expire,
    reserve::{Left, NewArtifact, insert},
};
use crate::{
    Store, StoreError,
    json::{JsonText, read_json},
};
use domain::{
    artifact::ArtifactState,
    ids::{ArtifactId, AttemptId, Held, NodeId, PrincipalId, ProjectId, TaskId},
    principal::Origin,
    spec::TaskSpec,
};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// A node that asks for an attempt of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub node: NodeId,
    pub held: Held,
}

/// The task that an attempt holds.
#[derive(Clone, Debug)]
pub struct HeldTask {
    pub id: TaskId,
    pub project: ProjectId,
    pub created_by: PrincipalId,
    /// Of the key that submitted it.
    pub created_by_name: String,
    pub spec: TaskSpec,
}

/// Why a node does not hold what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It was replaced or given up, or never was this node's: the node is told to stop it.
    Fenced,
    /// It has ended, as by its exit facts while its node was away: the node is told nothing, and ends it as well.
    Ended,
    /// It was leased before a restore that has forgotten it; the node's hello, which is still to come, may take it up again.
    NotYet,
    /// A restore has forgotten it and its task: it runs to its end, which nobody waits for.
    Forgotten,
}

/// Attempts whose outputs one statement reads.
const ATTEMPTS_AT_ONCE: usize = 8;

impl Store {
    /// The task that this node holds by this attempt. None: it does not, or not any more.
    pub async fn held_task(&self, who: Holder) -> Result<Option<HeldTask>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT t.id, t.project_id, t.created_by, COALESCE(k.name, 'unknown') AS "created_by_name!", t.spec AS "spec: JsonText"
               FROM attempts a JOIN task_state s ON s.task_id = a.task_id JOIN tasks t ON t.id = a.task_id LEFT JOIN api_keys k ON k.id = t.created_by
               WHERE a.id = $1 AND a.fence = $2 AND a.node_id = $3 AND a.ended_at IS NULL AND s.live_attempt_id = a.id AND s.fence = a.fence"#,
            who.held.attempt.as_uuid(),
            who.held.fence.get(),
            who.node.as_uuid()
        )
        .fetch_optional(self.pool_for(1))
        .await?;
        row.map(|row| {
            Ok(HeldTask {
                id: TaskId::from_uuid(row.id),
                project: ProjectId::from_uuid(row.project_id),
                created_by: PrincipalId::from_uuid(row.created_by),
                created_by_name: row.created_by_name,
                spec: read_json(row.spec)?,
            })
        })
        .transpose()
    }

    /// Why there is nothing for [`Store::held_task`] to find.
    pub async fn why_not_held(&self, who: Holder) -> Result<NotHeld, StoreError> {
        let row = sqlx::query!(
            r#"SELECT a.id IS NOT NULL AS "is_known!", (a.node_id = $2 AND a.fence = $3 AND a.ended_at IS NOT NULL AND a.state <> 'lost') AS is_over, c.epoch,
                      EXISTS (SELECT FROM node_live WHERE node_id = $2 AND connected_since IS NOT NULL) AS "was_heard!"
               FROM cluster c LEFT JOIN attempts a ON a.id = $1"#,
            who.held.attempt.as_uuid(),
            who.node.as_uuid(),
            who.held.fence.get()
        )
        .fetch_one(self.pool_for(1))
        .await?;
        let is_known = row.is_known || who.held.fence.epoch().0 == row.epoch;
        Ok(match (is_known, row.is_over) {
            (true, Some(true)) => NotHeld::Ended,
            (true, _) => NotHeld::Fenced,
            (false, _) if row.was_heard => NotHeld::Forgotten,
            (false, _) => NotHeld::NotYet,
        })
    }

    /// The upload of an output of an attempt, made when it is asked for first; then the same one, however far it is, also when it is ready. One
    /// that was given up, or announced as something else, is begun anew. `by`: whose artifact it is to be. None: the node does not hold the task.
    pub async fn begin_output(
        &self,
        who: Holder,
        index: u32,
        new: &NewArtifact,
        by: (PrincipalId, &str),
        grace: Duration,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        if lock_held(&mut transaction, who).await?.is_none() {
            return Ok(None);
        }
        if let Some(known) = living(&mut transaction, who.held.attempt, index).await? {
            let is_same = (known.kind, known.size, &known.file_name) == (new.kind, new.size, &new.file_name);
            if known.state == ArtifactState::Ready || is_same {
                return Ok(Some(known));
            }
            expire(&mut transaction, known.id.as_uuid(), &PassedOver::default(), None, grace).await?;
        }
        let id = Uuid::now_v7();
        insert(&mut transaction, id, new, (by.0.as_uuid(), by.1), Some((who, Left::Output(index)))).await?;
        let made = by_id(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// The output that is uploaded or ready. None: none was begun, or it was given up. Whether the node still holds the task says
    /// [`Store::held_task`].
    pub async fn output(&self, attempt: AttemptId, index: u32) -> Result<Option<ArtifactView>, StoreError> {
        living(&mut *self.pool_for(1).acquire().await?, attempt, index).await
    }

    /// As [`Store::complete_artifact`], of an output: only while the node holds the task, and counted in the same transaction. None: it does not
    /// hold it any more, and what it has stored never becomes ready.
    pub async fn complete_output(
        &self,
        who: Holder,
        artifact: ArtifactId,
        stored: &StoredObject,
        grace: Duration,
        origin: &Origin,
    ) -> Result<Option<CompletedArtifact>, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        if lock_held(&mut transaction, who).await?.is_none() {
            return Ok(None);
        }
        let attempt = who.held.attempt;
        let completed = self.complete(&mut transaction, artifact, Some(attempt), stored, grace, origin).await?;
        // Each output once, however often it was stored: one may have been removed since.
        sqlx::query!(
            "UPDATE attempts SET outputs_stored = o.stored
             FROM (SELECT NULLIF(count(DISTINCT output_index), 0)::int AS stored FROM artifacts WHERE attempt_id = $1 AND output_index IS NOT NULL AND version IS NOT NULL) o
             WHERE id = $1 AND outputs_stored IS DISTINCT FROM o.stored",
            attempt.as_uuid()
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(completed))
    }

    /// What these attempts have left that is ready, in the order of the attempts and of their outputs.
    pub async fn outputs_of(&self, attempts: &[AttemptId]) -> Result<Vec<ArtifactView>, StoreError> {
        let mut outputs = Vec::new();
        for some in attempts.chunks(ATTEMPTS_AT_ONCE) {
            let ids: Vec<Uuid> = some.iter().map(|attempt| attempt.as_uuid()).collect();
            // Which are ready is asked here: in the statement it fits the index of names as well, and a plan of an empty table may take that.
            let records = select_artifacts!(
                "WHERE a.attempt_id = ANY($1) AND a.output_index IS NOT NULL ORDER BY a.attempt_id, a.output_index, a.id",
                &ids
            )
            .fetch_all(&self.pool)
            .await?;
            let mut found: Vec<ArtifactView> = records.into_iter().map(view).collect::<Result<_, _>>()?;
            found.retain(|it| it.state == ArtifactState::Ready);
            found.sort_by_key(|it| some.iter().position(|attempt| it.attempt == Some(*attempt)));
            outputs.extend(found);
        }
        Ok(outputs)
    }
}

/// Locks the row of the task that this node holds by this attempt. None: it does not hold it, or not any more.
pub(super) async fn lock_held(connection: &mut PgConnection, who: Holder) -> Result<Option<TaskId>, StoreError> {
    let held = sqlx::query_scalar!(
        "SELECT s.task_id FROM task_state s
         WHERE s.task_id = (SELECT task_id FROM attempts WHERE id = $1 AND fence = $2 AND node_id = $3 AND ended_at IS NULL)
           AND s.live_attempt_id = $1 AND s.fence = $2 FOR UPDATE",
        who.held.attempt.as_uuid(),
        who.held.fence.get(),
        who.node.as_uuid()
    );
    Ok(held.fetch_optional(connection).await?.map(TaskId::from_uuid))
}

/// At most one is, since whoever begins one has the task's lock.
async fn living(
    connection: &mut PgConnection,
    attempt: AttemptId,
    index: u32,
) -> Result<Option<ArtifactView>, StoreError> {
    let found = select_artifacts!(
        "WHERE a.attempt_id = $1 AND a.output_index = $2 AND a.state IN ('uploading', 'ready') ORDER BY a.id DESC LIMIT 1",
        attempt.as_uuid(),
        index as i32
    );
    found.fetch_optional(connection).await?.map(view).transpose()
}
