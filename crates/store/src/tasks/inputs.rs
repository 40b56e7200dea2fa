//! Tasks that read artifacts. What is pinned must still be there when they are made or run again; others pay nothing for it.

use super::{
    claim_keys::Claims,
    submit::{NewTask, Submission, Submitted, accept},
};
use crate::{
    StoreError,
    artifacts::pins::{hold_ready, note_readers},
    json::{JsonText, read_json},
};
use domain::{
    ids::TaskId,
    spec::{Input, PinnedArtifact},
};
use sqlx::PgConnection;
use std::collections::BTreeSet;
use uuid::Uuid;

fn pinned(inputs: &[Input]) -> impl Iterator<Item = &PinnedArtifact> {
    inputs.iter().filter_map(|input| input.pinned.as_ref())
}

/// Accepts a batch of which some read artifacts. Whose artifact was removed since it was pinned is answered so, and claims no key.
pub(super) async fn accept_readers(
    connection: &mut PgConnection,
    batch: &[&NewTask],
    ids: &[TaskId],
) -> Result<Submission, StoreError> {
    let wanted = batch.iter().flat_map(|task| pinned(&task.spec.inputs)).map(|input| input.id.as_uuid()).collect();
    let ready = hold_ready(connection, &wanted).await?;
    let has_all = |task: &NewTask| pinned(&task.spec.inputs).all(|input| ready.contains(&input.id.as_uuid()));
    let (sound, sound_ids): (Vec<&NewTask>, Vec<TaskId>) =
        batch.iter().zip(ids).filter(|(task, _)| has_all(task)).map(|(task, id)| (*task, *id)).unzip();
    let claims = Claims::of(&sound, &sound_ids);
    let mut submission = accept(connection, &sound, &sound_ids, &claims, None).await?;
    let mut answers = submission.answers.into_iter();
    let answer = |task: &&NewTask| if has_all(task) { answers.next() } else { Some(Submitted::InputGone) };
    submission.answers = batch.iter().filter_map(answer).collect();
    let readers: Vec<(Uuid, TaskId)> = batch
        .iter()
        .zip(&submission.answers)
        .filter_map(|(task, answer)| if let Submitted::Accepted { id } = answer { Some((task, *id)) } else { None })
        .flat_map(|(task, id)| pinned(&task.spec.inputs).map(move |input| (input.id.as_uuid(), id)))
        .collect();
    note_readers(connection, &readers).await?;
    Ok(submission)
}

/// Before a task that has ended is run again, whose row is locked: what it reads and is not there any more. Nothing: it may be run.
pub(super) async fn hold_inputs(connection: &mut PgConnection, task: TaskId) -> Result<Vec<Input>, StoreError> {
    let inputs =
        sqlx::query_scalar!(r#"SELECT spec->'inputs' AS "inputs: JsonText" FROM tasks WHERE id = $1"#, task.as_uuid());
    let Some(inputs) = inputs.fetch_optional(&mut *connection).await?.flatten() else { return Ok(Vec::new()) };
    let mut inputs: Vec<Input> = read_json(inputs)?;
    let wanted: BTreeSet<Uuid> = pinned(&inputs).map(|input| input.id.as_uuid()).collect();
    let ready = hold_ready(connection, &wanted).await?;
    let readers: Vec<(Uuid, TaskId)> = ready.iter().map(|artifact| (*artifact, task)).collect();
    note_readers(connection, &readers).await?;
    inputs.retain(|input| input.pinned.as_ref().is_some_and(|pinned| !ready.contains(&pinned.id.as_uuid())));
    Ok(inputs)
}
