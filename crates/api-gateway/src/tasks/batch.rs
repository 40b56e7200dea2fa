//! `POST /tasks:batch`: up to 10,000 tasks, an answer each. One bad task refuses itself and no other.

use super::{
    inputs::{self, Unpinned},
    submission::{Checked, Key, Projects, check, deleted_since, idempotency_key, is_key, key_reused},
};
use crate::{AppState, auth::permit, failed::failed};
use api_types::{
    Problem,
    task::{BatchAnswer, BatchItem},
};
use axum::{
    Extension, Json,
    extract::{Request, State},
};
use domain::{
    fault::Fault,
    ids::TaskId,
    principal::{Permission, Principal},
};
use serde_json::Value;
use service_kit::{ApiError, request_body};
use std::sync::Arc;
use store::{NewTask, Submitted};

const MAX_BODY_BYTES: usize = 16 << 20;
const MAX_TASKS: usize = 10_000;

struct Item {
    key: Option<Key>,
    checked: Result<Checked, Box<Problem>>,
}

pub(crate) async fn submit(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Json<BatchAnswer>, ApiError> {
    permit(&principal, Permission::RunTasks)?;
    let batch_key = idempotency_key(request.headers())?;
    let body = request_body::json_bytes(request, MAX_BODY_BYTES).await?;
    // Sixteen megabytes of JSON keep a thread busy for a while: not one that serves others.
    let items = tokio::task::spawn_blocking(move || read(&body, batch_key.as_ref()))
        .await
        .map_err(|error| ApiError::internal(&error))??;
    let mut projects = Projects::new(&state, &principal);
    let mut answers: Vec<Option<BatchItem>> = Vec::with_capacity(items.len());
    let mut accepted: Vec<(usize, NewTask)> = Vec::with_capacity(items.len());
    for (index, Item { key, checked }) in items.into_iter().enumerate() {
        let ready = match checked {
            Ok(checked) => projects
                .resolve(checked.project.as_deref())
                .await?
                .map(|project| checked.into_new(&principal, project, key)),
            Err(problem) => Err(problem),
        };
        answers.push(match ready {
            Ok(new) => {
                accepted.push((index, new));
                None
            }
            Err(problem) => Some(BatchItem::Refused { index, problem }),
        });
    }
    let (indexes, mut tasks): (Vec<usize>, Vec<NewTask>) = accepted.into_iter().unzip();
    let mut unpinned = inputs::pin(&state, &mut tasks).await?;
    let (mut sound, mut known) = (Vec::with_capacity(tasks.len()), Vec::new());
    for (place, (index, task)) in indexes.into_iter().zip(tasks).enumerate() {
        match unpinned.remove(&place) {
            None => sound.push((index, task)),
            Some(Unpinned::Refused(problem)) => answers[index] = Some(BatchItem::Refused { index, problem }),
            Some(Unpinned::Stands(answer)) => known.push((index, task, answer)),
        }
    }
    let (indexes, sound): (Vec<usize>, Vec<NewTask>) = sound.into_iter().unzip();
    let sound: Arc<[NewTask]> = sound.into();
    let submitted = state.batches.call_unless_busy(sound.clone()).await.map_err(failed)?.answers;
    let submitted = indexes.into_iter().zip(sound.iter()).zip(submitted).map(|((at, task), answer)| (at, task, answer));
    let known = known.iter().map(|(at, task, answer)| (*at, task, answer.clone()));
    let told: Vec<(usize, &NewTask, Submitted)> = known.chain(submitted).collect();
    let replayed = |(.., answer): &(usize, &NewTask, Submitted)| match answer {
        Submitted::Replayed { id } => Some(*id),
        Submitted::Accepted { .. } | Submitted::KeyReused { .. } | Submitted::InputGone => None,
    };
    let replayed: Vec<TaskId> = told.iter().filter_map(replayed).collect();
    let deleted = state.store.deleted_of(&replayed).await.map_err(failed)?;
    for (index, task, submitted) in told {
        answers[index] = Some(match submitted {
            Submitted::Accepted { id } => BatchItem::Accepted { index, id, replayed: false },
            Submitted::Replayed { id } if deleted.contains(&id) => {
                BatchItem::Refused { index, problem: deleted_since(id) }
            }
            Submitted::Replayed { id } => BatchItem::Accepted { index, id, replayed: true },
            Submitted::KeyReused { first } => {
                let problem = key_reused(&state, &principal, first, &task.spec).await?;
                BatchItem::Refused { index, problem }
            }
            Submitted::InputGone => BatchItem::Refused { index, problem: inputs::gone() },
        });
    }
    Ok(Json(BatchAnswer { items: answers.into_iter().flatten().collect() }))
}

/// A list of tasks, or an object with one. Only what makes the whole unreadable refuses the whole.
fn read(body: &[u8], batch_key: Option<&Arc<str>>) -> Result<Vec<Item>, ApiError> {
    let tasks = match request_body::parse(body)? {
        Value::Array(tasks) => tasks,
        Value::Object(mut fields) if fields.len() == 1 => match fields.remove("tasks") {
            Some(Value::Array(tasks)) => tasks,
            _ => return Err(not_a_batch()),
        },
        _ => return Err(not_a_batch()),
    };
    if tasks.len() > MAX_TASKS {
        let detail = format!("The batch has {} tasks; at most {MAX_TASKS} are taken at once.", tasks.len());
        return Err(ApiError::new("invalid-request", detail));
    }
    Ok(tasks.into_iter().enumerate().map(|(index, task)| read_item(task, index, batch_key)).collect())
}

fn read_item(mut task: Value, index: usize, batch_key: Option<&Arc<str>>) -> Item {
    let given = task.as_object_mut().and_then(|fields| fields.remove("idempotency_key"));
    match given {
        None | Some(Value::Null) => {
            Item { key: batch_key.map(|key| (key.clone(), Some(index as u32))), checked: check(&task) }
        }
        Some(Value::String(key)) if is_key(&key) => Item { key: Some((key.into(), None)), checked: check(&task) },
        Some(_) => {
            let detail = "A key is a string of 1 to 255 visible ASCII characters.";
            let fault = Fault::new("#/idempotency_key", "bad_key", detail);
            Item { key: None, checked: Err(Box::new(Problem::new("invalid-request", detail).errors(vec![fault]))) }
        }
    }
}

fn not_a_batch() -> ApiError {
    ApiError::new("invalid-request", r#"A batch is a list of tasks, or {"tasks": [...]} and nothing else."#)
}
