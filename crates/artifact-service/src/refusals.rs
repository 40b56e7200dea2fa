//! Why something is not done, as answers.

use crate::{ObjectStore, ObjectStoreError, routes::Shared};
use api_types::Problem;
use domain::{
    fault::Fault,
    ids::TaskId,
    principal::{Permission, Principal},
};
use service_kit::ApiError;
use std::time::Duration;
use store::{ArtifactView, Holder, NotHeld, StoreError};

pub(crate) fn permit(principal: &Principal, permission: Permission) -> Result<(), ApiError> {
    if principal.may(permission) { Ok(()) } else { Err(Problem::not_permitted(principal, permission).into()) }
}

pub(crate) fn failed(error: StoreError) -> ApiError {
    if error.is_storage_full() {
        return ApiError::storage_full(&error);
    }
    if error.is_temporary() { ApiError::unavailable(&error) } else { ApiError::internal(&error) }
}

/// Less than an answer of the API may take to begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// For routes whose answer as a whole may take longer: a database that hangs is away all the same.
pub(crate) async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or(Err(StoreError::Busy))
}

/// The object store did not do it. What was stored is not lost, and the same request may be sent again.
pub(crate) fn objects_failed(error: ObjectStoreError) -> ApiError {
    let (detail, retry_after_ms) = match &error {
        ObjectStoreError::Away(_) => {
            ("The object store does not answer. What it has taken is not lost; try again in a moment.", 2_000)
        }
        ObjectStoreError::Refused(_) => (
            "The object store refuses the platform's own requests. An administrator finds its reason in the server's log by the request id; then \
             it goes on where it was.",
            30_000,
        ),
    };
    tracing::warn!(%error, "a request could not be answered");
    Problem::new("object-store-away", detail).retry_after_ms(retry_after_ms).into()
}

/// The object store, if one is set.
pub(crate) fn objects(shared: &Shared) -> Result<&ObjectStore, ApiError> {
    shared.objects.as_ref().ok_or_else(|| {
        ApiError::new(
            "no-object-store",
            "This platform has no object store. An administrator sets UNIDESK_S3_ENDPOINT, UNIDESK_S3_ACCESS_KEY_ID and \
             UNIDESK_S3_SECRET_ACCESS_KEY for the api-gateway and the artifact-service, and starts them again.",
        )
    })
}

pub(crate) fn bad_field(pointer: &str, code: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone()).errors(vec![Fault::new(pointer, code, detail)]).into()
}

pub(crate) fn bad_parameter(name: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone())
        .errors(vec![Fault::parameter(name, "invalid_parameter", detail)])
        .into()
}

pub(crate) fn no_such_artifact(detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("no-such-artifact", detail.clone())
        .errors(vec![Fault::parameter("ref", "no_such_artifact", detail)])
        .into()
}

/// Its upload is over, and what was wanted needs one that goes on.
pub(crate) fn upload_ended(artifact: &ArtifactView) -> ApiError {
    let detail = match artifact.version {
        Some(version) => format!("This upload has ended: it became {}@{version}.", artifact.name),
        None => "This upload was given up. Begin another one.".to_owned(),
    };
    Problem::new("upload-ended", detail).with("state", artifact.state.as_str()).into()
}

/// What a person wrote, short enough to repeat.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The node does not hold the task that it asks for, or does not any more, and this is why.
pub(crate) async fn not_held(shared: &Shared, who: Holder) -> ApiError {
    match in_time(shared.store.why_not_held(who)).await {
        Ok(NotHeld::Fenced) => ApiError::new(
            "fenced",
            "This attempt does not hold its task any more, or never was this node's: nothing is given to it, and nothing of it is kept.",
        ),
        Ok(NotHeld::Ended) => ApiError::new(
            "already-ended",
            "This attempt has ended, as the platform has it: nothing more of it is kept.",
        ),
        Ok(NotHeld::NotYet) => {
            let detail = "The platform was restored from a backup, and has yet to hear from this node what it has. Try again in a moment.";
            Problem::new("unavailable", detail).retry_after_ms(2_000).into()
        }
        Ok(NotHeld::Forgotten) => {
            let detail =
                "The platform was restored from a backup, and has forgotten this task: nothing of it can be kept.";
            ApiError::new("no-such-task", detail)
        }
        Err(error) => failed(error),
    }
}

/// Tasks read it that have not ended.
pub(crate) fn in_use(artifact: &ArtifactView, tasks: &[TaskId]) -> ApiError {
    let version = artifact.version.map_or_else(String::new, |version| format!("@{version}"));
    let ids: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
    let detail = format!(
        "{}{version} is read by tasks that have not ended, among them {}. Wait for them, or cancel them.",
        artifact.name,
        ids.join(", ")
    );
    Problem::new("artifact-in-use", detail).with("tasks", ids).into()
}
