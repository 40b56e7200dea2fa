//! Logs: byte for byte, followed, cut and gone on with.

use crate::world::{Message, World, exited, facts, lost, ls, messages, problem};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use domain::{attempt::Report, ids::TaskId, outcome::FailureKind};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;
use std::time::Duration;
use store::LogPiece;

pub(crate) fn is_over(seen: &[Message]) -> bool {
    seen.last().is_some_and(|message| message.event == "end")
}
pub(crate) fn text_of(seen: &[Message]) -> String {
    let pieces = seen.iter().filter(|message| message.event == "log");
    let bytes: Vec<u8> = pieces
        .flat_map(|message| BASE64_STANDARD.decode(message.data["data"].as_str().expect("text")).expect("base64"))
        .collect();
    String::from_utf8(bytes).expect("text")
}
pub(crate) async fn events(world: &World, task: TaskId, query: &str, last: Option<&str>) -> Response {
    let request = world
        .request(Method::GET, &format!("/tasks/{task}/logs?{query}"), &world.member)
        .header("accept", "text/event-stream");
    let request = match last {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    request.send().await.expect("an answer")
}
pub(crate) async fn bytes(world: &World, task: TaskId, query: &str) -> Bytes {
    let response = world.get(&format!("/tasks/{task}/logs?{query}")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    response.bytes().await.expect("whole")
}

#[tokio::test]
async fn the_bytes_are_those_that_were_written_in_the_order_of_writing() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    assert_eq!(bytes(&world, task, "").await, "", "no attempt, no bytes");
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 3, 0, b"step 1/3\n").await;
    world.append(&node, held, 1, 0, b"out \xff\x00 1\n").await;
    world.append(&node, held, 2, 0, b"err 1\n").await;
    world.append(&node, held, 1, 9, b"out 2\n").await;
    assert_eq!(bytes(&world, task, "").await, &b"out \xff\x00 1\nerr 1\nout 2\n"[..]);
    assert_eq!(bytes(&world, task, "stream=stdout").await, &b"out \xff\x00 1\nout 2\n"[..]);
    assert_eq!(bytes(&world, task, "stream=build&attempt=1").await, "step 1/3\n");
    assert_eq!(bytes(&world, task, "stream=stdout&offset=4").await, &b"\xff\x00 1\nout 2\n"[..]);
    assert_eq!(bytes(&world, task, "stream=stdout&offset=11").await, "t 2\n");
    assert_eq!(bytes(&world, task, "stream=stdout&offset=99").await, "");
    for query in ["offset=4", "stream=stdin", "attempt=2", "attempt=-1", "stream=stdout&offset=x", "tail=5"] {
        assert_eq!(problem(world.get(&format!("/tasks/{task}/logs?{query}")).await).await["status"], 422, "{query}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_large_log_of_tiny_pieces_comes_whole() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    let mut whole = Vec::new();
    let pieces: Vec<LogPiece> = (0..5_000u32)
        .map(|n| {
            let data = format!("line {n}\n").into_bytes();
            let start = whole.len() as u64;
            whole.extend_from_slice(&data);
            LogPiece { held, stream: 1, start, data: data.into(), gap: None }
        })
        .collect();
    world.store.append_logs(node.session, &pieces).await.expect("stored");
    let big = vec![b'x'; 60_000];
    for _ in 0..40 {
        world.append(&node, held, 1, whole.len() as u64, &big).await;
        whole.extend_from_slice(&big);
    }
    assert!(bytes(&world, task, "").await == whole, "every byte, in its order");
    world.stop().await;
}

#[tokio::test]
async fn a_follower_waits_for_the_first_attempt_and_sees_all_attempts() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&json!({"name": "t", "command": ["ls"], "retry": {"max_infra_retries": 3}})).await;
    let mut stream = events(&world, task, "follow=true", None).await;
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 1, 0, b"first ").await;
    let seen = messages(&mut stream, |seen| !seen.is_empty()).await;
    assert_eq!((text_of(&seen).as_str(), seen[0].id.as_str()), ("first ", "1.0"));
    assert_eq!(
        (&seen[0].data["stream"], &seen[0].data["number"], &seen[0].data["offset"]),
        (&json!("stdout"), &json!(1), &json!(0))
    );
    world.append(&node, held, 1, 6, b"words").await;
    world.report(&node, held, lost(FailureKind::NodeError)).await;
    world.report(&node, held, Report::Released).await;
    world.database.execute("UPDATE task_state SET not_before = NULL").await;
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 1, 0, b"second").await;
    world.end(&node, held, exited(0), "", 6).await;
    let rest = messages(&mut stream, is_over).await;
    let shape: Vec<(&str, &str)> = rest.iter().map(|message| (message.event.as_str(), message.id.as_str())).collect();
    assert_eq!(shape, [("log", "1.1"), ("attempt", "2.start"), ("log", "2.0"), ("end", "")]);
    assert_eq!(text_of(&rest), "wordssecond");
    assert_eq!(rest[3].data, json!({"number": 2, "state": "succeeded", "bytes": 6, "complete": true}));

    // One attempt, asked for by its number, ends with it.
    let first = messages(&mut events(&world, task, "follow=true&attempt=1", None).await, is_over).await;
    assert_eq!(
        (text_of(&first).as_str(), &first.last().expect("an end").data["state"]),
        ("first words", &json!("failed"))
    );
    // The last one by default.
    assert_eq!(text_of(&messages(&mut events(&world, task, "", None).await, is_over).await), "second");
    // Cut anywhere, the rest is the rest.
    let all = [seen, rest].concat();
    for (n, message) in all.iter().enumerate().filter(|(_, message)| !message.id.is_empty()) {
        let rest = messages(&mut events(&world, task, "follow=true", Some(&message.id)).await, is_over).await;
        assert_eq!(rest, all[n + 1..], "after {}", message.id);
    }
    assert_eq!(problem(events(&world, task, "follow=true", Some("x")).await).await["status"], 422);
    world.stop().await;
}

#[tokio::test]
async fn raw_bytes_are_followed_until_the_end() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    let mut stream = world.get(&format!("/tasks/{task}/logs?follow=true")).await;
    for (n, line) in ["one\n", "two\n", "three\n"].iter().enumerate() {
        world.append(&node, held, 1, n as u64 * 4, line.as_bytes()).await;
        let chunk =
            tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.expect("in time").expect("no error");
        assert_eq!(chunk.as_deref(), Some(line.as_bytes()));
    }
    world.end(&node, held, exited(0), "", 14).await;
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.expect("in time").expect("no error"),
        None
    );
    world.stop().await;
}

#[tokio::test]
async fn a_log_written_through_another_process_is_followed_too() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    let mut stream = events(&world, task, "follow=true", None).await;
    let other = world.other_process().await;
    let piece = LogPiece { held, stream: 2, start: 0, data: Bytes::from_static(b"far"), gap: None };
    other.append_logs(node.session, &[piece]).await.expect("stored");
    assert_eq!(text_of(&messages(&mut stream, |seen| !seen.is_empty()).await), "far");
    world.stop().await;
}

#[tokio::test]
async fn a_gap_is_shown_and_the_log_is_not_called_complete() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 1, 0, b"before").await;
    let gap = LogPiece { held, stream: 1, start: 6, data: Bytes::new(), gap: Some(65_536) };
    world.store.append_logs(node.session, &[gap]).await.expect("stored");
    world.append(&node, held, 1, 65_542, b"after").await;
    let mut ending = domain::outcome::Ending::failed(FailureKind::ExitNonzero, "exit 1");
    ending.log = domain::outcome::LogTotals { bytes: 65_547, complete: false };
    world.report(&node, held, Report::Ended { ending }).await;
    let seen = messages(&mut events(&world, task, "follow=true", None).await, is_over).await;
    assert_eq!(
        (&seen[1].data["gap"], &seen[1].data["offset"], &seen[1].data["data"]),
        (&json!(65_536), &json!(6), &json!(""))
    );
    assert_eq!(seen[3].data, json!({"number": 1, "state": "failed", "bytes": 65_547, "complete": false}));
    // From inside the gap, what is left of it is told.
    let seen = messages(&mut events(&world, task, "stream=stdout&offset=1000", None).await, is_over).await;
    assert_eq!((&seen[0].data["gap"], &seen[0].data["offset"]), (&json!(64_542), &json!(1_000)));
    assert_eq!(bytes(&world, task, "").await, "beforeafter");
    world.stop().await;
}

#[tokio::test]
async fn a_task_that_ends_without_an_attempt_has_an_empty_log() {
    let world = World::start().await;
    let task = world.submit(&ls()).await;
    let mut stream = events(&world, task, "follow=true", None).await;
    world.post(&format!("/tasks/{task}/cancel"), &json!({})).await;
    let seen = messages(&mut stream, is_over).await;
    assert_eq!(
        seen.last().expect("an end").data,
        json!({"number": 0, "state": "cancelled", "bytes": 0, "complete": true})
    );
    world.stop().await;
}

/// The log as a viewer gets it that reads a byte a second for 15 s, from a small buffer, and then all that is there for it.
async fn read_slowly(world: &World, task: TaskId) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = world.url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/api/v1")).expect("a URL");
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut line = socket.connect(address.parse().expect("an address")).await.expect("connected");
    let request = format!(
        "GET /api/v1/tasks/{task}/logs?follow=true HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: Bearer {}\r\n\r\n",
        world.member
    );
    line.write_all(request.as_bytes()).await.expect("sent");
    let mut read = vec![0; 15];
    for byte in &mut read {
        line.read_exact(std::slice::from_mut(byte)).await.expect("it is served");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut buffer = vec![0; 64 * 1024];
    // An end or a reset: either way the connection is over.
    while let Ok(count @ 1..) = line.read(&mut buffer).await {
        read.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(read).expect("text");
    let (_, mut body) = text.split_once("\r\n\r\n").expect("a head");
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        let (chunk, rest) = rest.split_at(size.min(rest.len()));
        whole += chunk;
        body = rest.strip_prefix("\r\n").unwrap_or_default();
    }
    whole
}

#[tokio::test]
async fn a_viewer_that_hardly_reads_is_cut_off_and_goes_on_from_its_place_and_nobody_else_notices() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    // More than the buffers between the two can take.
    let mut whole = String::new();
    for n in 0..300u32 {
        let data = format!("{n:0>60000}");
        world.append(&node, held, 1, whole.len() as u64, data.as_bytes()).await;
        whole += &data;
    }
    world.end(&node, held, exited(0), "", whole.len() as u64).await;
    let other = async {
        let began = std::time::Instant::now();
        assert_eq!(text_of(&messages(&mut events(&world, task, "follow=true", None).await, is_over).await), whole);
        began.elapsed()
    };
    let (slow, others) = tokio::join!(read_slowly(&world, task), other);
    assert!(others < Duration::from_secs(10), "the other one waited {others:?}");
    // What was on its way arrived; then it was cut off in the middle, and not at an end.
    assert!(slow.len() < whole.len() && !slow.contains("event: end"), "{} bytes were sent on", slow.len());
    let (complete, _) = slow.rsplit_once("\n\n").expect("whole messages");
    let seen: Vec<Message> = complete.split("\n\n").filter_map(crate::world::parse).collect();
    let last = seen.last().expect("a message").id.clone();
    let rest = messages(&mut events(&world, task, "follow=true", Some(&last)).await, is_over).await;
    assert_eq!(text_of(&seen) + &text_of(&rest), whole);
    world.stop().await;
}

#[tokio::test]
async fn what_the_platform_says_makes_up_for_no_byte_of_the_tasks_own() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    world.append(&node, held, 1, 0, b"01234").await;
    world.append(&node, held, 4, 0, b"image is here\n").await;
    // The node wrote ten bytes, and five of them are not here.
    world.end(&node, held, exited(0), "", 10).await;
    let end = messages(&mut events(&world, task, "", None).await, is_over).await;
    assert_eq!(end.last().expect("an end").data["complete"], json!(false));
    world.append(&node, held, 2, 0, b"56789").await;
    let end = messages(&mut events(&world, task, "", None).await, is_over).await;
    assert_eq!(end.last().expect("an end").data["complete"], json!(true));
    world.stop().await;
}
