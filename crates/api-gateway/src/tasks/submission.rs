//! From a body to a task that may be accepted, or to the reason why not. Shared by single and batch submission.

use super::inputs::as_written;
use crate::{AppState, failed::failed};
use api_types::Problem;
use axum::http::HeaderMap;
use domain::{
    fault::Fault,
    ids::{DEFAULT_PROJECT, ProjectId, TaskId},
    principal::Principal,
    spec::{TaskSpec, parse_spec},
};
use serde_json::Value;
use service_kit::ApiError;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use store::{IdempotencyKey, NewTask, RequestHash};

const MAX_KEY_BYTES: usize = 255;

/// A caller's key, and the place in the batch whose key it is.
pub(super) type Key = (Arc<str>, Option<u32>);

/// The header `Idempotency-Key`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, ApiError> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    if given.next().is_some() || !is_key(text) {
        return Err(super::bad_header(
            "Idempotency-Key",
            format!("An Idempotency-Key is one header of 1 to {MAX_KEY_BYTES} visible ASCII characters."),
        ));
    }
    Ok(Some(text.into()))
}

pub(super) fn is_key(text: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A body whose form is right; whether its project exists is not yet known.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) spec: TaskSpec,
    /// Slug; None: the caller's own.
    pub(super) project: Option<String>,
    /// SHA-256 of the body in its one canonical form.
    pub(super) hash: RequestHash,
}

/// All faults of the body at once.
pub(super) fn check(body: &Value) -> Result<Checked, Box<Problem>> {
    let mut faults = Vec::new();
    let project = match body.get("project") {
        None | Some(Value::Null) => None,
        Some(Value::String(slug)) => Some(slug.clone()),
        Some(_) => {
            faults.push(Fault::new("#/project", "wrong_type", "A string is expected here."));
            None
        }
    };
    match parse_spec(body) {
        Ok(spec) if faults.is_empty() => Ok(Checked { spec, project, hash: Sha256::digest(canonical(body)).into() }),
        Ok(_) => Err(Box::new(Problem::invalid_task(faults))),
        Err(more) => {
            faults.extend(more);
            Err(Box::new(Problem::invalid_task(faults)))
        }
    }
}

/// The same bytes for the same value, however its keys were ordered.
fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let ordered: BTreeMap<&String, &Value> = map.iter().collect();
            let fields =
                ordered.into_iter().map(|(key, value)| format!("{}:{}", Value::String(key.clone()), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Finds projects by their slugs, each once.
pub(super) struct Projects<'a> {
    state: &'a AppState,
    principal: &'a Principal,
    known: BTreeMap<String, Option<ProjectId>>,
}

impl<'a> Projects<'a> {
    pub(super) fn new(state: &'a AppState, principal: &'a Principal) -> Self {
        Self { state, principal, known: BTreeMap::new() }
    }

    /// A project that the caller can't see does not exist.
    pub(super) async fn resolve(&mut self, slug: Option<&str>) -> Result<Result<ProjectId, Box<Problem>>, ApiError> {
        let Some(slug) = slug else { return Ok(Ok(self.principal.project.unwrap_or(DEFAULT_PROJECT))) };
        let found = match self.known.get(slug) {
            Some(found) => *found,
            None => {
                let found = self.state.store.project_by_slug(slug).await.map_err(failed)?;
                self.known.insert(slug.to_owned(), found);
                found
            }
        };
        let visible = found.filter(|found| self.principal.project.is_none_or(|own| own == *found));
        Ok(visible.ok_or_else(|| {
            let cut: String = slug.chars().take(80).collect();
            let detail = format!("There is no project {cut:?} among those you can see.");
            let fault = Fault::new("#/project", "no_such_project", detail.clone());
            Box::new(Problem::new("no-such-project", detail).errors(vec![fault]))
        }))
    }
}

impl Checked {
    pub(super) fn into_new(self, principal: &Principal, project: ProjectId, key: Option<Key>) -> NewTask {
        let idempotency = key.map(|(key, place)| IdempotencyKey { key, place, request_hash: self.hash });
        NewTask { project, created_by: principal.id, spec: self.spec, idempotency }
    }
}

/// The key stands for another request: says where the two differ.
pub(super) async fn key_reused(
    state: &AppState,
    principal: &Principal,
    first: TaskId,
    spec: &TaskSpec,
) -> Result<Box<Problem>, ApiError> {
    let then = state.store.get_task(principal.scope(), first).await.map_err(failed)?;
    let faults: Vec<Fault> = then
        .map(|then| differences(&then.spec, spec))
        .unwrap_or_default()
        .into_iter()
        .map(|pointer| Fault::new(pointer, "differs", "This was different when the key was used first."))
        .collect();
    let detail = format!("This Idempotency-Key stands for another request, which became task {first}.");
    let problem = Problem::new("idempotency-key-reused", detail).errors(faults);
    Ok(Box::new(problem.with("first_task", first.to_string())))
}

/// The key stands for this request, whose task is no more.
pub(super) fn deleted_since(task: TaskId) -> Box<Problem> {
    let detail = format!(
        "This Idempotency-Key was used before, for the same request: task {task}, which has ended and was deleted since. Nothing was \
         submitted now. To run it once more, send it with another key."
    );
    Box::new(Problem::new("no-such-task", detail).with("first_task", task.to_string()))
}

/// Top-level fields that differ, by the names that users give them.
fn differences(a: &TaskSpec, b: &TaskSpec) -> Vec<String> {
    let tree = |spec| serde_json::to_value(as_written(spec));
    let (Ok(Value::Object(a)), Ok(Value::Object(b))) = (tree(a), tree(b)) else { return Vec::new() };
    // What is as usual is in neither.
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| format!("#/{}", name.trim_end_matches("_ms").trim_end_matches("_bytes")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_order_of_keys_does_not_make_another_request() {
        let read = |text: &str| check(&serde_json::from_str(text).expect("JSON")).expect("a task").hash;
        let one = read(r#"{"command": ["ls"], "env": {"A": "1", "B": "2"}}"#);
        assert_eq!(one, read(r#"{"env": {"B": "2", "A": "1"}, "command": ["ls"]}"#));
        assert_ne!(one, read(r#"{"env": {"B": "2", "A": "2"}, "command": ["ls"]}"#));
    }

    #[test]
    fn a_difference_is_named_as_the_user_wrote_it() {
        let spec = |body: Value| check(&body).expect("a task").spec;
        let a = spec(json!({"command": ["ls"], "name": "a", "timeout": "1m"}));
        let b = spec(json!({"command": ["ls"], "name": "a", "timeout": "2m", "log_limit": "1MiB"}));
        assert_eq!(differences(&a, &b), ["#/log_limit", "#/timeout"]);
        let c = spec(json!({"command": ["ls"], "name": "a", "timeout": "1m", "env": {"A": "1"}}));
        assert_eq!((differences(&a, &c), differences(&c, &a)), (vec!["#/env".into()], vec!["#/env".into()]));
    }
}
