//! What is deleted, when, and what is found to be wrong.

use crate::world::{ADMIN, MEMBER, PART, World, bytes, eventually, good, id_of, refusal, times, word};
use artifact_service::Times;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

pub(crate) async fn equal_content_is_kept_once(world: &World) {
    let content = bytes(1, 3_000);
    world.put("one", &content).await;
    world.put("two", &content).await;
    assert_eq!(world.keys().await.len(), 2);
    world.collect(times());
    eventually("one of both is deleted", async || world.keys().await.len() == 1).await;
    for name in ["one", "two"] {
        assert_eq!(world.bytes_of(name).await, content);
    }
    // Never across projects: there is no telling from it that another one has the same.
    let id = id_of(
        &good(world.ask(crate::world::STRANGER, Method::POST, "/artifacts", Some(json!({ "name": "one" }))).await)
            .await["artifact"],
    );
    let parts = json!({ "wanted": [crate::world::wanted(1, &content)] });
    let parts = world.ask(crate::world::STRANGER, Method::POST, &format!("/artifacts/{id}/parts"), Some(parts)).await;
    let put = good(parts).await["parts"][0]["put"].clone();
    let answer = world.send(&put, content.clone()).await;
    let etag = answer.headers()["etag"].to_str().expect("text");
    let whole =
        json!({ "size": 3_000, "sha256": crate::world::sha256(&content), "stored": [{ "number": 1, "etag": etag }] });
    let done = world.ask(crate::world::STRANGER, Method::POST, &format!("/artifacts/{id}/complete"), Some(whole)).await;
    assert_eq!(good(done).await["project"], json!("other"));
    assert_eq!(world.keys().await.len(), 2);
}

pub(crate) async fn content_that_was_lost_and_is_put_again_is_kept(world: &World) {
    let content = bytes(9, 3_000);
    world.put("lost", &content).await;
    let key = world.store.object_key(world.object_of("lost").await).await.expect("read").expect("there");
    world.raw.delete_object().bucket(&world.bucket).key(&key).send().await.expect("deleted");
    world.put("again", &content).await;
    world.collect(times());
    assert_eq!(world.bytes_of("again").await, content);
    let refused = world.ask(MEMBER, Method::POST, "/artifacts/lost@1/download", None).await;
    assert_eq!(refusal(refused).await.0, "artifact-not-ready");
    assert_eq!(world.keys().await.len(), 1);
}

pub(crate) async fn what_is_removed_goes_in_two_steps(world: &World) {
    let content = bytes(2, 3_000);
    let (a, b) = (world.put("a", &content).await, world.put("b", &content).await);
    let older = world.put("a", b"newer").await;
    let remove =
        async |name: &str| good(world.ask(MEMBER, Method::DELETE, &format!("/artifacts/{name}"), None).await).await;
    let state = async |artifact: &Value| world.get(&format!("/artifacts/{}", id_of(artifact))).await["state"].clone();
    // The newest goes: its name means the one before.
    assert_eq!(remove("a").await["state"], json!("expired"));
    assert_eq!(id_of(&world.get("/artifacts/a").await), id_of(&a));
    assert_eq!(remove("a@1").await["state"], json!("expired"));
    assert_eq!(remove(&id_of(&a)).await["state"], json!("expired"), "once more");
    assert_eq!(word(world.ask(MEMBER, Method::GET, "/artifacts/a", None)).await, "no-such-artifact");
    assert_eq!(state(&a).await, json!("expired"));
    world.collect(times());
    eventually("nothing is left of a", async || {
        state(&a).await == json!("deleted") && state(&older).await == json!("deleted")
    })
    .await;
    assert_eq!(world.bytes_of("b").await, content, "which has the same bytes");
    // A version is never used twice.
    assert_eq!(world.put("a", &content).await["version"], json!(3));
    remove("a").await;
    remove("b").await;
    eventually("nothing is left of b", async || state(&b).await == json!("deleted") && world.keys().await.is_empty())
        .await;
    // An upload can be removed, too.
    let id = world.create(json!({ "name": "half", "size": PART + 1 })).await;
    world.store_part(&id, 1, &bytes(3, PART)).await;
    assert_eq!(remove(&id).await["state"], json!("expired"));
    let late = world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/parts"), Some(json!({}))).await;
    assert_eq!(refusal(late).await.0, "upload-ended");
    eventually("its parts are deleted", async || world.begun_uploads().await == 0).await;
    let listed = world.get("/artifacts?state=deleted").await;
    assert!(listed["artifacts"].as_array().expect("a list").len() >= 4, "{listed}");
}

pub(crate) async fn an_upload_that_nobody_goes_on_with_is_given_up(world: &World) {
    let body = json!({ "name": "idle", "size": PART + 1 });
    let begin =
        async || good(world.ask_with(MEMBER, Method::POST, "/artifacts", Some(body.clone()), Some("k")).await).await;
    let id = id_of(&begin().await["artifact"]);
    world.store_part(&id, 1, &bytes(4, PART)).await;
    assert_eq!(world.begun_uploads().await, 1);
    // One that was begun and whose name was lost with whoever began it.
    let lost = world.raw.create_multipart_upload().bucket(&world.bucket).key(format!("objects/{}", Uuid::new_v4()));
    lost.send().await.expect("begun");
    world.collect(Times { idle_upload: Duration::ZERO, stray: Duration::from_millis(500), ..times() });
    eventually("both uploads are given up", async || world.begun_uploads().await == 0).await;
    eventually("it is deleted", async || world.get(&format!("/artifacts/{id}")).await["state"] == json!("deleted"))
        .await;
    // Its key may be used for a new one.
    assert_ne!(id_of(&begin().await["artifact"]), id);
}

pub(crate) async fn a_check_finds_what_is_missing_and_what_belongs_to_nothing(world: &World) {
    let check = async |asked: Value| good(world.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(asked)).await).await;
    let (lost, sound, longer, rotten) = (bytes(5, 100), bytes(6, PART + 1), bytes(7, 300), bytes(8, 400));
    for (name, content) in [("lost", &lost), ("sound", &sound), ("longer", &longer), ("rotten", &rotten)] {
        world.put(name, content).await;
    }
    let clean = check(json!({ "read": true })).await;
    assert_eq!((&clean["objects"], &clean["findings"], &clean["next_cursor"]), (&json!(4), &json!([]), &Value::Null));
    assert_eq!(clean["bytes"], json!(100 + PART + 1 + 300 + 400));
    // Four faults are planted.
    let of = |name: &str| format!("SELECT object_id FROM artifacts WHERE name = '{name}'");
    let key = world.store.object_key(world.object_of("lost").await).await.expect("read").expect("there");
    world.raw.delete_object().bucket(&world.bucket).key(key).send().await.expect("deleted");
    world.database.execute(&format!("UPDATE artifact_objects SET size = 301 WHERE id = ({})", of("longer"))).await;
    world
        .database
        .execute(&format!(
            "UPDATE artifact_objects SET sha256 = decode(repeat('00', 32), 'hex') WHERE id = ({})",
            of("rotten")
        ))
        .await;
    let stray = format!("objects/{}", Uuid::new_v4());
    world.raw.put_object().bucket(&world.bucket).key(&stray).body(vec![1].into()).send().await.expect("put");
    let kinds = |report: &Value| {
        let mut kinds: Vec<(String, String)> = report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|finding| {
                (
                    finding["kind"].as_str().expect("text").to_owned(),
                    finding["artifacts"][0].as_str().unwrap_or("").to_owned(),
                )
            })
            .collect();
        kinds.sort();
        kinds
    };
    let pair = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let found = [pair("missing", "lost@1"), pair("wrong_bytes", "rotten@1"), pair("wrong_size", "longer@1")];
    assert_eq!(kinds(&check(json!({ "read": true })).await), found, "what is new may be of an upload");
    assert_eq!(kinds(&check(json!({})).await), [found[0].clone(), found[2].clone()], "bytes are not read");
    // As it is a day later.
    let later = world.with_times(Times { stray: Duration::ZERO, ..times() }).await;
    eventually("the stray object is old enough", async || {
        let report = good(later.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(json!({}))).await).await;
        kinds(&report) == [found[0].clone(), pair("stray", ""), found[2].clone()]
    })
    .await;
    let repaired =
        later.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(json!({ "read": true, "repair": true }))).await;
    let repaired = good(repaired).await;
    assert!(
        repaired["findings"].as_array().expect("a list").iter().all(|finding| finding["repaired"] == json!(true)),
        "{repaired}"
    );
    for name in ["lost", "longer", "rotten"] {
        let (word_of, problem) =
            refusal(world.ask(MEMBER, Method::POST, &format!("/artifacts/{name}@1/download"), None).await).await;
        assert_eq!((word_of.as_str(), &problem["state"]), ("artifact-not-ready", &json!("corrupt")), "{name}");
    }
    assert_eq!(world.bytes_of("sound").await, sound);
    // The same content, put in again, is not shared with what is corrupt.
    world.put("lost", &lost).await;
    assert_eq!(world.bytes_of("lost").await, lost);
    world.collect(times());
    eventually("the stray object is deleted", async || !world.keys().await.contains(&stray)).await;
    later.service.stop_within(Duration::from_secs(10)).await;
}
