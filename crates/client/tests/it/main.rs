//! The client against servers that are cut, away, short of something, or no UniDesk at all.

mod script;

use api_types::log::LogQuery;
use client::{Client, ClientError, Followed, LogItem};
use domain::{ids::TaskId, lifecycle::Event, task::TaskState};
use futures::StreamExt;
use script::{Reply, Server};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const ID: &str = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";

fn id() -> TaskId {
    ID.parse().expect("a valid id")
}

fn task(state: &str) -> Value {
    json!({
        "id": ID, "name": "train", "state": state, "outcome": null, "exit_code": null, "signal": null, "message": "",
        "project": "default", "project_id": "00000000-0000-0000-0000-000000000001", "created_by": "ana",
        "created_at": "2026-11-22T13:00:00Z", "started_at": null, "ended_at": null, "duration_ms": null, "cpu_ms": null,
        "peak_memory_bytes": null, "node": null, "attempt": 0, "cancel_requested": false,
        "log": {"bytes": 0, "complete": false}, "image": null,
    })
}

fn problem(word: &str, detail: &str) -> Value {
    serde_json::to_value(api_types::Problem::new(word, detail)).expect("a problem is JSON")
}

fn quick(url: &str) -> Client {
    Client::new(url, "ud_key_x").expect("a good address").with_pauses([Duration::from_millis(10); 2])
}

fn event(seq: i64, name: &str) -> String {
    let data = json!({"seq": seq, "task": ID, "at": "2026-11-22T13:00:00Z", "task_state": "pending", "event": name});
    format!("id: {seq}\nevent: {name}\ndata: {data}\n\n")
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_is_repeated_with_the_same_key() {
    let server = Server::start(|_, n| if n == 0 { Reply::Cut } else { Reply::Json(201, task("pending")) }).await;
    let submitted = quick(&server.url).submit(&json!({"command": "ls"}), None).await.expect("the second try");
    assert_eq!(submitted.state, TaskState::Pending);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key").expect("a key")).collect();
    assert_eq!(keys[0], keys[1]);
    assert!(keys[0].len() == 36 && requests[0].body == requests[1].body);
    assert_eq!(requests[0].header("authorization"), Some("Bearer ud_key_x"));
    assert!(requests[0].is("POST", "/api/v1/tasks"));
}

#[tokio::test]
async fn two_submissions_have_keys_of_their_own_and_a_given_key_is_used() {
    let server = Server::start(|_, _| Reply::Json(201, task("pending"))).await;
    let client = quick(&server.url);
    for key in [None, None, Some("mine")] {
        client.submit(&json!({}), key).await.expect("an answer");
    }
    let requests = server.requests();
    assert_ne!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
    assert_eq!(requests[2].header("idempotency-key"), Some("mine"));
}

#[tokio::test]
async fn a_retry_of_a_task_that_may_have_arrived_is_not_sent_twice() {
    let server = Server::start(|_, _| Reply::Cut).await;
    let error = quick(&server.url).retry(id()).await.expect_err("no answer");
    assert!(matches!(error, ClientError::Unreachable { tries: 1, .. }), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_short_server_is_asked_again_after_the_time_it_named() {
    let server = Server::start(|_, n| {
        if n == 0 {
            Reply::Raw(503, vec![("retry-after", "1".into())], problem("unavailable", "Away.").to_string().into_bytes())
        } else {
            Reply::Json(200, task("running"))
        }
    })
    .await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let client =
        quick(&server.url).on_trouble(move |trouble| tell.lock().expect("unpoisoned").push(trouble.why.clone()));
    let began = Instant::now();
    client.task(id()).await.expect("the second try");
    assert!(began.elapsed() >= Duration::from_millis(950));
    assert_eq!(*told.lock().expect("unpoisoned"), ["Away."]);
}

#[tokio::test]
async fn a_server_that_asks_for_more_time_than_there_is_is_reported_at_once() {
    let server = Server::start(|_, _| {
        Reply::Raw(503, vec![("retry-after", "600".into())], problem("unavailable", "Away.").to_string().into_bytes())
    })
    .await;
    let error = quick(&server.url).task(id()).await.expect_err("away");
    assert!(error.is_problem("unavailable") && error.is_passing());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn nobody_there_is_said_in_plain_words_with_the_number_of_tries() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let error = quick(&url).nodes().await.expect_err("nobody there").to_string();
    let (start, _) = error.split_once("(3 tries in").expect(&error);
    assert_eq!(start, format!("can't reach {url}: connection refused "));
    let unknown = quick("http://nowhere.invalid").nodes().await.expect_err("no such host").to_string();
    assert!(
        unknown.contains("there is no host of that name") || unknown.contains("http://nowhere.invalid: "),
        "{unknown}"
    );
}

#[tokio::test]
async fn refusals_keep_their_faults_and_strangers_are_told_apart() {
    let server = Server::start(|request, _| match request.path.as_str() {
        // A fault that names a header, which no `Fault` has a place for.
        "/api/v1/nodes" => Reply::Json(
            401,
            json!({"type": format!("{}token-expired", api_types::problem::TYPE_BASE), "title": "The token has expired",
                   "status": 401, "detail": "The token expired 12 minutes ago.", "errors": [{"header": "Authorization"}]}),
        ),
        "/api/v1/auth/whoami" => Reply::Raw(404, vec![], b"<html>nginx</html>".to_vec()),
        "/api/v1/cluster/status" => Reply::Raw(301, vec![("location", "https://elsewhere/".into())], vec![]),
        _ => Reply::Raw(200, vec![], b"hello".to_vec()),
    })
    .await;
    let client = quick(&server.url);
    let expired = client.nodes().await.expect_err("refused");
    assert!(expired.is_problem("token-expired") && expired.to_string() == "The token expired 12 minutes ago.");
    for error in [
        client.who_am_i().await.expect_err("a stranger"),
        client.cluster_status().await.expect_err("a redirect"),
        client.node_tokens().await.expect_err("no JSON"),
    ] {
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    }
    assert!(matches!(Client::new("localhost:7700", ""), Err(ClientError::Protocol { .. })));
}

#[tokio::test]
async fn events_go_on_after_the_last_one_seen_and_every_cut_is_told() {
    let server = Server::start(|_, n| match n {
        0 => Reply::Events(format!("{}{}", event(1, "submitted"), event(2, "cancel_requested"))),
        1 => Reply::Cut,
        2 => Reply::Json(503, problem("unavailable", "Away.")),
        _ => Reply::Events(format!("{}event: end\ndata: {{}}\n\n", event(3, "retry_asked"))),
    })
    .await;
    let items: Vec<_> = quick(&server.url).follow_events(id()).map(|item| item.expect("no error")).collect().await;
    let told: Vec<String> = items
        .iter()
        .map(|item| match item {
            Followed::Event(event) => format!("{} {:?}", event.seq, event.event),
            Followed::Disconnected { why, .. } => format!("cut: {why}"),
            Followed::Resumed { .. } => "back".into(),
        })
        .collect();
    assert_eq!(told, ["1 Submitted", "2 CancelRequested", "cut: connection closed", "back", "3 RetryAsked"]);
    let ids: Vec<_> = server.requests().iter().map(|r| r.header("last-event-id").map(str::to_owned)).collect();
    assert_eq!(ids, [None, Some("2".into()), Some("2".into()), Some("2".into())]);
}

#[tokio::test]
async fn an_event_of_a_newer_server_is_passed_over() {
    let server = Server::start(|_, _| {
        Reply::Events(format!("{}{}event: end\ndata: {{}}\n\n", event(1, "defenestrated"), event(2, "submitted")))
    })
    .await;
    let items: Vec<_> = quick(&server.url).follow_events(id()).collect().await;
    assert_eq!(items.len(), 1);
    assert!(matches!(&items[0], Ok(Followed::Event(event)) if event.event == Event::Submitted));
}

#[tokio::test]
async fn a_silent_stream_is_opened_anew() {
    let server = Server::start(|_, n| {
        if n == 0 { Reply::Held(event(1, "submitted")) } else { Reply::Events("event: end\ndata: {}\n\n".into()) }
    })
    .await;
    let client = quick(&server.url).with_idle_timeout(Duration::from_millis(50));
    let items: Vec<_> = client.follow_events(id()).map(|item| item.expect("no error")).collect().await;
    assert!(matches!(&items[1], Followed::Disconnected { why, .. } if why == "the server has gone silent"));
    assert!(matches!(items[2], Followed::Resumed { .. }) && items.len() == 3);
}

#[tokio::test]
async fn following_ends_with_what_trying_again_cannot_mend() {
    let server = Server::start(|_, _| Reply::Json(404, problem("no-such-task", "No such task."))).await;
    let items: Vec<_> = quick(&server.url).follow_events(id()).collect().await;
    assert_eq!(items.len(), 1);
    assert!(items[0].as_ref().expect_err("refused").is_problem("no-such-task"));
    assert!(quick(&server.url).wait(id()).await.expect_err("refused").is_problem("no-such-task"));
}

#[tokio::test]
async fn a_log_is_followed_byte_for_byte_with_attempts_and_gaps() {
    let piece = |n: u32, data: &str, gap: Option<u64>| {
        let data = json!({"attempt": ID, "number": n, "stream": "stdout", "offset": 0, "ordinal": n, "data": data, "gap": gap});
        format!("id: c{n}\nevent: log\ndata: {data}\n\n")
    };
    let server = Server::start(move |_, n| match n {
        0 => Reply::Events(piece(1, "AP8K", None)),
        // An event without an id of its own, and a cut: the place before it still counts.
        1 => Reply::Events("event: attempt\ndata: {\"number\":2}\n\n".into()),
        _ => Reply::Events(format!(
            "{}event: end\ndata: {}\n\n",
            piece(2, "", Some(65536)),
            json!({"number": 2, "state": "succeeded", "bytes": 3, "complete": false})
        )),
    })
    .await;
    let query = LogQuery { stream: Some("stdout,stderr".into()), ..LogQuery::default() };
    let items: Vec<_> = quick(&server.url)
        .follow_log(id(), &query)
        .filter_map(async |item| match item.expect("no error") {
            Followed::Event(item) => Some(item),
            _ => None,
        })
        .collect()
        .await;
    assert!(matches!(&items[0], LogItem::Piece(piece) if piece.bytes[..] == [0, 255, 10]));
    assert_eq!(items[1], LogItem::Attempt(2));
    assert!(matches!(&items[2], LogItem::Piece(piece) if piece.gap == Some(65536) && piece.bytes.is_empty()));
    assert!(matches!(&items[3], LogItem::End(end) if end.state == "succeeded") && items.len() == 4);
    let requests = server.requests();
    assert_eq!(requests[0].path, format!("/api/v1/tasks/{ID}/logs?follow=true&stream=stdout,stderr"));
    assert_eq!(requests[1].header("last-event-id"), Some("c1"));
    assert_eq!(requests[2].header("last-event-id"), Some("c1"));
}

#[tokio::test]
async fn a_log_that_is_cut_is_an_error_and_not_a_short_log() {
    let server =
        Server::start(|_, _| Reply::Raw(200, vec![("content-length", "100".into())], b"only this".to_vec())).await;
    let mut bytes = quick(&server.url).log_bytes(id(), &LogQuery::default()).await.expect("an answer");
    let mut last = None;
    while let Some(chunk) = bytes.next().await {
        last = Some(chunk);
    }
    assert!(matches!(last, Some(Err(ClientError::Unreachable { .. }))));
}

#[tokio::test]
async fn waiting_outlives_a_cut_and_gives_the_ended_task() {
    let server = Server::start(|request, n| match (request.is("GET", &format!("/api/v1/tasks/{ID}/events")), n) {
        (true, 0) => Reply::Events(event(1, "submitted")),
        (true, _) => Reply::Events("event: end\ndata: {}\n\n".into()),
        (false, _) => Reply::Json(200, task("succeeded")),
    })
    .await;
    let ended = quick(&server.url).wait(id()).await.expect("an end");
    assert_eq!(ended.state, TaskState::Succeeded);
}
