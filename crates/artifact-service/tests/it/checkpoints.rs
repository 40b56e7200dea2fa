//! Checkpoints over HTTP: what one attempt stores the next one finds, and nobody else may touch it.

use crate::{
    attempts::Node,
    world::{ADMIN, MEMBER, World, bytes, eventually, good, id_of, refusal, sha256, times, wanted, word},
};
use artifact_service::Times;
use domain::{ids::Held, outcome::FailureKind};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

fn keeps() -> Value {
    json!({"command": ["train"], "checkpoints": {"path": "ckpt"}})
}

fn announced() -> Value {
    json!({"kind": "directory", "file_name": "ckpt"})
}

impl World {
    async fn begin(&self, node: &Node, held: Held) -> String {
        id_of(&self.post_as(node, held, "checkpoints", announced()).await["artifact"])
    }

    /// Its only part, put where it goes: what is told as stored.
    async fn store_part_of(&self, node: &Node, held: Held, checkpoint: &str, content: &[u8]) -> Value {
        let asked = json!({"wanted": [wanted(1, content)]});
        let answer = self.post_as(node, held, &format!("checkpoints/{checkpoint}/parts"), asked).await;
        let sent = self.send(&answer["parts"][0]["put"], content.to_vec()).await;
        assert_eq!(sent.status(), StatusCode::OK);
        json!([{"number": 1, "etag": sent.headers()["etag"].to_str().expect("text")}])
    }

    async fn complete_as(&self, node: &Node, held: Held, id: &str, content: &[u8], stored: &Value) -> Response {
        let whole = json!({"size": content.len(), "sha256": sha256(content), "stored": stored});
        self.ask_as(node, held, &format!("checkpoints/{id}/complete"), whole).await
    }

    async fn take(&self, node: &Node, held: Held, content: &[u8]) -> Value {
        let id = self.begin(node, held).await;
        let stored = self.store_part_of(node, held, &id, content).await;
        good(self.complete_as(node, held, &id, content, &stored).await).await
    }

    /// What this attempt begins with: the contents, the newest first.
    async fn newest(&self, node: &Node, held: Held) -> Vec<Vec<u8>> {
        let answer = self.post_as(node, held, "checkpoints/newest", json!({})).await;
        let mut contents = Vec::new();
        for download in answer["checkpoints"].as_array().expect("a list") {
            let got = self.send(&download["get"], Vec::new()).await;
            contents.push(got.bytes().await.expect("a body").to_vec());
        }
        contents
    }
}

pub(crate) async fn the_next_attempt_goes_on_from_what_the_one_before_has_stored(world: &World) {
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, first) = world.runs(keeps(), &node).await;
    assert!(world.newest(&node, first).await.is_empty(), "it begins from the beginning");
    let contents: Vec<Vec<u8>> = (1..=3).map(|seed| bytes(seed, 1_000)).collect();
    for content in &contents {
        world.take(&node, first, content).await;
    }
    world.end(&node, first, Some(FailureKind::NodeError)).await;
    world.database.execute("UPDATE task_state SET not_before = NULL").await;
    let second = world.place(task, &other).await;
    assert_eq!(world.newest(&other, second).await, [contents[2].clone(), contents[1].clone()]);
    let fourth = world.take(&other, second, &bytes(4, 10)).await;
    assert_eq!((&fourth["name"], &fourth["version"]), (&json!(format!("checkpoint-{task}")), &json!(4)));
    assert_eq!((&fourth["kind"], &fourth["attempt"]), (&json!("directory"), &json!(second.attempt)));
    assert_eq!(world.newest(&other, second).await, [bytes(4, 10), contents[2].clone()]);

    // As long as the task lives nobody takes them away, and then they are artifacts as any other.
    let remove = async || world.ask(MEMBER, Method::DELETE, &format!("/artifacts/checkpoint-{task}"), None).await;
    let (refused, problem) = refusal(remove().await).await;
    assert_eq!((refused.as_str(), &problem["tasks"]), ("artifact-in-use", &json!([task])));
    assert_eq!(world.bytes_of(&format!("checkpoint-{task}@3")).await, contents[2]);
    world.end(&other, second, Some(FailureKind::ExitNonzero)).await;
    assert_eq!(word(world.ask_as(&other, second, "checkpoints/newest", json!({}))).await, "already-ended");
    good(remove().await).await;
}

pub(crate) async fn what_is_no_checkpoint_of_this_attempt_is_refused(world: &World) {
    let (node, other) = (world.node("n").await, world.node("other").await);
    let mut body = keeps();
    body["outputs"] = json!([{"path": "model.pt", "name": "model"}]);
    let (_, held) = world.runs(body, &node).await;
    let (_, beside) = world.runs(keeps(), &node).await;
    let (_, without) = world.runs(json!({"command": ["ls"]}), &node).await;
    let content = bytes(1, 100);
    let whole = json!({"size": 100, "sha256": sha256(&content)});
    let file = json!({"kind": "file", "file_name": "ckpt"});
    assert_eq!(word(world.ask_as(&node, held, "checkpoints", file.clone())).await, "invalid-request");
    for (path, body) in [("checkpoints", announced()), ("checkpoints/newest", json!({}))] {
        assert_eq!(word(world.ask_as(&node, without, path, body)).await, "no-such-artifact", "{path}");
    }

    // Of another task, of nobody, an output of its own.
    let elsewhere = world.begin(&node, beside).await;
    let output = id_of(&world.post_as(&node, held, "outputs/0", file).await["artifact"]);
    for id in [elsewhere.as_str(), &output, "00000000-0000-7000-8000-000000000001", "x"] {
        let path = |what: &str| format!("checkpoints/{id}/{what}");
        assert_eq!(word(world.ask_as(&node, held, &path("parts"), json!({}))).await, "no-such-artifact", "{id}");
        assert_eq!(word(world.ask_as(&node, held, &path("complete"), whole.clone())).await, "no-such-artifact", "{id}");
    }

    // One that was begun is over with the next.
    let first = world.begin(&node, held).await;
    let stored = world.store_part_of(&node, held, &first, &content).await;
    let second = world.begin(&node, held).await;
    let (refused, problem) = refusal(world.complete_as(&node, held, &first, &content, &stored).await).await;
    assert_eq!((refused.as_str(), &problem["state"]), ("upload-ended", &json!("expired")));
    let (path, more) = (format!("checkpoints/{first}/parts"), json!({"wanted": [wanted(1, b"x")]}));
    assert_eq!(word(world.ask_as(&node, held, &path, more)).await, "upload-ended");
    // A person has no business in it, nor has another node, or this one under another lease.
    for (path, body) in [("parts", json!({})), ("complete", whole.clone())] {
        let asked = world.ask(MEMBER, Method::POST, &format!("/artifacts/{second}/{path}"), Some(body)).await;
        assert_eq!(refusal(asked).await.0, "fenced", "{path}");
    }
    let stored = world.store_part_of(&node, held, &second, &content).await;
    let later = Held { fence: held.fence.next(held.fence.epoch()), ..held };
    for (who, held) in [(&other, held), (&node, later)] {
        assert_eq!(word(world.ask_as(who, held, "checkpoints", announced())).await, "fenced");
        assert_eq!(word(world.ask_as(who, held, "checkpoints/newest", json!({}))).await, "fenced");
        assert_eq!(refusal(world.complete_as(who, held, &second, &content, &stored).await).await.0, "fenced");
    }
    for _ in 0..2 {
        let ready = good(world.complete_as(&node, held, &second, &content, &stored).await).await;
        assert_eq!((id_of(&ready), &ready["version"]), (second.clone(), &json!(1)));
    }
    world.end(&node, held, Some(FailureKind::ExitNonzero)).await;
    assert_eq!(refusal(world.complete_as(&node, held, &second, &content, &stored).await).await.0, "already-ended");
}

pub(crate) async fn a_damaged_checkpoint_is_passed_over(world: &World) {
    let node = world.node("n").await;
    let (task, held) = world.runs(keeps(), &node).await;
    let (sound, lost) = (bytes(1, 1_000), bytes(2, 1_000));
    world.take(&node, held, &sound).await;
    world.take(&node, held, &lost).await;
    let object = world.object_of(&format!("checkpoint-{task}")).await;
    let key = world.store.object_key(object).await.expect("read").expect("there");
    world.raw.delete_object().bucket(&world.bucket).key(key).send().await.expect("deleted");
    let repair = json!({"repair": true});
    good(world.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(repair)).await).await;
    assert_eq!(world.newest(&node, held).await, std::slice::from_ref(&sound));
    // The same content once more is another one, and sound.
    world.take(&node, held, &lost).await;
    assert_eq!(world.newest(&node, held).await, [lost, sound]);
    // A store that is away is waited for.
    let id = world.begin(&node, held).await;
    let stored = world.store_part_of(&node, held, &id, b"third").await;
    world.gate.shut();
    let refused = world.complete_as(&node, held, &id, b"third", &stored).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refusal(refused).await.0, "object-store-away");
    world.gate.open();
    good(world.complete_as(&node, held, &id, b"third", &json!([])).await).await;
    assert_eq!(world.newest(&node, held).await[0], b"third");
    let bare = world.without_objects().await;
    for path in ["checkpoints/newest", "checkpoints/x/parts"] {
        assert_eq!(word(bare.ask_as(&node, held, path, json!({}))).await, "no-object-store", "{path}");
    }
}

pub(crate) async fn checkpoints_end_with_their_task(world: &World) {
    let node = world.node("n").await;
    let (live, live_held) = world.runs(keeps(), &node).await;
    let (done, done_held) = world.runs(keeps(), &node).await;
    let (broken, broken_held) = world.runs(keeps(), &node).await;
    for (seed, held) in [(1, live_held), (2, done_held), (3, broken_held)] {
        world.take(&node, held, &bytes(seed, 500)).await;
    }
    let half = world.begin(&node, broken_held).await;
    world.store_part_of(&node, broken_held, &half, &bytes(4, 500)).await;
    world.end(&node, done_held, None).await;
    world.end(&node, broken_held, Some(FailureKind::ExitNonzero)).await;
    assert_eq!(world.keys().await.len(), 4);
    world.collect(times());
    eventually("what has succeeded and what was cut off is deleted", async || world.keys().await.len() == 2).await;
    let state = async |task| world.get(&format!("/artifacts?name=checkpoint-{task}&state=ready")).await;
    let are_there = async |task| !state(task).await["artifacts"].as_array().expect("a list").is_empty();
    assert!(are_there(live).await && are_there(broken).await && !are_there(done).await);
    // A week later.
    let later = world.with_times(Times { checkpoints: Duration::ZERO, ..times() }).await;
    later.collect(Times { checkpoints: Duration::ZERO, ..times() });
    eventually("nobody has run it again", async || !are_there(broken).await).await;
    assert!(are_there(live).await);
    later.service.stop_within(Duration::from_secs(10)).await;
}
