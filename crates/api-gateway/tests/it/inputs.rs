//! What tasks read and leave, as people meet it: names are pinned at submission, outputs are shown, and a node's token opens its own routes only.

use crate::world::{Node, World, exited, facts, id_of, json_of, origin, problem, word};
use domain::{
    artifact::{ArtifactKind, Sha256Digest},
    attempt::Report,
    ids::{ArtifactId, DEFAULT_PROJECT, Held},
    outcome::ExitFacts,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use store::{ArtifactView, CompletedArtifact, Holder, NewArtifact, RemovedArtifact, Reserved, StoredObject};
use uuid::Uuid;

fn new_artifact(name: &str) -> NewArtifact {
    NewArtifact {
        project: DEFAULT_PROJECT,
        name: name.into(),
        kind: ArtifactKind::Directory,
        size: Some(7),
        media_type: "application/octet-stream".into(),
        file_name: name.into(),
        labels: BTreeMap::new(),
        pinned: false,
        part_size: 8 << 20,
        least_part: None,
        key: format!("objects/{}", Uuid::new_v4()),
        idempotency: None,
    }
}

/// What the object store is said to have of this upload.
async fn stored(world: &World, artifact: ArtifactId) -> StoredObject {
    let (place, _) = world.store.upload(artifact).await.expect("read").expect("it is uploaded");
    StoredObject {
        key: place.key,
        size: 7,
        sha256: Sha256Digest([1; 32]),
        parts_digest: Sha256Digest([2; 32]),
        parts: Vec::new(),
    }
}

async fn put(world: &World, name: &str) -> ArtifactView {
    let reserved = world.store.reserve_artifact(&new_artifact(name), &origin().principal).await.expect("reserved");
    let Reserved::New(artifact) = reserved else { panic!("{reserved:?}") };
    let object = stored(world, artifact.id).await;
    match world.store.complete_artifact(artifact.id, &object, Duration::ZERO, &origin()).await.expect("completed") {
        CompletedArtifact::Ready(ready) => ready,
        other => panic!("{other:?}"),
    }
}

async fn remove(world: &World, artifact: ArtifactId) {
    let removed = world.store.remove_artifact(artifact, Duration::ZERO, &origin()).await.expect("answered");
    assert!(matches!(removed, RemovedArtifact::Removed(_)), "{removed:?}");
}

async fn leave(world: &World, node: &Node, held: Held, index: u32, name: &str) -> ArtifactView {
    let who = Holder { node: node.id, held };
    let by = (origin().principal.id, "ana");
    let begun = world.store.begin_output(who, index, &new_artifact(name), by, Duration::ZERO).await.expect("answered");
    let begun = begun.expect("held");
    let object = stored(world, begun.id).await;
    let done = world.store.complete_output(who, begun.id, &object, Duration::ZERO, &origin()).await.expect("answered");
    match done {
        Some(CompletedArtifact::Ready(ready)) => ready,
        other => panic!("{other:?}"),
    }
}

fn reads(names: &[&str]) -> Value {
    let input = |(at, name): (usize, &&str)| json!({"artifact": name, "path": format!("in-{at}")});
    json!({"command": ["ls"], "inputs": names.iter().enumerate().map(input).collect::<Vec<_>>()})
}

async fn keyed(world: &World, key: &str, body: &Value) -> Response {
    let request = world.request(Method::POST, "/tasks", &world.member).header("idempotency-key", key);
    request.json(body).send().await.expect("an answer")
}

fn versions(task: &Value) -> Vec<u64> {
    let inputs = task["spec"]["inputs"].as_array().expect("inputs").iter();
    inputs.map(|input| input["pinned"]["version"].as_u64().expect("a version")).collect()
}

#[tokio::test]
async fn a_task_reads_what_its_names_meant_when_it_was_submitted() {
    let world = World::start().await;
    let first = put(&world, "data").await;
    let second = put(&world, "data").await;
    let body = reads(&["data", "data@1", &second.id.to_string()]);
    let task = json_of(keyed(&world, "k", &body).await).await;
    assert_eq!(versions(&task), [2, 1, 2]);
    let pinned = &task["spec"]["inputs"][1]["pinned"];
    assert_eq!((&pinned["id"], &pinned["kind"], &pinned["size"]), (&json!(first.id), &json!("directory"), &json!(7)));
    assert_eq!(task["spec"]["inputs"][0]["artifact"], json!("data"), "as its user wrote it");
    let third = put(&world, "data").await;
    let shown = json_of(world.get(&format!("/tasks/{}", id_of(&task))).await).await;
    assert_eq!(versions(&shown), [2, 1, 2]);
    // The same request again is the same task, though the names mean something else by now.
    let again = keyed(&world, "k", &body).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(json_of(again).await["id"], task["id"]);
    let other = problem(keyed(&world, "k", &reads(&["data", "data@2", "data"])).await).await;
    assert_eq!(word(&other), "idempotency-key-reused");
    assert_eq!(other["errors"].as_array().map(Vec::len), Some(1), "{other}");
    assert_eq!(
        json_of(world.post("/tasks", &reads(&["data"])).await).await["spec"]["inputs"][0]["pinned"]["version"],
        3
    );
    assert_eq!(
        world
            .request(Method::POST, &format!("/tasks/{}/cancel", id_of(&task)), &world.member)
            .send()
            .await
            .expect("an answer")
            .status(),
        StatusCode::OK
    );
    // And though what it read is gone: it was accepted, and stays so.
    remove(&world, first.id).await;
    let again = keyed(&world, "k", &body).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(json_of(again).await["id"], task["id"]);
    // Run again it would have nothing to read, and says so at once.
    let refused = problem(world.post(&format!("/tasks/{}/retry", id_of(&task)), &json!({})).await).await;
    assert_eq!(word(&refused), "artifact-not-ready");
    assert!(refused["detail"].as_str().expect("text").contains("data@1"), "{refused}");
    assert_eq!(third.version, Some(3));
    world.stop().await;
}

#[tokio::test]
async fn an_artifact_that_is_not_there_refuses_its_own_task_only() {
    let world = World::start().await;
    let data = put(&world, "data").await;
    put(&world, "gone").await;
    let refused = problem(world.post("/tasks", &reads(&["data", "nothing", "data@7"])).await).await;
    assert_eq!((word(&refused), &refused["status"]), ("invalid-task", &json!(422)));
    let faults: Vec<_> =
        refused["errors"].as_array().expect("faults").iter().map(|it| (&it["pointer"], &it["code"])).collect();
    let code = json!("no_such_artifact");
    let (second, third) = (json!("#/inputs/1/artifact"), json!("#/inputs/2/artifact"));
    assert_eq!(faults, [(&second, &code), (&third, &code)]);

    let with_key = |name: &str, key: &str| {
        let mut body = reads(&[name]);
        body["idempotency_key"] = json!(key);
        body
    };
    let batch =
        json!([reads(&["data"]), reads(&["nothing"]), with_key("gone", "g"), {"command": ["ls"]}, reads(&["data@1"])]);
    let told = async |batch: &Value| {
        let answer = json_of(world.post("/tasks:batch", batch).await).await;
        let items = answer["items"].as_array().expect("items").clone();
        assert!(items.iter().enumerate().all(|(at, item)| item["index"] == json!(at)), "{items:?}");
        items
    };
    let items = told(&batch).await;
    let words: Vec<_> = items.iter().map(|item| item.get("problem").map_or("accepted", word)).collect();
    assert_eq!(words, ["accepted", "invalid-task", "accepted", "accepted", "accepted"]);
    for item in [&items[0], &items[4]] {
        let task = json_of(world.get(&format!("/tasks/{}", id_of(item))).await).await;
        assert_eq!(task["spec"]["inputs"][0]["pinned"]["id"], json!(data.id));
    }
    // What has a key was accepted once, and is told so again, whatever was removed since.
    world.post(&format!("/tasks/{}/cancel", id_of(&items[2])), &json!({})).await;
    let gone = json_of(world.get(&format!("/tasks/{}", id_of(&items[2]))).await).await;
    let artifact = gone["spec"]["inputs"][0]["pinned"]["id"].as_str().expect("an id").parse().expect("an id");
    remove(&world, artifact).await;
    let again = told(&json!([reads(&["gone"]), with_key("gone", "g"), {"command": ["ls"]}])).await;
    assert_eq!(word(&again[0]["problem"]), "invalid-task");
    assert_eq!((&again[1]["id"], &again[1]["replayed"]), (&items[2]["id"], &json!(true)));
    assert!(again[2]["id"].is_string());
    world.stop().await;
}

#[tokio::test]
async fn a_task_shows_what_its_attempts_have_left() {
    let world = World::start().await;
    let node = world.node("n", facts(8, 32, &[])).await;
    let body = json!({"command": ["train"], "outputs": [{"path": "a", "name": "a"}, {"path": "b", "name": "b"}]});
    let task = world.submit(&body).await;
    let artifacts = async || json_of(world.get(&format!("/tasks/{task}")).await).await["artifacts"].clone();
    assert_eq!(artifacts().await, Value::Null, "there are none");
    let first = world.start_on(task, &node).await;
    leave(&world, &node, first, 1, "b").await;
    world.report(&node, first, crate::world::lost(domain::outcome::FailureKind::NodeError)).await;
    world.database.execute("UPDATE task_state SET not_before = NULL").await;
    let second = world.start_on(task, &node).await;
    let a = leave(&world, &node, second, 0, "a").await;
    leave(&world, &node, second, 1, "b").await;
    let exit = ExitFacts { outputs_due: 2, ..exited(0) };
    world.report(&node, second, Report::Exited { exit: exit.clone() }).await;
    world.end(&node, second, exit, "", 0).await;
    let shown = artifacts().await;
    let told: Vec<_> = shown
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| (it["name"].as_str(), it["version"].as_u64(), it["attempt"].clone()))
        .collect();
    let (one, two) = (json!(first.attempt), json!(second.attempt));
    assert_eq!(told, [(Some("a"), Some(1), two.clone()), (Some("b"), Some(2), two), (Some("b"), Some(1), one)]);
    assert_eq!((&shown[0]["id"], &shown[0]["state"], &shown[0]["size"]), (&json!(a.id), &json!("ready"), &json!(7)));
    remove(&world, a.id).await;
    assert_eq!(artifacts().await.as_array().map(Vec::len), Some(2), "what was removed is not shown");
    world.stop().await;
}

#[tokio::test]
async fn a_task_shows_where_its_next_attempt_goes_on() {
    let world = World::start().await;
    let node = world.node("n", facts(8, 32, &[])).await;
    let task = world.submit(&json!({"command": ["train"], "checkpoints": {"path": "ckpt"}})).await;
    let shown = async || json_of(world.get(&format!("/tasks/{task}")).await).await;
    let held = world.start_on(task, &node).await;
    assert_eq!(shown().await["checkpoint"], Value::Null, "there is none");
    let who = Holder { node: node.id, held };
    let take = async || {
        let new = new_artifact(&format!("checkpoint-{task}"));
        let by = (origin().principal.id, "ana");
        let begun = world.store.begin_checkpoint(who, &new, by, Duration::ZERO).await.expect("answered").expect("held");
        let object = stored(&world, begun.id).await;
        let done = world.store.complete_checkpoint(who, begun.id, &object, Duration::ZERO, &origin()).await;
        assert!(matches!(done, Ok(Some(CompletedArtifact::Ready(_)))), "{done:?}");
        begun.id
    };
    take().await;
    let newest = take().await;
    let task_shown = shown().await;
    let checkpoint = &task_shown["checkpoint"];
    assert_eq!((&checkpoint["id"], &checkpoint["version"]), (&json!(newest), &json!(2)));
    assert_eq!((&checkpoint["attempt"], &checkpoint["size"]), (&json!(held.attempt), &json!(7)));
    assert_eq!(checkpoint["name"], json!(format!("checkpoint-{task}")));
    assert!(checkpoint["stored_at"].is_string(), "{checkpoint}");
    assert_eq!(task_shown["artifacts"], Value::Null, "it is no output");
    world.end(&node, held, exited(0), "", 0).await;
    assert_eq!(shown().await["checkpoint"], Value::Null, "it goes on nowhere");
    world.stop().await;
}

#[tokio::test]
async fn a_nodes_token_opens_the_routes_of_nodes_and_no_other() {
    let world = World::start().await;
    let made = node_registry::create_node_token(&world.store, DEFAULT_PROJECT, "lab-3", &origin()).await;
    let made = made.expect("made").expect("a new name");
    let ask =
        async |credential: &str| world.request(Method::POST, "/node/who", credential).send().await.expect("an answer");
    let told = json_of(ask(&made.token).await).await;
    assert_eq!((&told["kind"], &told["name"], &told["is_person"]), (&json!("node"), &json!("lab-3"), &json!(false)));
    let node = told["node"].as_str().expect("an id").to_owned();
    let known =
        json_of(world.request(Method::GET, "/nodes/lab-3", &world.admin).send().await.expect("an answer")).await;
    assert_eq!(known["id"], json!(node));
    // People have no business there, nor has a node among people.
    let mut mistyped = made.token.clone();
    mistyped.replace_range(mistyped.len() - 1.., if mistyped.ends_with('x') { "y" } else { "x" });
    for credential in [&world.admin, &world.member, &mistyped] {
        assert_eq!(word(&problem(ask(credential).await).await), "not-authenticated");
    }
    let among_people = world.request(Method::GET, "/tasks", &made.token).send().await.expect("an answer");
    assert_eq!(word(&problem(among_people).await), "not-authenticated");
    // From the moment in which it is revoked on.
    world.store.revoke_node_token(made.token_id, false, &origin()).await.expect("revoked");
    let refused = problem(ask(&made.token).await).await;
    assert!(refused["detail"].as_str().expect("text").contains("revoked"), "{refused}");
    world.stop().await;
}
