//! Checkpoints: what nodes ask for those of the tasks that they hold, and the pass that removes those from which nobody will go on.

use crate::{
    Times,
    download::address_of,
    looking::{self, view},
    nodes::{announced, held, holder},
    refusals::{bad_field, failed, in_time, no_such_artifact, not_held, objects},
    routes::Shared,
    upload::{finish, hand_out},
};
use api_types::artifact::{
    Artifact, CheckpointsAnswer, CompleteArtifact, CreateOutput, Download, PartsRequest, Upload,
};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use domain::{
    artifact::{ArtifactKind, MAX_SIZE},
    ids::{ArtifactId, NodeId, TaskId},
    principal::Origin,
    spec::CHECKPOINTS_KEPT,
};
use service_kit::{ApiError, request_body};
use std::sync::{Arc, Mutex, PoisonError};
use store::{ArtifactView, HeldTask, Holder, Store, StoreError};

/// The attempt, and its fence.
type Attempt = Path<(String, String)>;
/// One of its checkpoints besides.
type Place = Path<(String, String, String)>;

async fn keeping(shared: &Shared, who: Holder) -> Result<HeldTask, ApiError> {
    let task = held(shared, who).await?;
    match task.spec.checkpoints {
        Some(_) => Ok(task),
        None => Err(no_such_artifact("The task keeps no checkpoints.")),
    }
}

pub(crate) async fn newest(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path((attempt, fence)): Attempt,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    objects(&shared)?;
    let task = keeping(&shared, holder(node, &attempt, &fence)?).await?;
    let found = in_time(shared.store.newest_checkpoints(task.id, CHECKPOINTS_KEPT)).await.map_err(failed)?;
    let mut checkpoints = Vec::with_capacity(found.len());
    for artifact in found {
        let get = address_of(&shared, &headers, &artifact).await?;
        checkpoints.push(Download { artifact: view(artifact), get });
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(CheckpointsAnswer { checkpoints })).into_response())
}

pub(crate) async fn begin(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path((attempt, fence)): Attempt,
    request: Request,
) -> Result<Json<Upload>, ApiError> {
    let objects = objects(&shared)?;
    let who = holder(node, &attempt, &fence)?;
    let wanted: CreateOutput = request_body::typed(request).await?;
    if wanted.kind != ArtifactKind::Directory {
        return Err(bad_field("#/kind", "bad_kind", "A checkpoint is a directory."));
    }
    if wanted.size.is_some_and(|size| size > MAX_SIZE) {
        return Err(bad_field("#/size", "out_of_range", format!("An artifact has at most {MAX_SIZE} bytes.")));
    }
    let task = keeping(&shared, who).await?;
    let new = announced(objects, &task, name_of(task.id), &wanted);
    let by = (task.created_by, task.created_by_name.as_str());
    let begun = in_time(shared.store.begin_checkpoint(who, &new, by, shared.times.grace)).await.map_err(failed)?;
    let Some(artifact) = begun else { return Err(not_held(&shared, who).await) };
    Ok(Json(looking::upload(artifact, &new)))
}

/// All checkpoints of a task are versions of one name.
fn name_of(task: TaskId) -> String {
    format!("checkpoint-{task}")
}

/// A checkpoint that this attempt has begun, and who it is.
async fn begun(
    shared: &Shared,
    node: NodeId,
    (attempt, fence, checkpoint): (String, String, String),
) -> Result<(Holder, ArtifactView), ApiError> {
    let who = holder(node, &attempt, &fence)?;
    let missing = || no_such_artifact("This attempt has begun no checkpoint of this id.");
    let checkpoint: ArtifactId = checkpoint.parse().map_err(|_| missing())?;
    keeping(shared, who).await?;
    let found = in_time(shared.store.checkpoint(who.held.attempt, checkpoint)).await.map_err(failed)?;
    Ok((who, found.ok_or_else(missing)?))
}

pub(crate) async fn parts(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Path(place): Place,
    request: Request,
) -> Result<Response, ApiError> {
    objects(&shared)?;
    let headers = request.headers().clone();
    let asked: PartsRequest = request_body::typed(request).await?;
    let (_, artifact) = begun(&shared, node, place).await?;
    hand_out(&shared, &headers, &artifact, &asked).await
}

pub(crate) async fn complete(
    State(shared): State<Shared>,
    Extension(node): Extension<NodeId>,
    Extension(origin): Extension<Origin>,
    Path(place): Place,
    request: Request,
) -> Result<Json<Artifact>, ApiError> {
    objects(&shared)?;
    let asked: CompleteArtifact = request_body::typed(request).await?;
    let (who, artifact) = begun(&shared, node, place).await?;
    finish(&shared, artifact, &asked, &origin, Some(who)).await
}

/// Checkpoints that one statement looks at, and statements of one pass: there may be as many as tasks that keep some.
const AT_ONCE: i64 = 50;
const STEPS: usize = 10;

/// A walk over the checkpoints of all tasks, some of them in each pass, and again from the beginning.
#[derive(Clone, Default)]
pub(crate) struct Walk {
    after: Arc<Mutex<Option<(TaskId, u32)>>>,
}

impl Walk {
    /// Removes what its task has no use for any more. Safe to repeat at any point.
    pub(crate) async fn go_on(&self, store: &Store, times: Times) -> Result<(), StoreError> {
        let origin = Origin::platform("artifact-service");
        let mut expired = 0;
        for _ in 0..STEPS {
            let after = *self.after.lock().unwrap_or_else(PoisonError::into_inner);
            let walked = store.expire_checkpoints(after, times.checkpoints, times.grace, AT_ONCE, &origin).await?;
            *self.after.lock().unwrap_or_else(PoisonError::into_inner) = walked.next;
            expired += walked.expired;
            if walked.next.is_none() {
                break;
            }
        }
        if expired > 0 {
            tracing::info!(checkpoints = expired, "removed, since their tasks have ended; their bytes follow");
        }
        Ok(())
    }
}
