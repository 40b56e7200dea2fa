//! Who gets in, with what, and how soon not any more.

use crate::world::{World, eventually, json_of, ls, make_key, problem, word};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::{ids::DEFAULT_PROJECT, principal::Role};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use service_kit::secret::{self, Kind};
use std::time::Duration;
use uuid::Uuid;

async fn status(world: &World, credential: &str) -> StatusCode {
    world.request(Method::GET, "/tasks", credential).send().await.expect("an answer").status()
}

async fn token(world: &World, key: &str) -> String {
    let response = world
        .http
        .post(format!("{}/auth/token", world.url))
        .json(&json!({"api_key": key}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let answer = json_of(response).await;
    assert_eq!((&answer["token_type"], &answer["expires_in_s"]), (&json!("Bearer"), &json!(900)));
    answer["access_token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_key_and_the_token_made_from_it_are_the_same_caller() {
    let world = World::start().await;
    let token = token(&world, &world.member).await;
    for credential in [&world.member, &token] {
        let me = json_of(world.request(Method::GET, "/auth/whoami", credential).send().await.expect("an answer")).await;
        assert_eq!(
            (&me["kind"], &me["name"], &me["role"], &me["project"]),
            (&json!("api_key"), &json!("ana"), &json!("member"), &json!("default"))
        );
    }
    let admin =
        json_of(world.request(Method::GET, "/auth/whoami", &world.admin).send().await.expect("an answer")).await;
    assert!(admin["project"].is_null(), "an admin acts in all projects");
    world.stop().await;
}

#[tokio::test]
async fn whoever_is_nobody_is_told_so_alike() {
    let world = World::start().await;
    let (node, _) = secret::issue(Kind::Node, Uuid::now_v7());
    let (unknown, _) = secret::issue(Kind::ApiKey, Uuid::now_v7());
    let mut mistyped = world.member.clone();
    mistyped.replace_range(mistyped.len() - 1.., if mistyped.ends_with('x') { "y" } else { "x" });
    // The id of a real key with another secret, its checksum right.
    let (id, _) = secret::parse(Kind::ApiKey, &world.member).expect("a key");
    let (wrong_secret, _) = secret::issue(Kind::ApiKey, id);
    let expired = make_key(&world.store, "old", Role::Admin, DEFAULT_PROJECT, Some(1)).await;
    world.database.execute("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE name = 'old'").await;
    for credential in
        [&node, &unknown, &mistyped, &wrong_secret, &expired.1, "ud_key_", "x", "a.b.c", &"x".repeat(5_000)]
    {
        let shown: String = credential.chars().take(12).collect();
        let refused = problem(world.request(Method::GET, "/tasks", credential).send().await.expect("an answer")).await;
        assert_eq!(word(&refused), "not-authenticated", "{shown}");
    }
    insta::assert_json_snapshot!(
        "invalid_key",
        problem(world.request(Method::GET, "/tasks", &unknown).send().await.expect("an answer")).await
    );
    insta::assert_json_snapshot!(
        "node_token",
        problem(world.request(Method::GET, "/tasks", &node).send().await.expect("an answer")).await
    );
    let none = world.http.get(format!("{}/tasks", world.url)).send().await.expect("an answer");
    insta::assert_json_snapshot!("no_credential", problem(none).await);
    world.stop().await;
}

#[tokio::test]
async fn every_route_asks_who_it_is() {
    let world = World::start().await;
    let id = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";
    let routes = [
        (Method::GET, "/tasks".to_owned()),
        (Method::POST, "/tasks".into()),
        (Method::POST, "/tasks:batch".into()),
        (Method::GET, format!("/tasks/{id}")),
        (Method::POST, format!("/tasks/{id}/cancel")),
        (Method::POST, format!("/tasks/{id}/retry")),
        (Method::GET, format!("/tasks/{id}/events")),
        (Method::GET, format!("/tasks/{id}/logs")),
        (Method::GET, format!("/tasks/{id}/why")),
        (Method::GET, "/cluster/status".into()),
        (Method::GET, "/cluster/checks".into()),
        (Method::GET, "/cluster/echo".into()),
        (Method::GET, "/events".into()),
        (Method::GET, "/audit/invariants".into()),
        (Method::GET, "/auth/whoami".into()),
        (Method::GET, "/panic".into()),
    ];
    for (method, path) in routes {
        let url = format!("{}{path}?token={k}&access_token={k}&api_key={k}", world.url, k = world.admin);
        let refused = problem(world.http.request(method.clone(), url).send().await.expect("an answer")).await;
        assert_eq!(word(&refused), "not-authenticated", "{method} {path}");
    }
    for scheme in ["Basic", "Token", ""] {
        let value = format!("{scheme} {}", world.admin);
        let refused = world.http.get(format!("{}/tasks", world.url)).header("authorization", value.trim()).send().await;
        assert_eq!(refused.expect("an answer").status(), StatusCode::UNAUTHORIZED, "{scheme:?}");
    }
    let twice = world.request(Method::GET, "/tasks", &world.admin).header("authorization", "Bearer x").send().await;
    assert_eq!(twice.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    world.stop().await;
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let world = World::start().await;
    let task = world.submit(&ls()).await;
    let as_viewer = async |method: Method, path: String| {
        world.request(method, &path, &world.viewer).json(&ls()).send().await.expect("an answer")
    };
    for path in ["/tasks".to_owned(), format!("/tasks/{task}"), format!("/tasks/{task}/why"), "/cluster/status".into()]
    {
        assert_eq!(as_viewer(Method::GET, path.clone()).await.status(), StatusCode::OK, "{path}");
    }
    for path in
        ["/tasks".to_owned(), "/tasks:batch".into(), format!("/tasks/{task}/cancel"), format!("/tasks/{task}/retry")]
    {
        let refused = problem(as_viewer(Method::POST, path.clone()).await).await;
        assert_eq!((word(&refused), &refused["needs"]), ("not-permitted", &json!("member")), "{path}");
    }
    insta::assert_json_snapshot!("not_permitted", problem(as_viewer(Method::POST, "/tasks".into()).await).await);
    world.stop().await;
}

#[tokio::test]
async fn a_revoked_key_stops_at_once_here_and_within_five_seconds_elsewhere() {
    let world = World::start().await;
    let (here, here_key) = make_key(&world.store, "here", Role::Member, DEFAULT_PROJECT, None).await;
    let (there, there_key) = make_key(&world.store, "there", Role::Member, DEFAULT_PROJECT, None).await;
    let (here_token, there_token) = (token(&world, &here_key).await, token(&world, &there_key).await);
    for credential in [&here_key, &there_key, &here_token, &there_token] {
        assert_eq!(status(&world, credential).await, StatusCode::OK);
    }
    world.store.revoke_api_key(here, &crate::world::origin()).await.expect("revoked");
    let took = eventually("it is refused", async || status(&world, &here_key).await == StatusCode::UNAUTHORIZED).await;
    assert!(took < Duration::from_secs(1), "a wake-up is heard at once: {took:?}");
    assert_eq!(status(&world, &here_token).await, StatusCode::UNAUTHORIZED);

    // Another process, whose wake-ups do not reach this one.
    for credential in [&there_key, &there_token] {
        assert_eq!(status(&world, credential).await, StatusCode::OK);
    }
    let other = world.other_process().await;
    other.revoke_api_key(there, &crate::world::origin()).await.expect("revoked");
    let took = eventually("it is refused", async || status(&world, &there_key).await == StatusCode::UNAUTHORIZED).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(status(&world, &there_token).await, StatusCode::UNAUTHORIZED);
    world.stop().await;
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let world = World::start().await;
    let good = token(&world, &world.admin).await;
    let parts: Vec<&str> = good.split('.').collect();
    let decode = |part: &str| -> Value {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
    };
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let (header, claims) = (decode(parts[0]), decode(parts[1]));
    let changed = |value: &Value, name: &str, new: Value| {
        let mut value = value.clone();
        value[name] = new;
        value
    };
    let mut forged = vec![format!("{}.{}.", parts[0], parts[1]), format!("{}.{}", parts[0], parts[1])];
    for alg in ["none", "None", "nOnE"] {
        forged.push(format!("{}.{}.", encode(&changed(&header, "alg", json!(alg))), parts[1]));
        forged.push(format!("{}.{}.{}", encode(&changed(&header, "alg", json!(alg))), parts[1], parts[2]));
    }
    for kid in ["../../dev/null", "' OR 1=1", ""] {
        forged.push(format!("{}.{}.{}", encode(&changed(&header, "kid", json!(kid))), parts[1], parts[2]));
    }
    for (name, new) in [
        ("aud", json!("other")),
        ("exp", json!("9999999999")),
        ("exp", json!(9_999_999_999u64)),
        ("role", json!("admin ")),
    ] {
        forged.push(format!("{}.{}.{}", parts[0], encode(&changed(&claims, name, new)), parts[2]));
    }
    for token in forged {
        assert_eq!(status(&world, &token).await, StatusCode::UNAUTHORIZED, "{token}");
    }
    assert_eq!(status(&world, &good).await, StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn an_expired_token_says_that_it_expired() {
    let world = World::start().await;
    let good = token(&world, &world.member).await;
    let key = world.store.jwt_keys(&store::JwtKey { kid: "x".into(), secret: vec![0; 32] }).await.expect("read");
    let payload = BASE64_URL_SAFE_NO_PAD.decode(good.split('.').nth(1).expect("three parts")).expect("base64");
    let mut claims: Value = serde_json::from_slice(&payload).expect("JSON");
    for name in ["iat", "exp"] {
        claims[name] = json!(claims[name].as_i64().expect("seconds") - 900 - 12 * 60);
    }
    let header = jsonwebtoken::decode_header(&good).expect("a header");
    let old =
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_secret(&key[0].secret)).expect("signs");
    let refused = problem(world.request(Method::GET, "/tasks", &old).send().await.expect("an answer")).await;
    assert_eq!(word(&refused), "token-expired");
    assert!(refused["detail"].as_str().expect("text").starts_with("The token expired 12m 0"), "{refused}");
    assert_eq!(refused["errors"][0]["header"], "Authorization");
    world.stop().await;
}

#[tokio::test]
async fn an_exchange_takes_a_valid_key_and_nothing_else() {
    let world = World::start().await;
    let exchange = async |body: Value| {
        world.http.post(format!("{}/auth/token", world.url)).json(&body).send().await.expect("an answer")
    };
    assert_eq!(word(&problem(exchange(json!({"api_key": "ud_key_x"})).await).await), "not-authenticated");
    assert_eq!(
        word(&problem(exchange(json!({"api_key": world.member, "role": "admin"})).await).await),
        "invalid-request"
    );
    assert_eq!(word(&problem(exchange(json!({"api_key": 7})).await).await), "invalid-request");
    // A token is not exchanged for another one, which would make it last for ever.
    let token = token(&world, &world.member).await;
    assert_eq!(word(&problem(exchange(json!({"api_key": token})).await).await), "not-authenticated");
    world.stop().await;
}
