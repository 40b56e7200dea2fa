//! Nodes, tokens and keys as people see them.

use crate::world::{World, json_of, refusal};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[tokio::test]
async fn a_token_makes_a_node_and_its_secret_is_seen_once() {
    let world = World::start().await;
    let made = world.post("/node-tokens", json!({"name": "lab-8"})).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    assert_eq!(made.headers()["cache-control"], "no-store");
    let made = json_of(made).await;
    let token = made["token"].as_str().expect("a secret");
    assert!(token.starts_with("ud_node_"));
    assert!(node_registry::is_valid_node_token(&world.store, token).await.expect("read"));
    let listed = world.get("/node-tokens").await.text().await.expect("text");
    assert!(listed.contains("lab-8") && !listed.contains(token) && !listed.contains("secret"), "{listed}");
    let node = json_of(world.get("/nodes/lab-8").await).await;
    assert_eq!(
        (&node["id"], &node["presence"], &node["admission"]),
        (&made["node_id"], &json!("offline"), &json!("open"))
    );
    assert_eq!(refusal(world.post("/node-tokens", json!({"name": "lab-8"})).await).await, "name-taken");
    for name in ["", "a b", "../x", "-x", "ä", &"x".repeat(64), "a\u{0}b"] {
        let refused = world.post("/node-tokens", json!({"name": name})).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{name:?}");
    }
    assert_eq!(
        refusal(world.post("/node-tokens", json!({"name": "x", "role": "admin"})).await).await,
        "invalid-request"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_revoked_token_takes_its_node_along_and_frees_the_name() {
    let world = World::start().await;
    let first = json_of(world.post("/node-tokens", json!({"name": "lab-8"})).await).await;
    let path = format!("/node-tokens/{}", first["id"].as_str().expect("an id"));
    for _ in 0..2 {
        assert_eq!(world.delete(&path).await.status(), StatusCode::NO_CONTENT, "safe to repeat");
    }
    let token = first["token"].as_str().expect("a secret");
    assert!(!node_registry::is_valid_node_token(&world.store, token).await.expect("read"));
    assert_eq!(refusal(world.get("/nodes/lab-8").await).await, "no-such-node");
    // By the node's name, as people do.
    let second = json_of(world.post("/node-tokens", json!({"name": "lab-8"})).await).await;
    assert_ne!(second["node_id"], first["node_id"]);
    assert_eq!(world.delete("/node-tokens/lab-8").await.status(), StatusCode::NO_CONTENT);
    for gone in ["lab-8", "01a20390-8054-7c41-9d2f-6b0e41c7a93d", "a%00b", "'%20or%201=1"] {
        assert_eq!(refusal(world.delete(&format!("/node-tokens/{gone}")).await).await, "no-such-token", "{gone}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_node_is_drained_and_resumed_by_name_or_id() {
    let world = World::start().await;
    let (id, _) = world.node("lab-5").await;
    let drained = json_of(world.post("/nodes/lab-5/drain", json!({"note": "new PSU"})).await).await;
    assert_eq!(
        (&drained["admission"], &drained["admission_note"]),
        (&json!("draining"), &json!("by ana (\"new PSU\")"))
    );
    let resumed = json_of(world.post(&format!("/nodes/{id}/resume"), json!({})).await).await;
    assert_eq!((&resumed["admission"], &resumed["admission_note"]), (&json!("open"), &json!("")));
    // The note may be left out, and the body with it.
    let bare = world.as_role("admin", Method::POST, "/nodes/lab-5/drain", None).await;
    assert_eq!(json_of(bare).await["admission_note"], "by ana");
    let ending = &id.to_string()[28..];
    assert_eq!(json_of(world.get(&format!("/nodes/{ending}")).await).await["name"], "lab-5");
    assert_eq!(refusal(world.post("/nodes/lab-9/drain", json!({})).await).await, "no-such-node");
    assert_eq!(refusal(world.get("/nodes/a%00b").await).await, "no-such-node");
    for wrong in [json!({"note": "two\nlines"}), json!({"note": "x".repeat(201)}), json!({"nota": "x"})] {
        assert_eq!(refusal(world.post("/nodes/lab-5/drain", wrong).await).await, "invalid-request");
    }
    let list = json_of(world.get("/nodes").await).await;
    assert_eq!(list["nodes"][0]["facts"]["capacity"]["cpu_millis"], 4_000);
    world.stop().await;
}

#[tokio::test]
async fn keys_are_listed_page_by_page_the_newest_first() {
    let world = World::start().await;
    let before = json_of(world.get("/api-keys").await).await["api_keys"].as_array().map_or(0, Vec::len);
    for number in 0..60 {
        let made = world.post("/api-keys", json!({"name": format!("ci-{number}"), "role": "member"})).await;
        assert_eq!(made.status(), StatusCode::CREATED);
    }
    let mut names = Vec::new();
    let mut path = "/api-keys?limit=7".to_owned();
    loop {
        let page = json_of(world.get(&path).await).await;
        let keys = page["api_keys"].as_array().expect("keys");
        assert!(keys.len() <= 7);
        names.extend(keys.iter().map(|key| key["name"].as_str().expect("a name").to_owned()));
        // A key that is made meanwhile is on no page that is still to come.
        if names.len() == 14 {
            world.post("/api-keys", json!({"name": "late", "role": "member"})).await;
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api-keys?limit=7&cursor={cursor}");
    }
    let newest: Vec<String> = (0..60).rev().map(|number| format!("ci-{number}")).collect();
    assert_eq!((names.len(), &names[..60]), (60 + before, &newest[..]));
    let whole = json_of(world.get("/api-keys").await).await;
    assert_eq!((whole["api_keys"].as_array().map(Vec::len), whole["next_cursor"].is_null()), (Some(61 + before), true));
    for wrong in ["limit=0", "limit=1001", "cursor=x", "cursor=bm9ib2R5", "page=2"] {
        assert_eq!(refusal(world.get(&format!("/api-keys?{wrong}")).await).await, "invalid-request", "{wrong}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_key_is_made_listed_without_its_secret_and_revoked() {
    let world = World::start().await;
    let made =
        json_of(world.post("/api-keys", json!({"name": "ci", "role": "member", "expires_in_days": 30})).await).await;
    let key = made["key"].as_str().expect("a secret");
    assert!(key.starts_with("ud_key_") && node_registry::is_valid_api_key(&world.store, key).await.expect("read"));
    let listed = world.get("/api-keys").await.text().await.expect("text");
    assert!(listed.contains("\"ci\"") && !listed.contains(key), "{listed}");
    let path = format!("/api-keys/{}", made["id"].as_str().expect("an id"));
    assert_eq!(world.delete(&path).await.status(), StatusCode::NO_CONTENT);
    assert!(!node_registry::is_valid_api_key(&world.store, key).await.expect("read"));
    assert_eq!(refusal(world.delete("/api-keys/x").await).await, "no-such-token");
    for wrong in [
        json!({"name": "", "role": "member"}),
        json!({"name": "x", "role": "owner"}),
        json!({"name": "x", "role": "member", "expires_in_days": 0}),
        json!({"name": "x", "role": "member", "expires_in_days": 99_999}),
        json!({"name": "x"}),
    ] {
        assert_eq!(refusal(world.post("/api-keys", wrong.clone()).await).await, "invalid-request", "{wrong}");
    }
    let nowhere = json!({"name": "x", "role": "member", "project": "nowhere"});
    assert_eq!(refusal(world.post("/api-keys", nowhere).await).await, "no-such-project");
    world.stop().await;
}

#[tokio::test]
async fn only_an_admin_issues_revokes_and_drains() {
    let world = World::start().await;
    let (id, _) = world.node("lab-5").await;
    let routes = [
        (Method::POST, "/node-tokens".to_owned(), Some(json!({"name": "x"}))),
        (Method::GET, "/node-tokens".into(), None),
        (Method::DELETE, "/node-tokens/lab-5".into(), None),
        (Method::POST, format!("/nodes/{id}/drain"), Some(json!({}))),
        (Method::POST, format!("/nodes/{id}/resume"), Some(json!({}))),
        (Method::POST, "/api-keys".into(), Some(json!({"name": "x", "role": "admin"}))),
        (Method::GET, "/api-keys".into(), None),
        (Method::DELETE, "/api-keys/01a20390-8054-7c41-9d2f-6b0e41c7a93d".into(), None),
    ];
    for role in ["member", "viewer"] {
        for (method, path, body) in &routes {
            let refused = world.as_role(role, method.clone(), path, body.clone()).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{role} {method} {path}");
            assert_eq!(json_of(refused).await["needs"], "admin");
        }
        assert_eq!(world.as_role(role, Method::GET, "/nodes", None).await.status(), StatusCode::OK);
    }
    world.stop().await;
}

#[tokio::test]
async fn the_first_admin_key_lets_in_until_it_is_revoked() {
    let world = World::start().await;
    let key = node_registry::create_admin_key(&world.store, "admin").await.expect("made");
    assert!(node_registry::is_valid_api_key(&world.store, &key).await.expect("read"));
    world.database.execute("UPDATE api_keys SET revoked_at = now()").await;
    for text in [key.as_str(), "", "ud_key_x", "admin"] {
        assert!(!node_registry::is_valid_api_key(&world.store, text).await.expect("read"), "{text}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_local_node_whose_token_is_lost_is_replaced() {
    let world = World::start().await;
    let first = node_registry::replace_node(&world.store, "local").await.expect("made");
    let second = node_registry::replace_node(&world.store, "local").await.expect("replaced");
    assert!(!node_registry::is_valid_node_token(&world.store, &first).await.expect("read"));
    assert!(node_registry::is_valid_node_token(&world.store, &second).await.expect("read"));
    world.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full() {
    let world = World::start().await;
    world
        .database
        .execute(
            "CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER disk_is_full BEFORE INSERT ON node_tokens EXECUTE FUNCTION disk_is_full()",
        )
        .await;
    let refused = world.post("/node-tokens", json!({"name": "lab-8"})).await;
    assert_eq!(refused.headers()["retry-after"], "60");
    assert_eq!(refusal(refused).await, "storage-full");
    assert_eq!(world.get("/node-tokens").await.status(), StatusCode::OK);
    world.stop().await;
}
