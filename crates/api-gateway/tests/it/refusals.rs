//! Every refusal as it is seen, and bodies that are traps.

use crate::world::{World, exited, facts, json_of, ls, problem, word};
use insta::assert_json_snapshot;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const COMMIT: &str = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";

fn container(change: impl FnOnce(&mut Value)) -> Value {
    let mut task = json!({
        "command": ["python", "train.py"],
        "source": {
            "code_repo_url": "https://git.example/lab/resnet.git", "code_commit_id": COMMIT,
            "env_repo_url": "https://git.example/lab/envs.git", "env_commit_id": COMMIT, "dockerfile_path": "torch/Dockerfile",
        },
    });
    change(&mut task);
    task
}

#[tokio::test]
async fn a_refused_task_says_every_fault_with_its_place() {
    let world = World::start().await;
    let refused = async |body: Value| problem(world.post("/tasks", &body).await).await;
    assert_json_snapshot!(
        "incomplete_source",
        refused(container(|task| {
            let source = task["source"].as_object_mut().expect("an object");
            source.remove("env_commit_id");
            source.remove("dockerfile_path");
        }))
        .await
    );
    assert_json_snapshot!(
        "not_a_commit_id",
        refused(container(|task| task["source"]["code_commit_id"] = json!("main"))).await
    );
    assert_json_snapshot!("unknown_field", refused(json!({"command": "ls", "requirements": {"memroy": "1GiB"}})).await);
    assert_json_snapshot!(
        "bad_quantity",
        refused(json!({"command": "ls", "requirements": {"memory": "16 gigs"}})).await
    );
    assert_json_snapshot!("negative_memory", refused(json!({"command": "ls", "requirements": {"memory": -1}})).await);
    assert_json_snapshot!("several_faults", refused(json!({"comand": "ls", "timeout": "soon", "project": 7})).await);
    assert_json_snapshot!("no_such_project", refused(json!({"command": "ls", "project": "vosion"})).await);
    world.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_taken_says_why() {
    let world = World::start().await;
    assert_json_snapshot!(
        "malformed_json",
        problem(world.post_raw("/tasks", "{\n  \"command\": \"ls\"\n  \"name\": 1}").await).await
    );
    assert_json_snapshot!(
        "duplicate_key",
        problem(world.post_raw("/tasks", r#"{"command": "ls", "command": "rm"}"#).await).await
    );
    assert_json_snapshot!("empty_body", problem(world.post_raw("/tasks", "").await).await);
    let untyped =
        world.request(Method::POST, "/tasks", &world.member).body(ls().to_string()).send().await.expect("an answer");
    assert_json_snapshot!("no_content_type", problem(untyped).await);
    let yaml = world
        .request(Method::POST, "/tasks", &world.member)
        .header("content-type", "application/yaml")
        .body("command: ls");
    assert_json_snapshot!("wrong_content_type", problem(yaml.send().await.expect("an answer")).await);
    assert_json_snapshot!(
        "too_large",
        problem(world.post("/tasks", &json!({"command": "x".repeat(2 << 20)})).await).await
    );
    let chunks = (0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
    let chunked = world.post_raw("/tasks", reqwest::Body::wrap_stream(futures::stream::iter(chunks))).await;
    assert_json_snapshot!("too_large_chunked", problem(chunked).await);
    let spec = problem(world.post("/tasks", &json!({"command": ["ls"], "payload": "x".repeat(70_000)})).await).await;
    assert_eq!((word(&spec), &spec["errors"][0]["code"]), ("invalid-task", &json!("too_long")));
    world.stop().await;
}

#[tokio::test]
async fn no_json_trap_is_ever_a_fault_of_the_server() {
    let world = World::start().await;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let traps = [
        (422, r#"{"command": "a\u0000b"}"#.to_owned()),
        (422, r#"{"command": "ls", "payload": {"a\u0000b": ["\u0000"]}}"#.to_owned()),
        (422, r#"{"command": "ls", "metadata": {"x": "\u0000"}}"#.to_owned()),
        (422, deep("[", "]")),
        (422, deep("{\"a\":", "}")),
        (400, r#"{"command": "ls", "timeout": 1e400}"#.to_owned()),
        (400, r#"{"command": "ls", "name": "\ud800"}"#.to_owned()),
        (400, r#"{"command": "ls", "name": "\udc00\ud800"}"#.to_owned()),
        (422, r#"{"command": "ls", "requirements": {"memory": 18446744073709551616}}"#.to_owned()),
        (422, r#"{"command": "ls", "requirements": {"cpu_cores": -1}}"#.to_owned()),
        (422, r#"{"command": "ls", "requirements": {"gpus": 1.5}}"#.to_owned()),
        (422, r#"{"command": "ls", "priority": 1e300}"#.to_owned()),
        (422, r#"{"command": "ls", "retry": {"max_retries": 1, "max_retries": 2}}"#.to_owned()),
        (422, r#"{"command": "ls", "state": "succeeded", "fence": 7}"#.to_owned()),
        (422, r#"{"command": "ls", "tenant_id": "x", "role": "admin"}"#.to_owned()),
        (400, "\u{feff}{}".to_owned()),
        (400, "[1,]".to_owned()),
        (422, "[]".to_owned()),
        (422, "null".to_owned()),
    ];
    for (status, body) in traps {
        let shown: String = body.chars().take(80).collect();
        let response = world.post_raw("/tasks", body).await;
        assert_eq!(response.status().as_u16(), status, "{shown}");
        problem(response).await;
    }
    let response = world.post_raw("/tasks", b"{\"name\": \"\xff\xfe\"}".to_vec()).await;
    assert_eq!(problem(response).await["status"], 400);
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 0);
    world.stop().await;
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused() {
    let world = World::start().await;
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1000000000",
        "cursor=x",
        "cursor='%3B%20drop%20table",
        "state=runing",
        "label=x",
        "id_suffix=xyz",
        "id_suffix=abc",
        "name=%00",
        "label=a%00=b",
        "sort=id",
        "node=a%00",
    ] {
        let refused = problem(world.get(&format!("/tasks?{query}")).await).await;
        assert_eq!((word(&refused), &refused["status"]), ("invalid-request", &json!(422)), "{query}");
    }
    let hostile = ["name='%3B%20drop%20table%20tasks", "name=%25", "label=a'='b", "node='--", "project='", "name=\\"];
    for query in hostile {
        assert_eq!(world.get(&format!("/tasks?{query}")).await.status(), StatusCode::OK, "{query}");
    }
    assert_json_snapshot!("unknown_state", problem(world.get("/tasks?state=runing").await).await);
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_not_there() {
    let world = World::start().await;
    assert_json_snapshot!(
        "no_such_task",
        problem(world.get("/tasks/01a20390-8054-7c41-9d2f-6b0e41c7a93d").await).await
    );
    assert_json_snapshot!("an_ending_is_no_id", problem(world.get("/tasks/41c7a93d").await).await);
    assert_json_snapshot!("no_id_at_all", problem(world.get("/tasks/..%2f..%2fetc").await).await);
    assert_json_snapshot!("no_such_route", problem(world.get("/taskz").await).await);
    let put = world.request(Method::PUT, "/tasks", &world.member).send().await.expect("an answer");
    assert_json_snapshot!("method_not_allowed", problem(put).await);
    world.stop().await;
}

#[tokio::test]
async fn a_task_in_another_state_is_left_alone() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    assert_json_snapshot!("not_ended", problem(world.post(&format!("/tasks/{task}/retry"), &json!({})).await).await);
    let held = world.start_on(task, &node).await;
    world.end(&node, held, exited(0), "", 0).await;
    world.database.execute("UPDATE task_state SET ended_at = now() - interval '3 minutes'").await;
    assert_json_snapshot!(
        "already_ended",
        problem(world.post(&format!("/tasks/{task}/cancel"), &json!({})).await).await
    );
    world.stop().await;
}

#[tokio::test]
async fn a_panic_tells_nothing_of_what_it_said() {
    let world = World::start().await;
    assert_json_snapshot!("panic", problem(world.get("/panic").await).await);
    // The server lives on.
    assert_eq!(world.get("/tasks").await.status(), StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_a_moment_and_no_fault() {
    let world = World::start().await;
    assert_eq!(world.get("/tasks").await.status(), StatusCode::OK);
    world.store.close().await;
    assert_json_snapshot!("unavailable", problem(world.get("/tasks").await).await);
    let ready = world.http.get(world.url.replace("/api/v1", "/readyz")).send().await.expect("an answer");
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let alive = world.http.get(world.url.replace("/api/v1", "/healthz")).send().await.expect("an answer");
    assert_eq!(alive.status(), StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn a_full_disk_takes_nothing_new_and_says_what_helps() {
    let world = World::start().await;
    let before = world.submit(&ls()).await;
    // PostgreSQL's own words and code when a table can't grow.
    world
        .database
        .execute(
            "CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE EXCEPTION 'could not extend file \"base/16384/16512\": No space left on device'
                 USING ERRCODE = '53100', HINT = 'Check free disk space.';
             END $$;
             CREATE TRIGGER disk_is_full BEFORE INSERT ON tasks EXECUTE FUNCTION disk_is_full()",
        )
        .await;
    let keyed = async || {
        let request = world.request(Method::POST, "/tasks", &world.member).header("idempotency-key", "k");
        request.json(&ls()).send().await.expect("an answer")
    };
    let refused = keyed().await;
    assert_eq!(refused.headers()["retry-after"], "60");
    assert_json_snapshot!("storage_full", problem(refused).await);
    // What takes no room goes on.
    assert_eq!(json_of(world.get("/tasks").await).await["found"], 1);
    assert_eq!(world.post(&format!("/tasks/{before}/cancel"), &json!({})).await.status(), StatusCode::OK);
    world.database.execute("DROP TRIGGER disk_is_full ON tasks").await;
    assert_eq!(keyed().await.status(), StatusCode::CREATED);
    world.stop().await;
}
