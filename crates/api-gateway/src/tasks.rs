//! Routes of tasks, a file each.

pub(crate) mod batch;
pub(crate) mod cancel;
pub(crate) mod credentials;
pub(crate) mod events;
pub(crate) mod get;
mod inputs;
pub(crate) mod list;
mod log_reader;
pub(crate) mod logs;
pub(crate) mod retry;
pub(crate) mod submission;
pub(crate) mod submit;
mod view;
pub(crate) mod why;

use crate::{AppState, failed::failed};
use api_types::Problem;
use domain::{fault::Fault, ids::TaskId, principal::Principal};
use service_kit::ApiError;
use store::TaskDetail;

/// The id in a path. Endings are for people: a program that means one task names all of it.
fn task_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|_| {
        let is_ending = (6..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_ending {
            no_task(format!("{text} is not a full id; GET /api/v1/tasks?id_suffix={text} finds the task that ends so."))
        } else {
            let cut: String = text.chars().take(80).collect();
            no_task(format!("{cut:?} is not the id of a task."))
        }
    })
}

fn no_such_task(id: TaskId) -> ApiError {
    no_task(format!("No task {id} in the projects you can see."))
}

fn no_task(detail: String) -> ApiError {
    let fault = Fault::parameter("id", "no_such_task", detail.clone());
    Problem::new("no-such-task", detail).errors(vec![fault]).into()
}

async fn find(state: &AppState, principal: &Principal, id: TaskId) -> Result<TaskDetail, ApiError> {
    state.store.get_task(principal.scope(), id).await.map_err(failed)?.ok_or_else(|| no_such_task(id))
}

fn bad_parameter(name: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone())
        .errors(vec![Fault::parameter(name, "invalid_parameter", detail)])
        .into()
}

pub(crate) fn bad_header(name: &str, detail: impl Into<String>) -> ApiError {
    let detail = detail.into();
    Problem::new("invalid-request", detail.clone()).errors(vec![Fault::header(name, "invalid_header", detail)]).into()
}
