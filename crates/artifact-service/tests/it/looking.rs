//! Who sees what, and what is refused.

use crate::world::{ADMIN, Kind, MEMBER, STRANGER, VIEWER, World, bytes, good, id_of, refusal, sha256, wanted, word};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_project_never_sees_what_another_has() {
    let world = World::start(Kind::Embedded).await;
    let content = bytes(1, 100);
    let ready = world.put("secret", &content).await;
    let half = world.create(json!({ "name": "half" })).await;
    let (id, digest) = (id_of(&ready), format!("sha256:{}", sha256(&content)));
    for name in [id.as_str(), "secret", "secret@1", &digest] {
        for (method, rest) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::POST, "/download"),
            (Method::GET, "/content"),
            (Method::GET, "?project=other"),
        ] {
            let asked = world.ask(STRANGER, method.clone(), &format!("/artifacts/{name}{rest}"), None).await;
            assert_eq!(refusal(asked).await.0, "no-such-artifact", "{method} {name}{rest}");
        }
    }
    let asked = world.ask(STRANGER, Method::GET, "/artifacts/secret?project=default", None).await;
    assert_eq!(refusal(asked).await.0, "no-such-project");
    let parts = json!({ "wanted": [wanted(1, b"x")] });
    let asked = world.ask(STRANGER, Method::POST, &format!("/artifacts/{half}/parts"), Some(parts)).await;
    assert_eq!(refusal(asked).await.0, "no-such-artifact");
    let whole = json!({ "size": 1, "sha256": sha256(b"x") });
    let asked = world.ask(STRANGER, Method::POST, &format!("/artifacts/{half}/complete"), Some(whole)).await;
    assert_eq!(refusal(asked).await.0, "no-such-artifact");
    let asked = json!({ "name": "x", "project": "default" });
    assert_eq!(word(world.ask(STRANGER, Method::POST, "/artifacts", Some(asked))).await, "no-such-project");
    let listed = good(world.ask(STRANGER, Method::GET, "/artifacts?state=all", None).await).await;
    assert_eq!(listed["artifacts"], json!([]));
    // An admin sees both, and says whose a name is.
    let mine = json!({ "name": "secret" });
    good(world.ask(STRANGER, Method::POST, "/artifacts", Some(mine)).await).await;
    let listed = good(world.ask(ADMIN, Method::GET, "/artifacts", None).await).await;
    assert_eq!(listed["artifacts"].as_array().expect("a list").len(), 3);
    let listed = good(world.ask(ADMIN, Method::GET, "/artifacts?project=other", None).await).await;
    assert_eq!(listed["artifacts"].as_array().expect("a list").len(), 1);
    assert_eq!(word(world.ask(ADMIN, Method::GET, "/artifacts/secret?project=other", None)).await, "no-such-artifact");
    assert_eq!(world.bytes_of("secret").await, content);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_looks_and_changes_nothing() {
    let world = World::start(Kind::Embedded).await;
    let id = id_of(&world.put("shown", b"shown").await);
    let half = world.create(json!({ "name": "half" })).await;
    for path in ["/artifacts", "/artifacts/shown", &format!("/artifacts/{id}")] {
        assert_eq!(world.ask(VIEWER, Method::GET, path, None).await.status(), StatusCode::OK, "{path}");
    }
    assert_eq!(world.ask(VIEWER, Method::POST, "/artifacts/shown/download", None).await.status(), StatusCode::OK);
    let whole = json!({ "size": 0, "sha256": sha256(b"") });
    for (method, path, body) in [
        (Method::POST, "/artifacts".to_owned(), json!({ "name": "x" })),
        (Method::POST, format!("/artifacts/{half}/parts"), json!({})),
        (Method::POST, format!("/artifacts/{half}/complete"), whole),
        (Method::DELETE, "/artifacts/shown".to_owned(), Value::Null),
        (Method::POST, "/artifacts:fsck".to_owned(), json!({})),
        (Method::POST, "/artifacts:probe".to_owned(), json!({})),
    ] {
        assert_eq!(word(world.ask(VIEWER, method, &path, Some(body))).await, "not-permitted", "{path}");
    }
    assert_eq!(word(world.ask(MEMBER, Method::POST, "/artifacts:fsck", Some(json!({})))).await, "not-permitted");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_wrongly_is_refused_with_its_place() {
    let world = World::start(Kind::Embedded).await;
    for (body, pointer) in [
        (json!({ "name": "../x" }), "#/name"),
        (json!({ "name": "019ab0d0-0000-7000-8000-000000000001" }), "#/name"),
        (json!({ "name": "x", "size": 6_000_000_000_000_u64 }), "#/size"),
        (json!({ "name": "x", "media_type": "html" }), "#/media_type"),
        (json!({ "name": "x", "media_type": "text/html\r\nx: y" }), "#/media_type"),
        (json!({ "name": "x", "file_name": "../../etc/passwd" }), "#/file_name"),
        (json!({ "name": "x", "file_name": ".." }), "#/file_name"),
        (json!({ "name": "x", "labels": { "": "y" } }), "#/labels"),
        (json!({ "name": "x", "labels": { "y": "a,b" } }), "#/labels"),
    ] {
        let (word, problem) = refusal(world.ask(MEMBER, Method::POST, "/artifacts", Some(body.clone())).await).await;
        assert_eq!((word.as_str(), &problem["errors"][0]["pointer"]), ("invalid-request", &json!(pointer)), "{body}");
    }
    let unknown = world.ask(MEMBER, Method::POST, "/artifacts", Some(json!({ "name": "x", "sise": 1 }))).await;
    assert_eq!(refusal(unknown).await.0, "invalid-request");
    for query in ["?state=done", "?limit=0", "?cursor=x", "?name=a/b", "?nonsense=1"] {
        let asked = world.ask(MEMBER, Method::GET, &format!("/artifacts{query}"), None).await;
        assert_eq!(refusal(asked).await.0, "invalid-request", "{query}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_in_pages_and_by_what_is_looked_for() {
    let world = World::start(Kind::Embedded).await;
    for number in 0..7 {
        let body = json!({ "name": format!("n{}", number % 2), "labels": { "run": number.to_string(), "odd": (number % 2).to_string() } });
        world.create(body).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let (mut names, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = world.get(&format!("/artifacts?limit=2{query}{cursor}")).await;
            let artifacts = page["artifacts"].as_array().expect("a list").clone();
            assert!(artifacts.len() <= 2);
            names.extend(artifacts.iter().map(|artifact| artifact["labels"]["run"].as_str().expect("text").to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return names,
            }
        }
    };
    assert_eq!(names("").await, ["6", "5", "4", "3", "2", "1", "0"]);
    assert_eq!(names("&name=n1").await, ["5", "3", "1"]);
    assert_eq!(names("&label=odd=0").await, ["6", "4", "2", "0"]);
    assert_eq!(names("&label=odd=0,run=4").await, ["4"]);
    assert_eq!(names("&label=run").await.len(), 7);
    assert!(names("&state=ready").await.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_object_store_the_refusal_says_what_to_set() {
    let world = World::start(Kind::Embedded).await;
    world.put("there", b"x").await;
    let bare = world.without_objects().await;
    assert_eq!(good(bare.ask(MEMBER, Method::GET, "/artifacts/there", None).await).await["state"], json!("ready"));
    for (path, body) in [
        ("/artifacts", json!({ "name": "x" })),
        ("/artifacts/there/download", Value::Null),
        ("/artifacts:fsck", json!({})),
    ] {
        let (word, problem) = refusal(bare.ask(ADMIN, Method::POST, path, Some(body)).await).await;
        assert_eq!(word, "no-object-store", "{path}");
        assert!(problem["detail"].as_str().expect("text").contains("UNIDESK_S3_ENDPOINT"));
    }
    bare.service.stop_within(std::time::Duration::from_secs(5)).await;
    world.stop().await;
}
