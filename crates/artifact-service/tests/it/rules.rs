//! Rules about how long artifacts are kept.

use crate::world::{Kind, MEMBER, STRANGER, VIEWER, World, eventually, good, refusal, times, word};
use artifact_service::Times;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// The names and versions that anyone can still name.
async fn kept(world: &World) -> Vec<String> {
    let listed = world.get("/artifacts?state=ready&limit=100").await;
    let artifacts = listed["artifacts"].as_array().expect("a list");
    let name = |a: &Value| format!("{}@{}", a["name"].as_str().expect("a name"), a["version"]);
    let mut names: Vec<String> = artifacts.iter().map(name).collect();
    names.sort();
    names
}

async fn add(world: &World, rule: Value) -> Value {
    let made = world.ask(MEMBER, Method::POST, "/artifact-rules", Some(json!({ "rule": rule }))).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    made.json().await.expect("a rule")
}

fn apply(world: &World) {
    world.collect(Times { rules_every: Duration::from_millis(100), ..times() });
}

pub(crate) async fn rules_remove_what_they_say_and_nothing_else(world: &World) {
    for version in 1..=4 {
        world.put("nightly-vit", format!("vit {version}").as_bytes()).await;
    }
    world.put("nightly-bert", b"bert").await;
    world.put("release", b"1").await;
    world.put("release", b"2").await;
    world.post("/artifacts/nightly-vit@1/pin", json!({})).await;
    // Nobody can name it any more, so it is none of the newest two.
    good(world.ask(MEMBER, Method::DELETE, "/artifacts/nightly-vit@4", None).await).await;
    let rule = json!({ "name": "nightly-*", "keep_last": 1 });

    let preview = world.post("/artifact-rules:preview", json!({ "rule": rule })).await;
    assert_eq!(preview["artifacts"], json!(["nightly-vit@2"]));
    assert_eq!(preview["bytes"], json!("vit 2".len()));
    assert_eq!(kept(world).await.len(), 6, "a look removes nothing");

    let made = add(world, rule.clone()).await;
    assert_eq!((&made["rule"], &made["created_by"]), (&rule, &json!("ana")));
    // What is of another age is not concerned.
    add(world, json!({ "older_than_ms": 86_400_000 })).await;
    apply(world);
    let left = ["nightly-bert@1", "nightly-vit@1", "nightly-vit@3", "release@1", "release@2"];
    eventually("the rule is applied", async || kept(world).await == left).await;
    eventually("its bytes are gone", async || {
        world.get("/artifacts?state=deleted").await["artifacts"].as_array().is_some_and(|gone| gone.len() == 2)
    })
    .await;
    // The next one pushes the third out, and nothing touches what is pinned.
    world.put("nightly-vit", b"vit 5").await;
    let left = ["nightly-bert@1", "nightly-vit@1", "nightly-vit@5", "release@1", "release@2"];
    eventually("it is applied again", async || kept(world).await == left).await;
    world.post("/artifacts/nightly-vit@1/unpin", json!({})).await;
    eventually("what is pinned no more goes too", async || !kept(world).await.contains(&"nightly-vit@1".to_owned()))
        .await;

    let id = made["id"].as_str().expect("an id").to_owned();
    let removed = world.ask(MEMBER, Method::DELETE, &format!("/artifact-rules/{id}"), None).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    assert_eq!(world.get("/artifact-rules").await["rules"].as_array().expect("a list").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_would_remove_everything_is_refused_with_its_place() {
    let world = World::start(Kind::Embedded).await;
    for (rule, pointer) in [
        (json!({}), "#/rule"),
        (json!({ "keep_last": 0 }), "#/rule/keep_last"),
        (json!({ "older_than_ms": 5 }), "#/rule/older_than"),
        (json!({ "name": "a/b", "keep_last": 1 }), "#/rule/name"),
    ] {
        let asked = world.ask(MEMBER, Method::POST, "/artifact-rules", Some(json!({ "rule": rule.clone() }))).await;
        let (word, problem) = refusal(asked).await;
        assert_eq!((word.as_str(), &problem["errors"][0]["pointer"]), ("invalid-request", &json!(pointer)), "{rule}");
    }
    let typo = json!({ "rule": { "keep_lats": 3, "older_than_ms": 90_000_000 } });
    assert_eq!(word(world.ask(MEMBER, Method::POST, "/artifact-rules", Some(typo))).await, "invalid-request");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_of_one_project_and_viewers_only_look() {
    let world = World::start(Kind::Embedded).await;
    world.put("ours", b"1").await;
    world.put("ours", b"2").await;
    let id = add(&world, json!({ "keep_last": 2 })).await["id"].as_str().expect("an id").to_owned();
    let theirs = json!({ "rule": { "keep_last": 1 } });
    let made = world.ask(STRANGER, Method::POST, "/artifact-rules", Some(theirs.clone())).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let seen = good(world.ask(STRANGER, Method::GET, "/artifact-rules", None).await).await;
    assert_eq!(seen["rules"].as_array().expect("a list").len(), 1, "{seen}");
    let path = format!("/artifact-rules/{id}");
    assert_eq!(word(world.ask(STRANGER, Method::DELETE, &path, None)).await, "no-such-rule");
    assert_eq!(word(world.ask(VIEWER, Method::DELETE, &path, None)).await, "not-permitted");
    assert_eq!(word(world.ask(VIEWER, Method::POST, "/artifact-rules", Some(theirs))).await, "not-permitted");
    assert_eq!(word(world.ask(VIEWER, Method::POST, "/artifacts/ours/pin", None)).await, "not-permitted");
    assert_eq!(world.ask(VIEWER, Method::GET, "/artifact-rules", None).await.status(), StatusCode::OK);
    apply(&world);
    // Their rule keeps one version, and ours, which keeps two, is what counts here: a third pushes out the first only.
    world.put("ours", b"3").await;
    eventually("our rule is applied", async || kept(&world).await == ["ours@2", "ours@3"]).await;
    world.stop().await;
}
