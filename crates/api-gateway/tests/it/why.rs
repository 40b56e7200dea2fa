//! Why, through the whole server. The sentences themselves are tested beside the function that makes them.

use crate::world::{World, facts, json_of};
use domain::{
    attempt::Report,
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[tokio::test]
async fn a_waiting_task_counts_every_node_once() {
    let world = World::start().await;
    let busy = world.node("lab-3", facts(1, 8, &[24])).await;
    world.node("server", facts(8, 30, &[])).await;
    let blocker = world.submit(&json!({"command": ["ls"]})).await;
    world.place(blocker, &busy).await;
    let task = world.submit(&json!({"name": "sweep-17", "command": ["ls"], "requirements": {"gpus": 1}})).await;
    let response =
        world.request(Method::GET, &format!("/tasks/{task}/why"), &world.viewer).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let why = json_of(response).await;
    assert!(why["summary"].as_str().expect("text").ends_with("s: 1 node fits, and it is full."), "{why}");
    assert_eq!((&why["waiting"]["nodes"], &why["waiting"]["never_fits"]), (&json!(2), &json!(false)));
    assert_eq!(
        why["waiting"]["verdicts"],
        json!([
            {"count": 1, "reason": "full now", "would_fit": true, "examples": ["lab-3"]},
            {"count": 1, "reason": "no gpu", "would_fit": false, "examples": ["server"]},
        ])
    );
    world.stop().await;
}

#[tokio::test]
async fn an_ended_task_has_its_cause_and_the_last_lines() {
    let world = World::start().await;
    let node = world.node("lab-5", facts(4, 64, &[])).await;
    let task = world.submit(&json!({"name": "eval", "command": ["ls"], "requirements": {"memory": "16GiB"}})).await;
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 1, 0, b"step 1\n\x1b[31mloading\n").await;
    let exit = ExitFacts { code: Some(137), signal: Some(9), oom: true, duration_ms: 100_412, ..ExitFacts::default() };
    let message = "killed at its own limit, 16 GiB".to_owned();
    let log = LogTotals { bytes: 20, complete: true };
    let ending =
        Ending { failure: Some(FailureKind::OutOfMemory), message, exit: Some(exit.clone()), planned_stop: false, log };
    world.report(&node, held, Report::Exited { exit }).await;
    world.report(&node, held, Report::Ended { ending }).await;
    let why = json_of(world.get(&format!("/tasks/{task}/why")).await).await;
    assert_eq!(
        why["summary"],
        "eval failed: out_of_memory, attempt 1, on lab-5 after 1m 40s: killed at its own limit, 16 GiB (not retried: its own failure, and max_retries is 0)."
    );
    assert_eq!(why["hints"], json!(["memory 24GiB fits 1 node"]));
    assert_eq!(why["ended"]["last_lines"], json!(["step 1", "\\u{1b}[31mloading"]));
    let evidence: Vec<&str> =
        why["ended"]["evidence"].as_array().expect("a list").iter().filter_map(|e| e["what"].as_str()).collect();
    assert_eq!(
        evidence,
        [
            "submitted",
            "placed on lab-5",
            "its process started",
            "killed at its memory limit of 16 GiB, exit 137, signal 9",
            "failed: out_of_memory, killed at its own limit, 16 GiB; the log is complete (20 bytes)",
        ]
    );
    world.stop().await;
}
