//! Submission: once, whatever is repeated.

use crate::world::{World, facts, id_of, json_of, ls, make_key, problem, word};
use domain::{ids::DEFAULT_PROJECT, principal::Role};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::atomic::Ordering};
use test_kit::pg_proxy::Cut;

async fn keyed(world: &World, key: &str, body: &Value) -> Response {
    world
        .request(Method::POST, "/tasks", &world.member)
        .header("idempotency-key", key)
        .json(body)
        .send()
        .await
        .expect("an answer")
}

#[tokio::test]
async fn an_accepted_task_is_where_the_answer_says_it_is() {
    let world = World::start().await;
    let response =
        world.post("/tasks", &json!({"command": "echo hello", "metadata": {"paper": "icml"}, "timeout": "30s"})).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let task = json_of(response).await;
    assert_eq!(location, format!("/api/v1/tasks/{}", task["id"].as_str().expect("an id")));
    assert_eq!(
        (&task["state"], &task["created_by"], &task["project"]),
        (&json!("pending"), &json!("ana"), &json!("default"))
    );
    assert_eq!(task["spec"]["timeout_ms"], 30_000);
    let again = json_of(world.get(&format!("/tasks/{}", id_of(&task))).await).await;
    assert_eq!(again["id"], task["id"]);
    assert!(again["outcome"].is_null() && again["attempt"] == 0);
    world.stop().await;
}

#[tokio::test]
async fn the_same_key_and_body_is_the_same_task_and_another_body_is_refused() {
    let world = World::start().await;
    let first = keyed(&world, "k-1", &json!({"command": ["ls"], "name": "a", "env": {"A": "1", "B": "2"}})).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let first = id_of(&json_of(first).await);
    // Written in another order, it is the same request.
    let replayed = world
        .request(Method::POST, "/tasks", &world.member)
        .header("idempotency-key", "k-1")
        .header("content-type", "application/json")
        .body(r#"{ "env": {"B": "2", "A": "1"}, "name": "a", "command": ["ls"] }"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(replayed.status(), StatusCode::OK);
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(id_of(&json_of(replayed).await), first);

    let refused =
        problem(keyed(&world, "k-1", &json!({"command": ["ls", "-l"], "name": "a", "priority": "high"})).await).await;
    assert_eq!((word(&refused), &refused["status"]), ("idempotency-key-reused", &json!(422)));
    assert_eq!(refused["first_task"], first.to_string());
    let pointers: Vec<&str> =
        refused["errors"].as_array().expect("a list").iter().filter_map(|e| e["pointer"].as_str()).collect();
    assert_eq!(pointers, ["#/command", "#/env", "#/priority"]);
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 1);
    world.stop().await;
}

#[tokio::test]
async fn a_key_whose_task_was_deleted_says_so_and_makes_no_second_one() {
    let world = World::start().await;
    let first = id_of(&json_of(keyed(&world, "k-1", &ls()).await).await);
    assert_eq!(world.post(&format!("/tasks/{first}/cancel"), &json!({})).await.status(), StatusCode::OK);
    // As if it were a year old.
    let old = uuid::Uuid::from_u128(first.as_uuid().as_u128() - (31_536_000_000 << 80));
    for (table, column) in [("tasks", "id"), ("task_state", "task_id"), ("idempotency_keys", "task_id")] {
        world.database.execute(&format!("UPDATE {table} SET {column} = '{old}'")).await;
    }
    world.database.execute("UPDATE task_state SET ended_at = ended_at - interval '1 year'").await;
    let step = world.store.expire_tasks(chrono::TimeDelta::days(30), None, 10).await.expect("walked");
    assert_eq!(step.deleted, 1);

    let refused = problem(keyed(&world, "k-1", &ls()).await).await;
    assert_eq!((word(&refused), &refused["status"]), ("no-such-task", &json!(404)));
    assert_eq!(refused["first_task"], old.to_string());
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("with another key")), "{refused}");
    let mut same = ls();
    same["idempotency_key"] = json!("k-1");
    let batch = json_of(world.post("/tasks:batch", &json!([same])).await).await;
    assert_eq!(batch["items"][0]["problem"]["first_task"], old.to_string(), "{batch}");
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 0);
    assert_eq!(keyed(&world, "k-2", &ls()).await.status(), StatusCode::CREATED);
    world.stop().await;
}

#[tokio::test]
async fn a_key_belongs_to_its_project() {
    let world = World::start().await;
    let vision = world.project("vision").await;
    let (_, other) = make_key(&world.store, "eve", Role::Member, vision, None).await;
    let mine = id_of(&json_of(keyed(&world, "k", &ls()).await).await);
    let request =
        world.request(Method::POST, "/tasks", &other).header("idempotency-key", "k").json(&json!({"command": "other"}));
    let theirs = request.send().await.expect("an answer");
    assert_eq!(theirs.status(), StatusCode::CREATED);
    assert_ne!(id_of(&json_of(theirs).await), mine);
    world.stop().await;
}

#[tokio::test]
async fn twenty_submissions_at_once_with_one_key_make_one_task() {
    let world = World::start().await;
    let body = ls();
    let answers = futures::future::join_all((0..20).map(|_| keyed(&world, "same", &body))).await;
    let mut ids = BTreeSet::new();
    let mut created = 0;
    for answer in answers {
        created += u32::from(answer.status() == StatusCode::CREATED);
        assert!(answer.status().is_success(), "{}", answer.status());
        ids.insert(id_of(&json_of(answer).await));
    }
    assert_eq!((ids.len(), created), (1, 1));
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 1);
    world.stop().await;
}

#[tokio::test]
async fn a_submission_whose_commit_is_cut_makes_one_task_when_it_is_sent_again() {
    let (world, proxy) = World::start_behind_proxy().await;
    for (key, cut) in [("never-heard", Cut::Before), ("never-answered", Cut::After)] {
        let body = json!({"name": key, "command": ["ls"]});
        proxy.cut_next_commit(cut);
        let refused = keyed(&world, key, &body).await;
        assert!(refused.headers().contains_key("retry-after"), "{cut:?}");
        assert_eq!(word(&problem(refused).await), "unavailable", "{cut:?}");

        let again = keyed(&world, key, &body).await;
        let is_replayed = again.headers().contains_key("idempotency-replayed");
        // What the first one did shows in the second's answer, and in nothing else.
        let status = if cut == Cut::After { StatusCode::OK } else { StatusCode::CREATED };
        assert_eq!((again.status(), is_replayed), (status, cut == Cut::After), "{cut:?}");
        let id = id_of(&json_of(again).await);
        assert_eq!(id_of(&json_of(keyed(&world, key, &body).await).await), id, "{cut:?}");
        let found = json_of(world.get(&format!("/tasks?name={key}")).await).await;
        assert_eq!((&found["found"], &found["tasks"][0]["id"]), (&json!(1), &json!(id.to_string())), "{cut:?}");
    }
    let cuts = (proxy.cuts.before.load(Ordering::Relaxed), proxy.cuts.after.load(Ordering::Relaxed));
    assert_eq!(cuts, (1, 1), "each was cut where it was to be");
    world.stop().await;
}

#[tokio::test]
async fn a_batch_whose_commit_is_cut_makes_each_task_once_when_it_is_sent_again() {
    let (world, proxy) = World::start_behind_proxy().await;
    for (key, cut) in [("never-heard", Cut::Before), ("never-answered", Cut::After)] {
        let tasks: Vec<Value> = (0..3).map(|_| json!({"name": key, "command": ["ls"]})).collect();
        let send = async || {
            let request = world.request(Method::POST, "/tasks:batch", &world.member).header("idempotency-key", key);
            request.json(&json!({"tasks": tasks})).send().await.expect("an answer")
        };
        proxy.cut_next_commit(cut);
        assert_eq!(word(&problem(send().await).await), "unavailable", "{cut:?}");
        assert_eq!(send().await.status(), StatusCode::OK, "{cut:?}");
        let found = json_of(world.get(&format!("/tasks?name={key}")).await).await;
        assert_eq!(found["found"], 3, "{cut:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_key_is_one_short_visible_word() {
    let world = World::start().await;
    for key in ["", "two words", &"x".repeat(256), "tab\there"] {
        let refused = problem(keyed(&world, key, &ls()).await).await;
        assert_eq!(
            (word(&refused), &refused["errors"][0]["header"]),
            ("invalid-request", &json!("Idempotency-Key")),
            "{key:?}"
        );
    }
    let twice = world
        .request(Method::POST, "/tasks", &world.member)
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    assert_eq!(problem(twice.json(&ls()).send().await.expect("an answer")).await["status"], 422);
    assert_eq!(keyed(&world, &"x".repeat(255), &ls()).await.status(), StatusCode::CREATED);
    world.stop().await;
}

#[tokio::test]
async fn a_task_that_no_node_can_ever_run_is_accepted_with_a_warning() {
    let world = World::start().await;
    world.node("lab-3", facts(16, 62, &[24])).await;
    world.node("lab-1", facts(8, 30, &[8])).await;
    let body = json!({"command": "train", "requirements": {"gpus": 1, "gpu_memory": "80GiB"}});
    let task = json_of(world.post("/tasks", &body).await).await;
    let warning = &task["warnings"][0];
    assert_eq!((&warning["code"], &warning["pointer"]), (&json!("no_node_fits"), &json!("#/requirements/gpu_memory")));
    assert_eq!(
        warning["detail"],
        "No node of this fleet can ever run it: gpu_memory 80GiB, the most is 24 GiB (lab-3)."
    );
    let fits = json_of(world.post("/tasks", &json!({"command": "train", "requirements": {"gpus": 1}})).await).await;
    assert!(fits.get("warnings").is_none());
    world.stop().await;
}

#[tokio::test]
async fn a_member_submits_into_its_own_project_and_sees_no_other() {
    let world = World::start().await;
    let vision = world.project("vision").await;
    let (_, other) = make_key(&world.store, "eve", Role::Member, vision, None).await;
    let body = json!({"command": "ls", "project": "vision"});
    // One that exists and one that does not are refused alike.
    let theirs = problem(world.post("/tasks", &body).await).await;
    let none = problem(world.post("/tasks", &json!({"command": "ls", "project": "vosion"})).await).await;
    assert_eq!((word(&theirs), word(&none)), ("no-such-project", "no-such-project"));
    assert_eq!(theirs["errors"][0]["pointer"], "#/project");

    let request = world.request(Method::POST, "/tasks", &other).json(&body);
    let task = json_of(request.send().await.expect("an answer")).await;
    assert_eq!(task["project"], "vision");
    let path = format!("/tasks/{}", id_of(&task));
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::GET, format!("{path}/why")),
        (Method::GET, format!("{path}/logs")),
        (Method::GET, format!("{path}/events")),
        (Method::POST, format!("{path}/cancel")),
        (Method::POST, format!("{path}/retry")),
    ] {
        let refused = world.request(method, &path, &world.member).send().await.expect("an answer");
        let refused = problem(refused).await;
        assert_eq!((word(&refused), &refused["status"]), ("no-such-task", &json!(404)), "{path}");
    }
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 0);
    let request = world.request(Method::POST, "/tasks", &world.admin).json(&body);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::CREATED);
    assert_ne!(vision, DEFAULT_PROJECT);
    world.stop().await;
}
