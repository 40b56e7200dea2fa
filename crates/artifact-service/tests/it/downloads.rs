//! What whoever gets an artifact is told with it.

use crate::world::{MEMBER, VIEWER, World, bytes, good, id_of, refusal, word};
use reqwest::{Method, StatusCode};
use serde_json::json;

pub(crate) async fn a_page_of_html_is_saved_and_never_shown(world: &World) {
    let page = b"<script>alert(document.domain)</script>";
    let body =
        json!({ "name": "page", "size": page.len(), "media_type": "text/html", "file_name": "\"><img onerror>.html" });
    let id = world.create(body).await;
    let stored = world.store_part(&id, 1, page).await;
    good(world.complete(&id, page, &[stored]).await).await;
    let get = world.download("page").await;
    let answer = world.send(&get, Vec::new()).await;
    let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    let saved = header("content-disposition");
    assert_eq!(saved, "attachment; filename=\"___img onerror_.html\"; filename*=UTF-8''%22%3E%3Cimg%20onerror%3E.html");
    if world.is_embedded {
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'");
    }
    assert_eq!(&answer.bytes().await.expect("a body")[..], page);
    // The short way is the same.
    let followed = world.ask(VIEWER, Method::GET, "/artifacts/page/content", None).await;
    assert_eq!(followed.status(), StatusCode::OK);
    assert!(followed.headers()["content-disposition"].to_str().expect("text").starts_with("attachment"));
    assert_eq!(&followed.bytes().await.expect("a body")[..], page);
}

pub(crate) async fn what_can_not_be_read_says_why(world: &World) {
    let download =
        async |name: &str| world.ask(MEMBER, Method::POST, &format!("/artifacts/{name}/download"), None).await;
    let id = world.create(json!({ "name": "half" })).await;
    let (word_of, problem) = refusal(download(&id).await).await;
    assert_eq!((word_of.as_str(), &problem["state"]), ("artifact-not-ready", &json!("uploading")));
    assert_eq!(word(download("half")).await, "no-such-artifact");
    let ready = world.put("gone", &bytes(1, 10)).await;
    good(world.ask(MEMBER, Method::DELETE, "/artifacts/gone", None).await).await;
    let (word_of, problem) = refusal(download(&id_of(&ready)).await).await;
    assert_eq!((word_of.as_str(), &problem["state"]), ("artifact-not-ready", &json!("expired")));
    for name in ["gone", "gone@1", "gone@7", "a%20b", "sha256:12", "x@0"] {
        assert_eq!(word(download(name)).await, "no-such-artifact", "{name}");
    }
}
