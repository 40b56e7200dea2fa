//! Tasks of the store as the API shows them.

use api_types::{
    artifact::{TaskArtifact, TaskCheckpoint},
    task::{Attempt, Image, Task, TaskLog},
};
use domain::{attempt::AttemptState, ids::TaskId, principal::Principal, task::TaskState};
use serde_json::Value;
use store::{ArtifactView, AttemptView, NewTask, Submission, TaskDetail, TaskView};

/// A task as it was accepted a moment ago.
pub(super) fn accepted(id: TaskId, new: &NewTask, submission: &Submission, principal: &Principal) -> Task {
    let view = TaskView {
        id,
        project: new.project,
        project_slug: submission.slugs.get(&new.project).cloned().unwrap_or_default(),
        name: new.spec.name.clone(),
        created_by: principal.name.clone(),
        created_at: submission.at,
        state: TaskState::Pending,
        queued: true,
        failure: None,
        exit_code: None,
        message: String::new(),
        cancel_requested: false,
        not_before: None,
        ended_at: None,
        attempts: 0,
        user_failures: 0,
        infra_failures: 0,
        node_losses: 0,
        node: None,
        node_offline: false,
        replaceable_at: None,
        started_at: None,
        exit: None,
        ending: None,
        provenance: None,
        log_bytes: 0,
    };
    detail(TaskDetail { view, spec: new.spec.clone(), attempts: Vec::new() })
}

/// With the spec and all attempts.
pub(super) fn detail(task: TaskDetail) -> Task {
    let attempts = task.attempts.into_iter().map(attempt).collect();
    Task { spec: Some(task.spec), attempts: Some(attempts), ..summary(task.view) }
}

/// As lists show it.
pub(super) fn summary(task: TaskView) -> Task {
    let is_over = task.state.is_terminal();
    let exit = task.exit.as_ref();
    let outcome = match task.state {
        TaskState::Succeeded => Some("succeeded".to_owned()),
        TaskState::Cancelled => Some("cancelled".to_owned()),
        TaskState::Failed => Some(task.failure.map_or("failed", |kind| kind.as_str()).to_owned()),
        TaskState::Pending | TaskState::Assigned | TaskState::Preparing | TaskState::Running | TaskState::Finishing => {
            None
        }
    };
    let is_placed = !is_over && task.state != TaskState::Pending;
    let condition = (is_placed && task.node_offline).then(|| "node_offline".to_owned());
    let message = match &condition {
        _ if is_over || !task.message.is_empty() => task.message.clone(),
        Some(_) => "its node is offline".to_owned(),
        None if task.cancel_requested => "its node was told to stop it".to_owned(),
        None if task.not_before.is_some() && task.queued => "waits before its next attempt".to_owned(),
        None if task.queued => "waits for a node".to_owned(),
        None => String::new(),
    };
    Task {
        id: task.id,
        name: task.name,
        state: task.state,
        outcome,
        exit_code: task.exit_code,
        signal: exit.and_then(|exit| exit.signal).filter(|_| is_over),
        message,
        project: task.project_slug,
        project_id: task.project,
        created_by: task.created_by,
        created_at: task.created_at,
        started_at: task.started_at,
        ended_at: task.ended_at,
        duration_ms: exit.map(|exit| exit.duration_ms),
        cpu_ms: exit.and_then(|exit| exit.cpu_ms),
        peak_memory_bytes: exit.and_then(|exit| exit.peak_memory_bytes),
        node: task.node,
        attempt: task.attempts,
        cancel_requested: task.cancel_requested,
        replaceable_at: task.replaceable_at.filter(|_| condition.is_some()),
        condition,
        log: TaskLog {
            bytes: task.log_bytes,
            // What no node ever reported has no end that could be missing, unless an attempt began.
            complete: is_over && task.ending.as_ref().map_or(task.attempts == 0, |ending| ending.log.complete),
        },
        image: task.provenance.as_ref().and_then(image),
        spec: None,
        attempts: None,
        artifacts: Vec::new(),
        checkpoint: None,
        warnings: Vec::new(),
    }
}

/// What an attempt has left. None: it is not ready.
pub(super) fn output(artifact: ArtifactView) -> Option<TaskArtifact> {
    Some(TaskArtifact {
        id: artifact.id,
        name: artifact.name,
        version: artifact.version?,
        kind: artifact.kind,
        state: artifact.state,
        size: artifact.size?,
        sha256: artifact.sha256?,
        file_name: artifact.file_name,
        attempt: artifact.attempt?,
    })
}

/// Where the next attempt of a task goes on. None: it is not ready.
pub(super) fn checkpoint(artifact: ArtifactView) -> Option<TaskCheckpoint> {
    Some(TaskCheckpoint {
        id: artifact.id,
        name: artifact.name,
        version: artifact.version?,
        size: artifact.size?,
        attempt: artifact.attempt?,
        stored_at: artifact.ready_at?,
    })
}

fn image(provenance: &Value) -> Option<Image> {
    let image = provenance.get("image")?;
    let text = |name: &str| image.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Image {
        tag: text("tag")?,
        digest: text("digest").or_else(|| text("id")),
        warm: image.get("warm").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn attempt(AttemptView { row, node_name }: AttemptView) -> Attempt {
    let ending = row.ending.as_ref();
    let message = ending.map(|ending| ending.message.clone()).unwrap_or_default();
    Attempt {
        id: row.id,
        number: row.number,
        state: row.state,
        node_id: row.node,
        node: node_name,
        fence: row.fence.get(),
        reserved: row.reserved,
        placed_at: row.placed_at,
        accepted_at: row.accepted_at,
        preparing_at: row.preparing_at,
        started_at: row.started_at,
        exited_at: row.exited_at,
        ended_at: row.ended_at,
        failure: ending.and_then(|ending| ending.failure).filter(|_| row.state != AttemptState::Succeeded),
        message,
        exit: row.exit,
        provenance: row.provenance,
    }
}
