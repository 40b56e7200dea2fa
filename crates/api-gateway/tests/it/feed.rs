//! The events of all tasks as they are followed, over cuts and restarts.

use crate::world::{Message, World, exited, facts, ls, make_key, messages, problem, word};
use domain::principal::{Role, Scope};
use reqwest::{Method, Response};
use serde_json::json;
use service_kit::Service;
use std::time::Duration;

async fn open(world: &World, url: &str, key: &str, last: Option<&str>) -> Response {
    let request = world.http.get(format!("{url}/events")).bearer_auth(key);
    let request = match last {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    request.send().await.expect("an answer")
}

/// Task and number of each event, without the greeting and the end.
fn told(seen: &[Message]) -> Vec<(String, i64, String)> {
    let events = seen.iter().filter(|message| !matches!(message.event.as_str(), "here" | "end"));
    events
        .map(|message| {
            let text = |name: &str| message.data[name].as_str().expect("text").to_owned();
            (text("task"), message.data["seq"].as_i64().expect("a number"), message.event.clone())
        })
        .collect()
}

#[tokio::test]
async fn a_reader_that_changes_gateways_misses_nothing_and_hears_nothing_twice() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let before = world.submit(&ls()).await;
    let mut stream = open(&world, &world.url, &world.member, None).await;
    let mut seen = messages(&mut stream, |seen| !seen.is_empty()).await;
    assert_eq!(seen[0].event, "here", "a reader that is cut before the first event has a place too");
    let held = world.start_on(before, &node).await;
    seen.extend(messages(&mut stream, |seen| told(seen).len() == 4).await);

    // The gateway is gone; meanwhile the other one works on.
    drop(stream);
    world.end(&node, held, exited(0), "", 0).await;
    let other = world.submit(&ls()).await;
    let service = Service::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api/v1", listener.local_addr().expect("an address"));
    api_gateway::run(&service, world.other_process().await, listener, axum::Router::new()).await.expect("it starts");
    let mut stream = open(&world, &url, &world.member, seen.last().map(|message| message.id.as_str())).await;
    seen.extend(messages(&mut stream, |seen| told(seen).iter().any(|(task, ..)| *task == other.to_string())).await);

    let mut expected = Vec::new();
    for task in [before, other] {
        for entry in world.store.task_history(Scope::All, task, 0, 100).await.expect("read") {
            for event in entry.events {
                let word = serde_json::to_value(&event).expect("JSON")["event"].as_str().expect("a word").to_owned();
                expected.push((task.to_string(), entry.seq, word));
            }
        }
    }
    // Submitted before anybody looked.
    expected.remove(0);
    assert_eq!(told(&seen), expected);
    drop(stream);
    assert!(service.stop_within(Duration::from_secs(10)).await);
    world.stop().await;
}

#[tokio::test]
async fn each_event_is_a_place_to_go_on_from() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let mut stream = open(&world, &world.url, &world.member, None).await;
    let begin = messages(&mut stream, |seen| !seen.is_empty()).await[0].id.clone();
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    world.end(&node, held, exited(0), "", 0).await;
    let is_over = |seen: &[Message]| seen.last().is_some_and(|message| message.event == "finished");
    // Read in one batch, so that most places lie within it.
    let all = messages(&mut open(&world, &world.url, &world.member, Some(&begin)).await, is_over).await;
    assert_eq!(told(&all).len(), 8, "{all:#?}");
    for (n, message) in all.iter().enumerate().skip(1).take(all.len() - 2) {
        let rest = messages(&mut open(&world, &world.url, &world.member, Some(&message.id)).await, is_over).await;
        assert_eq!(told(&rest), told(&all[n + 1..]), "after {}", message.id);
    }
    for wrong in ["x", "12", "9:8:", "1:2:~", "1:4611686018427387904:"] {
        let refused = problem(open(&world, &world.url, &world.member, Some(wrong)).await).await;
        assert_eq!(refused["status"], 422, "{wrong}");
    }
    drop(stream);
    world.stop().await;
}

#[tokio::test]
async fn a_reader_that_wants_an_end_gets_all_so_far_and_a_place_to_go_on_from() {
    let world = World::start().await;
    let ask = async |query: &str, last: Option<&str>| {
        let request = world.request(Method::GET, &format!("/events?{query}"), &world.member);
        let request = match last {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        messages(&mut request.send().await.expect("an answer"), |_| false).await
    };
    let words = |seen: &[Message]| seen.iter().map(|message| message.event.clone()).collect::<Vec<_>>();
    assert_eq!(words(&ask("follow=false&from=beginning", None).await), ["here", "end"]);
    let (first, second) = (world.submit(&ls()).await, world.submit(&ls()).await);
    let all = ask("follow=false&from=beginning", None).await;
    assert_eq!(words(&all), ["here", "submitted", "submitted", "end"]);
    assert_eq!([&all[1].data["task"], &all[2].data["task"]], [&json!(first.to_string()), &json!(second.to_string())]);
    assert_eq!(words(&ask("follow=false", None).await), ["here", "end"]);
    let end = all.last().expect("the end").id.clone();
    world.post(&format!("/tasks/{first}/cancel"), &json!({})).await;
    let rest = ask("follow=false&from=beginning", Some(&end)).await;
    assert!(told(&rest).iter().all(|(task, ..)| *task == first.to_string()) && !told(&rest).is_empty(), "{rest:#?}");
    for wrong in ["from=yesterday", "follow=perhaps", "since=x"] {
        let refused = world.get(&format!("/events?{wrong}")).await;
        assert_eq!(word(&problem(refused).await), "invalid-request", "{wrong}");
    }
    world.stop().await;
}

#[tokio::test]
async fn nobody_hears_of_tasks_of_other_projects() {
    let world = World::start().await;
    let elsewhere = world.project("elsewhere").await;
    let (_, stranger) = make_key(&world.store, "eve", Role::Member, elsewhere, None).await;
    let mut theirs = open(&world, &world.url, &stranger, None).await;
    let mut admins = open(&world, &world.url, &world.admin, None).await;
    for stream in [&mut theirs, &mut admins] {
        messages(stream, |seen| !seen.is_empty()).await;
    }
    world.submit(&ls()).await;
    let own = world.request(Method::POST, "/tasks", &stranger).json(&ls()).send().await.expect("an answer");
    let own = crate::world::id_of(&crate::world::json_of(own).await).to_string();
    let heard = told(&messages(&mut theirs, |seen| !seen.is_empty()).await);
    assert_eq!(heard.iter().map(|(task, ..)| task).collect::<Vec<_>>(), [&own]);
    assert_eq!(told(&messages(&mut admins, |seen| seen.len() == 2).await).len(), 2);
    drop((theirs, admins));
    world.stop().await;
}

#[tokio::test]
async fn an_audit_is_for_admins_and_says_what_is_broken() {
    let world = World::start().await;
    let task = world.submit(&ls()).await;
    for key in [&world.member, &world.viewer] {
        let refused = world.request(Method::GET, "/audit/invariants", key).send().await.expect("an answer");
        assert_eq!(word(&problem(refused).await), "not-permitted");
    }
    let audit = async || {
        let answer = world.request(Method::GET, "/audit/invariants", &world.admin).send().await.expect("an answer");
        crate::world::json_of(answer).await
    };
    let sound = audit().await;
    assert_eq!(sound["clean"], json!(true), "{sound:#}");
    world.database.execute(&format!("DELETE FROM task_state WHERE task_id = '{task}'")).await;
    let broken = audit().await;
    assert_eq!(broken["clean"], json!(false));
    let states: Vec<_> =
        broken["invariants"].as_array().expect("a list").iter().filter(|one| one["state"] != "holds").collect();
    assert_eq!(states.len(), 1, "{states:#?}");
    assert_eq!(states[0]["rows"], json!([format!("task {task} was accepted and is in no state")]));
    world.stop().await;
}
