//! How an upload goes, and how it goes on.

use crate::world::{MEMBER, PART, World, bytes, cut, good, id_of, refusal, sha256, word};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(crate) async fn what_goes_in_comes_out(world: &World) {
    let content = bytes(1, 100_000);
    let ready = world.put("model", &content).await;
    assert_eq!((&ready["state"], &ready["version"], &ready["name"]), (&json!("ready"), &json!(1), &json!("model")));
    assert_eq!((&ready["size"], &ready["sha256"]), (&json!(100_000), &json!(sha256(&content))));
    for name in ["model", "model@latest", "model@1", &format!("sha256:{}", sha256(&content)), &id_of(&ready)] {
        assert_eq!(id_of(&world.get(&format!("/artifacts/{name}")).await), id_of(&ready), "{name}");
    }
    assert_eq!(world.bytes_of("model").await, content);
}

pub(crate) async fn an_artifact_without_a_byte_is_one(world: &World) {
    let ready = world.put("empty", b"").await;
    assert_eq!((&ready["state"], &ready["size"]), (&json!("ready"), &json!(0)));
    assert!(world.bytes_of("empty").await.is_empty());
}

pub(crate) async fn many_parts_are_one_artifact(world: &World) {
    let content = bytes(2, 2 * PART + 1_000);
    let id = world.create(json!({ "name": "big", "size": content.len() })).await;
    let parts = cut(&content);
    // In any order, as they are sent at once.
    let mut stored = Vec::new();
    for at in [2, 0, 1] {
        stored.push(world.store_part(&id, parts[at].0, parts[at].1).await);
    }
    let (told, left) = stored.split_at(2);
    assert!(world.addresses(&id, told, &[]).await.is_empty());
    assert_eq!(world.get(&format!("/artifacts/{id}")).await["stored_bytes"], json!(PART + 1_000));
    let ready = good(world.complete(&id, &content, left).await).await;
    assert_eq!((&ready["state"], &ready["sha256"]), (&json!("ready"), &json!(sha256(&content))));
    assert_eq!(world.bytes_of("big").await, content);
    let get = world.download("big").await;
    for (asked, from, to) in [
        (format!("bytes={}-{}", PART - 2, PART + 1), PART - 2, PART + 2),
        (format!("bytes={}-", 2 * PART - 1), 2 * PART - 1, content.len()),
        ("bytes=-3".to_owned(), content.len() - 3, content.len()),
        ("bytes=0-0".to_owned(), 0, 1),
    ] {
        let answer = world.http.get(get["url"].as_str().expect("text")).header("range", &asked).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT, "{asked}");
        assert_eq!(&answer.bytes().await.expect("a body")[..], &content[from..to], "{asked}");
    }
    let beyond = format!("bytes={}-", content.len());
    let beyond = world.http.get(get["url"].as_str().expect("text")).header("range", beyond).send().await;
    assert_eq!(beyond.expect("an answer").status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

pub(crate) async fn a_size_that_nobody_knew_is_known_in_the_end(world: &World) {
    let created = world.post("/artifacts", json!({ "name": "stream", "kind": "directory" })).await;
    let (id, part_size) = (id_of(&created["artifact"]), created["part_size"].as_u64().expect("a size") as usize);
    let content = bytes(3, part_size + 5);
    let (first, last) = content.split_at(part_size);
    let stored = [world.store_part(&id, 1, first).await, world.store_part(&id, 2, last).await];
    let ready = good(world.complete(&id, &content, &stored).await).await;
    assert_eq!((&ready["size"], &ready["kind"]), (&json!(content.len()), &json!("directory")));
    assert_eq!(world.bytes_of("stream").await, content);
    // One that turns out to be small is put as it is, and one of exactly a part is one too.
    for content in [b"small".to_vec(), bytes(4, part_size)] {
        let id = world.create(json!({ "name": "stream" })).await;
        let stored = world.store_part(&id, 1, &content).await;
        good(world.complete(&id, &content, &[stored]).await).await;
        assert_eq!(world.bytes_of("stream").await, content);
    }
}

pub(crate) async fn an_upload_goes_on_where_it_was(world: &World) {
    let content = bytes(5, PART + 10);
    let body = json!({ "name": "data", "size": content.len() });
    let begin = async |body: &Value| {
        world.ask_with(MEMBER, Method::POST, "/artifacts", Some(body.clone()), Some("put-1")).await
    };
    let first = begin(&body).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let id = id_of(&good(first).await["artifact"]);
    let parts = cut(&content);
    let stored = world.store_part(&id, 1, parts[0].1).await;
    world.addresses(&id, &[stored], &[]).await;
    // The client starts again.
    let again = begin(&body).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let again = good(again).await;
    assert_eq!((id_of(&again["artifact"]), &again["artifact"]["stored_bytes"]), (id.clone(), &json!(PART)));
    let addresses = world.addresses(&id, &[], &parts).await;
    assert!(addresses[0].is_null() && addresses[1].is_object(), "{addresses:?}");
    let stored = world.store_part(&id, 2, parts[1].1).await;
    good(world.complete(&id, &content, &[stored]).await).await;
    assert_eq!(world.bytes_of("data").await, content);
    // Afterwards the same request is told that it is done; another one may not have its key.
    assert_eq!(good(begin(&body).await).await["artifact"]["state"], json!("ready"));
    let (word, problem) = refusal(begin(&json!({ "name": "other" })).await).await;
    assert_eq!((word.as_str(), &problem["first_artifact"]), ("idempotency-key-reused", &json!(id)));
}

pub(crate) async fn a_completion_may_be_repeated(world: &World) {
    let content = bytes(6, 1_000);
    let id = world.create(json!({ "name": "twice" })).await;
    let stored = [world.store_part(&id, 1, &content).await];
    let at_once = futures::future::join_all((0..4).map(|_| world.complete(&id, &content, &stored))).await;
    for answer in at_once {
        assert_eq!(good(answer).await["version"], json!(1));
    }
    assert_eq!(good(world.complete(&id, &content, &stored).await).await["version"], json!(1));
    assert_eq!(word(world.complete(&id, b"other", &[])).await, "upload-ended");
    let more = world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/parts"), Some(json!({}))).await;
    assert_eq!(refusal(more).await.0, "upload-ended");
}

pub(crate) async fn whoever_died_between_store_and_database_finds_it_done(world: &World) {
    let content = bytes(7, PART + 1);
    let id = world.create(json!({ "name": "crash", "size": content.len() })).await;
    let mut stored = Vec::new();
    for (number, part) in cut(&content) {
        stored.push(world.store_part(&id, number, part).await);
    }
    // As the service does it just before it dies.
    let uploads =
        world.raw.list_multipart_uploads().bucket(&world.bucket).prefix("objects/").send().await.expect("listed");
    let upload = &uploads.uploads()[0];
    let parts = stored.iter().zip(cut(&content)).map(|(part, (number, bytes))| {
        use base64::Engine as _;
        use sha2::Digest as _;
        let sum = base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(bytes));
        let etag = part["etag"].as_str().expect("text");
        CompletedPart::builder().part_number(number as i32).e_tag(etag).checksum_sha256(sum).build()
    });
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
    let gathered = world.raw.complete_multipart_upload().bucket(&world.bucket).multipart_upload(parts);
    let gathered = gathered.key(upload.key().expect("a key")).upload_id(upload.upload_id().expect("an id"));
    gathered.send().await.expect("put together");
    let ready = good(world.complete(&id, &content, &stored).await).await;
    assert_eq!(ready["state"], json!("ready"));
    assert_eq!(world.bytes_of("crash").await, content);
}

pub(crate) async fn what_the_store_has_lost_is_uploaded_anew(world: &World) {
    let content = bytes(8, PART + 1);
    let id = world.create(json!({ "name": "lost", "size": content.len() })).await;
    let mut stored = Vec::new();
    for (number, part) in cut(&content) {
        stored.push(world.store_part(&id, number, part).await);
    }
    let uploads =
        world.raw.list_multipart_uploads().bucket(&world.bucket).prefix("objects/").send().await.expect("listed");
    let upload = &uploads.uploads()[0];
    let abort = world.raw.abort_multipart_upload().bucket(&world.bucket).key(upload.key().expect("a key"));
    abort.upload_id(upload.upload_id().expect("an id")).send().await.expect("aborted");
    let (word, problem) = refusal(world.complete(&id, &content, &stored).await).await;
    assert_eq!((word.as_str(), &problem["missing"]), ("upload-incomplete", &json!([1, 2])));
    // Also what never was there at all, though it was said to be.
    let small = world.create(json!({ "name": "never", "size": 3 })).await;
    world.addresses(&small, &[], &[(1, b"abc")]).await;
    let claimed = json!({ "number": 1, "etag": "\"900150983cd24fb0d6963f7d28e17f72\"" });
    assert_eq!(refusal(world.complete(&small, b"abc", &[claimed]).await).await.0, "upload-incomplete");
    // The same upload goes on to its end.
    let mut stored = Vec::new();
    for (number, part) in cut(&content) {
        stored.push(world.store_part(&id, number, part).await);
    }
    good(world.complete(&id, &content, &stored).await).await;
    assert_eq!(world.bytes_of("lost").await, content);
}

pub(crate) async fn uploads_of_one_name_get_a_version_each(world: &World) {
    let contents: Vec<Vec<u8>> = (0..6).map(|seed| bytes(seed, 2_000)).collect();
    let at_once = futures::future::join_all(contents.iter().map(|content| world.put("race", content))).await;
    let versions: BTreeSet<u64> = at_once.iter().filter_map(|ready| ready["version"].as_u64()).collect();
    assert_eq!(versions, (1..=6).collect());
    for (content, ready) in contents.iter().zip(&at_once) {
        assert_eq!(world.bytes_of(&format!("race@{}", ready["version"])).await, *content);
    }
}

pub(crate) async fn a_store_that_is_away_stops_nothing_for_good(world: &World) {
    let content = bytes(9, PART + 1);
    let id = world.create(json!({ "name": "patient", "size": content.len() })).await;
    let away = async |answer: reqwest::Response| {
        assert!(answer.headers().contains_key("retry-after"));
        refusal(answer).await.0
    };
    world.gate.shut();
    let parts = cut(&content);
    let body = json!({ "wanted": [crate::world::wanted(1, parts[0].1)] });
    let refused = world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/parts"), Some(body)).await;
    assert_eq!(away(refused).await, "object-store-away");
    world.gate.open();
    let mut stored = Vec::new();
    for (number, part) in parts {
        stored.push(world.store_part(&id, number, part).await);
    }
    world.gate.shut();
    assert_eq!(away(world.complete(&id, &content, &stored).await).await, "object-store-away");
    world.gate.open();
    good(world.complete(&id, &content, &[]).await).await;
    assert_eq!(world.bytes_of("patient").await, content);
}
