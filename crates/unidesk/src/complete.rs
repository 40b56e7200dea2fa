//! Live words for the shell's completion: within 300 ms or not at all, and never a word on stderr.

use crate::{connection::Inputs, paths::Places};
use api_types::task::TaskQuery;
use clap_complete::CompletionCandidate;
use client::Client;
use std::{ffi::OsStr, time::Duration};

const BUDGET: Duration = Duration::from_millis(300);

/// Ids of the newest tasks, with name and state beside them.
pub fn tasks(typed: &OsStr) -> Vec<CompletionCandidate> {
    task_ids(typed, None)
}

/// The same, of tasks that can still be cancelled.
pub fn live_tasks(typed: &OsStr) -> Vec<CompletionCandidate> {
    task_ids(typed, Some("pending,assigned,preparing,running,finishing"))
}

fn task_ids(typed: &OsStr, state: Option<&str>) -> Vec<CompletionCandidate> {
    let query = TaskQuery { state: state.map(str::to_owned), limit: Some(50), ..TaskQuery::default() };
    let page = ask(async |client| client.tasks(&query).await.ok());
    let found = page.map(|page| page.tasks).unwrap_or_default();
    let words = found.into_iter().map(|task| (task.id.short(), format!("{} {}", task.name, task.state)));
    candidates(typed, words.chain([("last".to_owned(), "the newest that you submitted".to_owned())]))
}

pub fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    let nodes = ask(async |client| client.nodes().await.ok()).unwrap_or_default();
    candidates(typed, nodes.into_iter().map(|node| (node.name, node.presence.to_string())))
}

/// Newest artifacts, with their versions.
pub fn artifacts(typed: &OsStr) -> Vec<CompletionCandidate> {
    let query = client::ArtifactQuery { state: Some("ready".into()), limit: Some(50), ..Default::default() };
    let page = ask(async |client| client.artifacts(&query).await.ok());
    let found = page.map(|page| page.artifacts).unwrap_or_default();
    let size = |bytes: Option<u64>| bytes.map_or_else(String::new, domain::quantity::show_bytes);
    candidates(typed, found.into_iter().map(|artifact| (crate::render::artifact::name(&artifact), size(artifact.size))))
}

fn candidates(typed: &OsStr, words: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    words
        // A shell would take a blank or a control character of a name for something else.
        .filter(|(word, _)| word.starts_with(&typed) && word.chars().all(|c| c.is_ascii_graphic()))
        .map(|(word, help)| CompletionCandidate::new(word).help(Some(crate::text::clean(&help).into())))
        .collect()
}

fn ask<T>(question: impl AsyncFnOnce(Client) -> Option<T>) -> Option<T> {
    let connection = Inputs::gather(None, &Places::from_env()).ok()?.choose().ok()?;
    let client = connection.client().ok()?.with_pauses([]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(BUDGET, question(client)).await.ok()? });
    // A name that is still being looked up must not hold the shell.
    runtime.shutdown_background();
    answer
}
