//! A task's history as it is followed.

use crate::world::{Message, World, exited, facts, ls, messages, problem};
use domain::attempt::Report;
use reqwest::{Method, Response};
use serde_json::json;

fn is_over(seen: &[Message]) -> bool {
    seen.last().is_some_and(|message| message.event == "end")
}
fn words(seen: &[Message]) -> Vec<&str> {
    seen.iter().map(|message| message.event.as_str()).collect()
}
async fn open(world: &World, path: &str, last: Option<&str>) -> Response {
    let request = world.request(Method::GET, path, &world.member).header("accept", "text/event-stream");
    let request = match last {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn a_reader_sees_everything_from_the_start_as_it_happens_and_then_the_end() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let path = format!("/tasks/{task}/events");
    let mut stream = open(&world, &path, None).await;
    assert_eq!(words(&messages(&mut stream, |seen| !seen.is_empty()).await), ["submitted"]);
    let held = world.place(task, &node).await;
    assert_eq!(words(&messages(&mut stream, |seen| !seen.is_empty()).await), ["placed"]);
    for report in [Report::Accepted, Report::Preparing, Report::Started] {
        world.report(&node, held, report).await;
    }
    world.end(&node, held, exited(0), "", 0).await;
    let rest = messages(&mut stream, is_over).await;
    assert_eq!(words(&rest), ["accepted", "preparing", "started", "exited", "ended", "finished", "end"]);
    assert_eq!(rest.last().map(|message| &message.data), Some(&json!({"state": "succeeded"})));
    // After its end the connection closes well.
    assert_eq!(stream.chunk().await.expect("no error"), None);

    let all = messages(&mut open(&world, &path, None).await, is_over).await;
    let expected = ["submitted", "placed", "accepted", "preparing", "started", "exited", "ended", "finished", "end"];
    assert_eq!(words(&all), expected);
    let started = &all[4].data;
    assert_eq!((&started["task"], &started["task_state"]), (&json!(task), &json!("running")));
    world.stop().await;
}

#[tokio::test]
async fn a_reader_goes_on_exactly_where_it_was_cut_even_inside_one_moment() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    world.end(&node, held, exited(0), "", 0).await;
    let path = format!("/tasks/{task}/events");
    let all = messages(&mut open(&world, &path, None).await, is_over).await;
    let (end, events) = all.split_last().expect("an end");
    for (n, message) in events.iter().enumerate() {
        let rest = messages(&mut open(&world, &path, Some(&message.id)).await, is_over).await;
        assert_eq!(rest, all[n + 1..], "after {}", message.id);
    }
    assert_eq!(end.event, "end");
    for wrong in ["x", "-1", "1.2.3"] {
        assert_eq!(problem(open(&world, &path, Some(wrong)).await).await["status"], 422);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_change_by_another_process_is_seen_without_a_wake_up() {
    let world = World::start().await;
    let task = world.submit(&ls()).await;
    let mut stream = open(&world, &format!("/tasks/{task}/events"), None).await;
    messages(&mut stream, |seen| !seen.is_empty()).await;
    let other = world.other_process().await;
    other.cancel_task(domain::principal::Scope::All, task, &crate::world::origin()).await.expect("cancelled");
    assert_eq!(words(&messages(&mut stream, is_over).await), ["cancel_requested", "finished", "end"]);
    world.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_server_and_does_not_look_finished() {
    let world = World::start().await;
    let task = world.submit(&ls()).await;
    let mut stream = open(&world, &format!("/tasks/{task}/events"), None).await;
    messages(&mut stream, |seen| !seen.is_empty()).await;
    world.stop().await;
    assert!(stream.chunk().await.is_err(), "a cut is an error, so that the reader comes back");
}
