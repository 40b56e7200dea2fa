//! Batches: an answer per item, in their order.

use crate::world::{World, json_of, ls, problem, word};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_bad_item_refuses_itself_and_no_other() {
    let world = World::start().await;
    let tasks = json!([
        ls(),
        {"command": ["ls"], "requirements": {"memroy": "1GiB"}},
        "no object",
        {"command": ["ls"], "project": "nowhere"},
        {"command": ["ls"], "idempotency_key": "bad key"},
        {"command": ["pwd"]},
    ]);
    let response = world.post("/tasks:batch", &tasks).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = json_of(response).await;
    let items = answer["items"].as_array().expect("a list");
    let told: Vec<(u64, &str)> = items
        .iter()
        .map(|item| (item["index"].as_u64().expect("an index"), item.get("problem").map_or("accepted", word)))
        .collect();
    let expected = ["accepted", "unknown-field", "invalid-task", "no-such-project", "invalid-request", "accepted"];
    assert_eq!(told, expected.iter().enumerate().map(|(n, word)| (n as u64, *word)).collect::<Vec<_>>());
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 2);
    world.stop().await;
}

#[tokio::test]
async fn equal_keys_in_one_batch_are_one_task() {
    let world = World::start().await;
    let keyed = |command: &str| json!({"command": [command], "idempotency_key": "k"});
    let answer =
        json_of(world.post("/tasks:batch", &json!({"tasks": [keyed("a"), keyed("a"), keyed("b")]})).await).await;
    let items = &answer["items"];
    assert_eq!(items[0]["id"], items[1]["id"]);
    assert_eq!((&items[0]["replayed"], &items[1]["replayed"]), (&json!(false), &json!(true)));
    assert_eq!(word(&items[2]["problem"]), "idempotency-key-reused");
    // The key of an item is the key of a single submission.
    let request = world.request(Method::POST, "/tasks", &world.member).header("idempotency-key", "k");
    let single = request.json(&json!({"command": ["a"]})).send().await.expect("an answer");
    assert_eq!(single.status(), StatusCode::OK);
    assert_eq!(json_of(single).await["id"], items[0]["id"]);
    world.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_sent_again_with_its_key_makes_nothing_twice() {
    let world = World::start().await;
    let send = async || {
        let request = world.request(Method::POST, "/tasks:batch", &world.member).header("idempotency-key", "sweep");
        json_of(request.json(&json!({"tasks": [ls(), ls(), ls()]})).send().await.expect("an answer")).await
    };
    let (first, again) = (send().await, send().await);
    let ids = |answer: &Value| -> Vec<Value> {
        answer["items"].as_array().expect("a list").iter().map(|item| item["id"].clone()).collect()
    };
    assert_eq!(ids(&first), ids(&again));
    assert!(ids(&first)[0] != ids(&first)[1] && again["items"][2]["replayed"] == true);
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 3);
    world.stop().await;
}

#[tokio::test]
async fn ten_thousand_are_taken_at_once_and_one_more_is_not() {
    let world = World::start().await;
    let tasks = |count: usize| json!({"tasks": vec![ls(); count]});
    let began = Instant::now();
    let answer = json_of(world.post("/tasks:batch", &tasks(10_000)).await).await;
    assert_eq!(answer["items"].as_array().map(Vec::len), Some(10_000));
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    let refused = problem(world.post("/tasks:batch", &tasks(10_001)).await).await;
    assert_eq!(refused["detail"], "The batch has 10001 tasks; at most 10000 are taken at once.");
    assert_eq!(json_of(world.get("/tasks?limit=1").await).await["found"], 10_000);
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_batch_is_refused_whole() {
    let world = World::start().await;
    for body in [json!({}), json!({"tasks": {}}), json!({"tasks": [], "more": 1}), json!("x"), json!(null)] {
        assert_eq!(word(&problem(world.post("/tasks:batch", &body).await).await), "invalid-request", "{body}");
    }
    assert_eq!(json_of(world.post("/tasks:batch", &json!([])).await).await, json!({"items": []}));
    world.stop().await;
}

#[tokio::test]
async fn a_lone_task_does_not_wait_for_a_batch_that_takes_long() {
    let world = World::start().await;
    let batch = json!({"tasks": [{"command": ["a"], "idempotency_key": "k"}, {"command": ["b"]}]});
    world.post("/tasks:batch", &batch).await;
    // Whoever uses the key again waits for whoever is about to forget it.
    let holder = world.database.execute("BEGIN; DELETE FROM idempotency_keys; SELECT pg_sleep(1.5); ROLLBACK");
    let others = async {
        let is_held = "SELECT FROM idempotency_keys FOR UPDATE NOWAIT";
        while world.database.try_execute(is_held).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut long = Box::pin(world.post("/tasks:batch", &batch));
        tokio::select! {
            answer = &mut long => panic!("it waits for the key: {}", answer.status()),
            () = async {
                for _ in 0..5 {
                    assert_eq!(world.post("/tasks", &ls()).await.status(), StatusCode::CREATED);
                }
            } => {}
        }
        assert_eq!(long.await.status(), StatusCode::OK);
    };
    tokio::join!(holder, others);
    world.stop().await;
}
