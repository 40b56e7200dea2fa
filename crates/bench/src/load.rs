//! The load generator: submits no-op tasks over HTTP, and reads back what became of them.

use crate::nodes::node::EXECUTOR;
use anyhow::Context as _;
use api_types::task::{BatchAnswer, BatchItem, Task, TaskQuery};
use bytes::Bytes;
use client::Client;
use domain::{ids::TaskId, task::TaskState};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How tasks are submitted.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub tasks: usize,
    /// Tasks of one request. 0: one request a task, not by the batch route.
    pub batch: usize,
    pub clients: usize,
    /// An idempotency key with every request, as the product's own client sends.
    pub keys: bool,
    /// A request that was cut off is sent again with its key, as the product's own client does, instead of ending the run.
    pub goes_on: bool,
}

#[derive(Debug)]
pub struct Submitted {
    /// In no order across clients.
    pub ids: Vec<TaskId>,
    pub began: Instant,
    pub took: Duration,
    /// Of bodies, both ways.
    pub http_bytes: u64,
    pub requests: u64,
    /// Asked to come back later.
    pub pushed_back: u64,
    /// Cut off, or answered by a server that could not.
    pub sent_again: u64,
}

/// Between two tries of a request that was cut off.
const PAUSE: Duration = Duration::from_millis(100);

impl Submitted {
    fn none(began: Instant) -> Self {
        let ids = Vec::new();
        Self { ids, began, took: Duration::ZERO, http_bytes: 0, requests: 0, pushed_back: 0, sent_again: 0 }
    }
}

/// The body of a no-op task. All of a run have one name, by which they are listed.
pub fn task(run: &str, payload: &Value) -> Value {
    json!({"name": run, "executor": EXECUTOR, "payload": payload})
}

#[derive(Deserialize)]
struct OnlyId {
    id: TaskId,
}

/// Submits all tasks from so many clients at once. Errors: a task was refused.
pub async fn submit(server: SocketAddr, token: &str, body: &Value, shape: Shape) -> anyhow::Result<Submitted> {
    let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().context("an HTTP client")?;
    let is_batch = shape.batch > 0;
    let url = format!("http://{server}/api/v1/tasks{}", if is_batch { ":batch" } else { "" });
    let next = Arc::new(AtomicUsize::new(0));
    let per_request = shape.batch.max(1);
    anyhow::ensure!(shape.keys || !shape.goes_on, "a request without a key can't be sent again");
    let whole =
        Bytes::from(if is_batch { json!({"tasks": vec![body; per_request]}).to_string() } else { body.to_string() });
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..shape.clients {
        let (http, url, token, body, whole, next) =
            (http.clone(), url.clone(), token.to_owned(), body.clone(), whole.clone(), next.clone());
        clients.spawn(async move {
            let mut mine = Submitted::none(began);
            loop {
                let first = next.fetch_add(per_request, Ordering::Relaxed);
                if first >= shape.tasks {
                    return anyhow::Ok(mine);
                }
                let count = per_request.min(shape.tasks - first);
                let bytes = if count == per_request {
                    whole.clone()
                } else {
                    json!({"tasks": vec![&body; count]}).to_string().into()
                };
                let key = shape.keys.then(|| uuid::Uuid::new_v4().to_string());
                loop {
                    let mut request = http.post(&url).bearer_auth(&token).header("content-type", "application/json");
                    if let Some(key) = &key {
                        request = request.header("idempotency-key", key);
                    }
                    mine.requests += 1;
                    let (status, asked, answer) = match answered(request.body(bytes.clone())).await {
                        Ok(answered) => answered,
                        Err(_) if shape.goes_on => {
                            mine.sent_again += 1;
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                        Err(error) => return Err(error).context("submitting"),
                    };
                    mine.http_bytes += (bytes.len() + answer.len()) as u64;
                    if matches!(status.as_u16(), 429 | 503) {
                        mine.pushed_back += 1;
                        tokio::time::sleep(Duration::from_secs(asked.unwrap_or(1))).await;
                        continue;
                    }
                    anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
                    mine.ids.extend(accepted(&answer, is_batch)?);
                    break;
                }
            }
        });
    }
    let mut all = Submitted::none(began);
    while let Some(client) = clients.join_next().await {
        let client = client.context("a client of the load")??;
        all.ids.extend(client.ids);
        all.http_bytes += client.http_bytes;
        all.requests += client.requests;
        all.pushed_back += client.pushed_back;
        all.sent_again += client.sent_again;
    }
    all.took = began.elapsed();
    anyhow::ensure!(all.ids.len() == shape.tasks, "{} of {} tasks were accepted", all.ids.len(), shape.tasks);
    all.ids.sort();
    Ok(all)
}

/// Status, seconds after which to come back, body.
async fn answered(request: reqwest::RequestBuilder) -> reqwest::Result<(StatusCode, Option<u64>, Bytes)> {
    let response = request.send().await?;
    let asked = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
    Ok((response.status(), asked, response.bytes().await?))
}

fn accepted(answer: &[u8], is_batch: bool) -> anyhow::Result<Vec<TaskId>> {
    if !is_batch {
        return Ok(vec![serde_json::from_slice::<OnlyId>(answer).context("the answer to a submission")?.id]);
    }
    let answer: BatchAnswer = serde_json::from_slice(answer).context("the answer to a batch")?;
    answer
        .items
        .into_iter()
        .map(|item| match item {
            BatchItem::Accepted { id, .. } => Ok(id),
            BatchItem::Refused { index, problem } => anyhow::bail!("task {index} was refused: {problem:?}"),
        })
        .collect()
}

/// Waits until the newest of the tasks are read as ended through the API.
pub async fn until_readable(client: &Client, ids: &[TaskId], within: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    for id in ids.iter().rev().take(4) {
        while !client.task(*id).await?.state.is_terminal() {
            anyhow::ensure!(began.elapsed() < within, "task {id} has not ended after {within:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// Some of them, from the first to the last, with their attempts.
pub async fn sample(client: &Client, ids: &[TaskId]) -> anyhow::Result<Vec<Task>> {
    let mut read = Vec::new();
    for id in ids.iter().step_by((ids.len() / 32).max(1)) {
        read.push(client.task(*id).await?);
    }
    Ok(read)
}

/// Reads every result of the run, page by page. Errors: one is missing, twice there, or no success.
pub async fn read_back(client: &Client, run: &str, ids: &[TaskId]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut missing: std::collections::BTreeSet<TaskId> = ids.iter().copied().collect();
    let mut cursor = None;
    loop {
        let query = TaskQuery {
            name: Some(run.to_owned()),
            limit: Some(api_types::page::MAX_LIMIT),
            cursor,
            ..TaskQuery::default()
        };
        let page = client.tasks(&query).await?;
        for task in &page.tasks {
            anyhow::ensure!(missing.remove(&task.id), "task {} was listed twice, or is none of this run", task.id);
            let is_whole = task.state == TaskState::Succeeded && task.exit_code == Some(0);
            anyhow::ensure!(is_whole, "task {} is {} with exit code {:?}", task.id, task.state, task.exit_code);
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    anyhow::ensure!(missing.is_empty(), "{} of {} results can't be read", missing.len(), ids.len());
    Ok(began.elapsed())
}

/// Each state was recorded with its time, in order. Errors: the first task of which that is not true.
pub fn check_history(tasks: &[Task]) -> anyhow::Result<()> {
    for task in tasks {
        let attempt =
            task.attempts.as_deref().and_then(<[_]>::last).with_context(|| format!("{} has no attempt", task.id))?;
        let times =
            [attempt.accepted_at, attempt.preparing_at, attempt.started_at, attempt.exited_at, attempt.ended_at];
        let mut last = task.created_at.min(attempt.placed_at);
        for time in times {
            let time = time.with_context(|| format!("{} has a state without a time: {attempt:?}", task.id))?;
            anyhow::ensure!(time >= last, "{} has states out of order: {attempt:?}", task.id);
            last = time;
        }
    }
    Ok(())
}
