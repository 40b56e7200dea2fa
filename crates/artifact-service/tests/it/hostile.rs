//! What an address must not be good for.

use crate::world::{MEMBER, PART, World, bytes, cut, eventually, good, refusal, wanted, word};
use artifact_service::Times;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;

pub(crate) async fn other_bytes_than_announced_are_refused(world: &World) {
    // As one object, and as a part of several.
    for content in [bytes(1, 5_000), bytes(2, PART + 10)] {
        let id = world.create(json!({ "name": "true", "size": content.len() })).await;
        let mut stored = Vec::new();
        for (number, part) in cut(&content) {
            let put = world.addresses(&id, &[], &[(number, part)]).await.remove(0);
            let mut other = part.to_vec();
            other[0] ^= 1;
            let same_size = world.send(&put, other).await.status();
            assert!(same_size.is_client_error(), "other bytes: {same_size}");
            let longer = world.send(&put, [part, b"more"].concat()).await.status();
            assert!(longer.is_client_error(), "more bytes: {longer}");
            let shorter = world.send(&put, part[..part.len() - 1].to_vec()).await.status();
            assert!(shorter.is_client_error(), "fewer bytes: {shorter}");
            // Without the checksum that was signed, or with another one.
            let bare = world.http.put(put["url"].as_str().expect("text")).body(part.to_vec()).send().await;
            assert_eq!(bare.expect("an answer").status(), StatusCode::FORBIDDEN);
            let lied = world.http.put(put["url"].as_str().expect("text"));
            let lied = lied.header("x-amz-checksum-sha256", "qUiQTy8PR5uPgZdpSzAYSw0u0cHNKh7A+4XSmaGSpEc=");
            assert_eq!(lied.body(part.to_vec()).send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
        }
        assert_eq!(refusal(world.complete(&id, &content, &[]).await).await.0, "upload-incomplete");
        for (number, part) in cut(&content) {
            stored.push(world.store_part(&id, number, part).await);
        }
        good(world.complete(&id, &content, &stored).await).await;
        assert_eq!(world.bytes_of("true").await, content);
    }
}

pub(crate) async fn an_address_is_good_for_one_thing_only(world: &World) {
    let content = bytes(3, 1_000);
    world.put("kept", &content).await;
    let id = world.create(json!({ "name": "new", "size": content.len() })).await;
    let put = world.addresses(&id, &[], &[(1, &content)]).await.remove(0);
    let get = world.download("kept").await;
    let (put_url, get_url) = (put["url"].as_str().expect("text"), get["url"].as_str().expect("text"));
    // The path of an address, and what is signed.
    let path = |url: &str| url.split('?').next().expect("a path").to_owned();
    let query = |url: &str| url.split_once('?').expect("a query").1.to_owned();
    let elsewhere = format!("{}?{}", path(get_url), query(put_url));
    assert_eq!(world.send_to(&elsewhere, &put, content.clone()).await.status(), StatusCode::FORBIDDEN);
    let elsewhere = format!("{}?{}", path(put_url), query(get_url));
    assert_eq!(world.send_to(&elsewhere, &get, Vec::new()).await.status(), StatusCode::FORBIDDEN);
    for (method, url) in
        [(Method::DELETE, put_url), (Method::GET, put_url), (Method::PUT, get_url), (Method::DELETE, get_url)]
    {
        let answer = world.http.request(method.clone(), url).body("x").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {url}");
    }
    for url in [get_url.replace("X-Amz-Expires=900", "X-Amz-Expires=604800"), get_url.replace("attachment", "inline")] {
        let answer = world.http.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    let unsigned = world.http.get(path(get_url)).send().await.expect("an answer");
    assert_eq!(unsigned.status(), StatusCode::FORBIDDEN);
    assert_eq!(world.bytes_of("kept").await, content);
}

pub(crate) async fn an_address_ends(world: &World) {
    let times = Times { address: Duration::from_secs(1), ..crate::world::times() };
    let short = world.with_times(times).await;
    let content = bytes(4, 10);
    let id = short.create(json!({ "name": "late", "size": 10 })).await;
    let put = short.addresses(&id, &[], &[(1, &content)]).await.remove(0);
    eventually("the address is refused", async || {
        short.send(&put, content.clone()).await.status() == StatusCode::FORBIDDEN
    })
    .await;
    // Whoever asks again gets another one.
    let stored = short.store_part(&id, 1, &content).await;
    good(short.complete(&id, &content, &[stored]).await).await;
    short.service.stop_within(Duration::from_secs(10)).await;
}

pub(crate) async fn what_comes_after_the_end_changes_nothing(world: &World) {
    for content in [bytes(5, 1_000), bytes(6, PART + 1)] {
        let id = world.create(json!({ "name": "end", "size": content.len() })).await;
        let (mut puts, mut stored) = (Vec::new(), Vec::new());
        for (number, part) in cut(&content) {
            puts.push((world.addresses(&id, &[], &[(number, part)]).await.remove(0), part));
            stored.push(world.store_part(&id, number, part).await);
        }
        good(world.complete(&id, &content, &stored).await).await;
        for (put, part) in puts {
            let mut other = part.to_vec();
            other.reverse();
            assert!(world.send(&put, other).await.status().is_client_error());
            // The same bytes may be taken once more or not: it makes no difference.
            world.send(&put, part.to_vec()).await;
        }
        assert_eq!(world.bytes_of("end").await, content);
    }
}

pub(crate) async fn a_part_never_changes(world: &World) {
    let id = world.create(json!({ "name": "changing" })).await;
    world.addresses(&id, &[], &[(1, &bytes(7, 10))]).await;
    let parts = async |wanted: serde_json::Value| {
        let path = format!("/artifacts/{id}/parts");
        world.ask(MEMBER, Method::POST, &path, Some(json!({ "wanted": wanted }))).await
    };
    let (word_of, problem) = refusal(parts(json!([wanted(1, &bytes(8, 10))])).await).await;
    assert_eq!((word_of.as_str(), &problem["part"]), ("upload-conflict", &json!(1)));
    assert_eq!(word(parts(json!([wanted(1, &bytes(7, 11))]))).await, "upload-conflict");
    // The first was small, so it is the last.
    assert_eq!(word(parts(json!([wanted(2, &bytes(7, 10))]))).await, "upload-conflict");
    for bad in [
        json!([wanted(0, b"x")]),
        json!([wanted(10_001, b"x")]),
        json!([wanted(3, b"")]),
        json!([wanted(1, b"x"), wanted(1, b"x")]),
    ] {
        assert_eq!(word(parts(bad)).await, "invalid-request");
    }
    // And the whole is what its parts are.
    let stored = world.store_part(&id, 1, &bytes(7, 10)).await;
    let whole = |size: u64| json!({ "size": size, "sha256": crate::world::sha256(b""), "stored": [stored] });
    let complete = async |body| world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/complete"), Some(body)).await;
    assert_eq!(word(complete(whole(9))).await, "upload-conflict");
    assert_eq!(word(complete(whole(100 << 20))).await, "upload-incomplete");
    let sized = world.create(json!({ "name": "sized", "size": 10 })).await;
    let stored = world.store_part(&sized, 1, &bytes(7, 10)).await;
    assert_eq!(refusal(world.complete(&sized, &bytes(7, 11), &[stored]).await).await.0, "upload-conflict");
}
