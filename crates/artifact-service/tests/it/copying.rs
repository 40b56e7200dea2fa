//! What an older version has is copied within the store, and not sent again.

use crate::world::{ADMIN, MEMBER, PART, World, bytes, good, id_of, refusal, sha256, wanted};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path};

const LEAST: usize = 5 << 20;

/// Three parts of different sizes, and a small last one.
fn parts() -> Vec<Vec<u8>> {
    vec![bytes(1, LEAST), bytes(2, LEAST + 70_001), bytes(3, LEAST + 5), bytes(4, 100)]
}

impl World {
    /// A directory in these parts: the artifact, ready, and which parts had to be sent.
    async fn put_directory(&self, name: &str, parts: &[Vec<u8>]) -> (Value, Vec<u32>) {
        let created = self.post("/artifacts", json!({ "name": name, "kind": "directory" })).await;
        assert_eq!((&created["part_size"], &created["least_part"]), (&json!(16 << 20), &json!(LEAST)));
        self.put_parts(&id_of(&created["artifact"]), parts).await
    }

    async fn put_parts(&self, id: &str, parts: &[Vec<u8>]) -> (Value, Vec<u32>) {
        let numbered: Vec<(u32, &[u8])> = (1..).zip(parts.iter().map(Vec::as_slice)).collect();
        let addresses = self.addresses(id, &[], &numbered).await;
        let (mut stored, mut sent) = (Vec::new(), Vec::new());
        for ((number, bytes), put) in numbered.iter().zip(addresses) {
            if !put.is_null() {
                let answer = self.send(&put, bytes.to_vec()).await;
                assert_eq!(answer.status(), StatusCode::OK);
                stored.push(json!({ "number": number, "etag": answer.headers()["etag"].to_str().expect("text") }));
                sent.push(*number);
            }
        }
        (good(self.complete(id, &parts.concat(), &stored).await).await, sent)
    }

    async fn key_of(&self, name: &str) -> String {
        let object = self.object_of(name).await;
        self.store.object_key(object).await.expect("read").expect("it is there")
    }

    async fn lose(&self, key: &str) {
        self.raw.delete_object().bucket(&self.bucket).key(key).send().await.expect("deleted");
    }
}

pub(crate) async fn a_new_version_of_a_directory_sends_only_what_changed(world: &World) {
    let old = parts();
    assert_eq!(world.put_directory("tree", &old).await.1, [1, 2, 3, 4]);
    let first = world.key_of("tree").await;
    // Another part instead of the second one, and one more.
    let mut new = old.clone();
    new.splice(1..2, [bytes(5, LEAST + 1), bytes(6, LEAST + 2)]);
    let (ready, sent) = world.put_directory("tree", &new).await;
    assert_eq!((&ready["version"], &ready["sha256"]), (&json!(2), &json!(sha256(&new.concat()))));
    assert_eq!(sent, [2, 3]);
    assert!(world.bytes_of("tree@2").await == new.concat());
    if world.is_embedded {
        let on_disk = bytes_below(&world.dir.path().join("objects/objects"));
        let (common, all) = (old[0].len() + old[2].len() + old[3].len(), old.concat().len() + new.concat().len());
        assert_eq!(on_disk, (all - common) as u64, "what both have is there once");
    }
    let checked = good(world.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(json!({ "read": true }))).await).await;
    assert_eq!(checked["findings"], json!([]));
    // It is no loan: the version before may go, and the next one has this one's parts.
    world.lose(&first).await;
    assert!(world.bytes_of("tree@2").await == new.concat());
    new.push(bytes(7, 10));
    new[4].extend(bytes(8, LEAST));
    assert_eq!(world.put_directory("tree", &new).await.1, [5, 6]);
    assert!(world.bytes_of("tree@3").await == new.concat());
}

/// Of all files once, however many names they have.
fn bytes_below(dir: &Path) -> u64 {
    let mut sizes = BTreeMap::new();
    for object in std::fs::read_dir(dir).expect("a directory") {
        for part in std::fs::read_dir(object.expect("an entry").path()).expect("a directory") {
            let meta = part.expect("an entry").metadata().expect("it is there");
            sizes.insert(meta.ino(), meta.len());
        }
    }
    sizes.values().sum()
}

pub(crate) async fn what_an_older_version_can_not_give_is_sent(world: &World) {
    let all = [1, 2, 3, 4];
    let old = parts();
    world.put_directory("tree", &old).await;
    // A checksum is worth nothing under another name, and nothing in another project.
    assert_eq!(world.put_directory("elsewhere", &old).await.1, all);
    let asked = json!({ "name": "tree", "kind": "directory" });
    let created = good(world.ask(crate::world::STRANGER, Method::POST, "/artifacts", Some(asked)).await).await;
    let path = format!("/artifacts/{}/parts", id_of(&created["artifact"]));
    let asked = json!({ "wanted": [wanted(1, &old[0])] });
    let answer = good(world.ask(crate::world::STRANGER, Method::POST, &path, Some(asked)).await).await;
    assert!(answer["parts"][0]["put"].is_object(), "{answer}");
    // Nor is one of another size.
    let created = world.post("/artifacts", json!({ "name": "tree", "kind": "directory" })).await;
    let mut lied = wanted(1, &old[0]);
    lied["size"] = json!(LEAST + 1);
    let path = format!("/artifacts/{}/parts", id_of(&created["artifact"]));
    assert!(world.post(&path, json!({ "wanted": [lied] })).await["parts"][0]["put"].is_object());
    // Its bytes are gone, and nobody knows.
    let mut new = old.clone();
    new.swap(0, 1);
    world.lose(&world.key_of("tree").await).await;
    assert_eq!(world.put_directory("tree", &new).await.1, all);
    assert!(world.bytes_of("tree@2").await == new.concat());
    // It is known.
    world.lose(&world.key_of("tree").await).await;
    good(world.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(json!({ "repair": true }))).await).await;
    assert_eq!(world.put_directory("tree", &new).await.1, all);
    assert!(world.bytes_of("tree@3").await == new.concat());
}

pub(crate) async fn a_file_that_grew_sends_what_is_new(world: &World) {
    let mut content = bytes(1, 2 * PART + 10);
    world.put("log", &content).await;
    content.extend(bytes(2, 1_000));
    let id = world.create(json!({ "name": "log", "size": content.len() })).await;
    let cut: Vec<Vec<u8>> = content.chunks(PART).map(<[u8]>::to_vec).collect();
    assert_eq!(world.put_parts(&id, &cut).await.1, [3]);
    assert!(world.bytes_of("log@2").await == content);
}

pub(crate) async fn the_next_checkpoint_sends_only_what_changed(world: &World) {
    let node = world.node("n").await;
    let (task, held) = world.runs(json!({"command": ["train"], "checkpoints": {"path": "ckpt"}}), &node).await;
    let mut content = parts();
    for (version, sent) in [(1, vec![1, 2, 3, 4]), (2, vec![2])] {
        content[1][7] ^= 1;
        let begun = world.post_as(&node, held, "checkpoints", json!({"kind": "directory", "file_name": "ckpt"})).await;
        assert_eq!(begun["least_part"], json!(LEAST));
        let path = |what: &str| format!("checkpoints/{}/{what}", begun["artifact"]["id"].as_str().expect("an id"));
        let asked: Vec<Value> = (1..).zip(&content).map(|(number, bytes)| wanted(number, bytes)).collect();
        let answer = world.post_as(&node, held, &path("parts"), json!({ "wanted": asked })).await;
        let (mut stored, mut numbers) = (Vec::new(), Vec::new());
        for (number, bytes) in (1..).zip(&content) {
            let put = &answer["parts"][number - 1]["put"];
            if !put.is_null() {
                let etag = world.send(put, bytes.clone()).await.headers()["etag"].to_str().expect("text").to_owned();
                stored.push(json!({ "number": number, "etag": etag }));
                numbers.push(number);
            }
        }
        assert_eq!(numbers, sent, "checkpoint {version}");
        let whole = content.concat();
        let whole = json!({ "size": whole.len(), "sha256": sha256(&whole), "stored": stored });
        assert_eq!(world.post_as(&node, held, &path("complete"), whole).await["version"], json!(version));
    }
    assert!(world.bytes_of(&format!("checkpoint-{task}")).await == content.concat());
}

pub(crate) async fn parts_differ_in_size_within_what_was_said(world: &World) {
    let begin = async || world.create(json!({ "name": "tree", "kind": "directory" })).await;
    let ask = async |id: &str, parts: &[Value]| {
        let asked = json!({ "wanted": parts });
        world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/parts"), Some(asked)).await
    };
    let part = |number: u32, size: usize| json!({ "number": number, "size": size, "sha256": sha256(&[number as u8]) });
    // Only the last one is smaller, and none larger than any may be.
    for sizes in [[LEAST - 1, LEAST], [LEAST, LEAST - 1]] {
        let asked: Vec<Value> = (1..).zip(sizes).map(|(number, size)| part(number, size)).collect();
        let answer = ask(&begin().await, &asked).await;
        match sizes[0] < LEAST {
            true => assert_eq!(refusal(answer).await.0, "upload-conflict"),
            false => assert_eq!(good(answer).await["parts"].as_array().expect("parts").len(), 2),
        }
    }
    assert_eq!(refusal(ask(&begin().await, &[part(1, (16 << 20) + 1)]).await).await.0, "invalid-request");
    // What is missing in the middle or at the end is named; what is too much begins anew.
    let content = parts();
    let id = begin().await;
    let mut stored = Vec::new();
    for number in [1, 3] {
        stored.push(world.store_part(&id, number, &content[number as usize - 1]).await);
    }
    world.addresses(&id, &[], &[(4, &content[3])]).await;
    let (word, problem) = refusal(world.complete(&id, &content.concat(), &stored).await).await;
    assert_eq!((word.as_str(), &problem["missing"]), ("upload-incomplete", &json!([2, 4])));
    stored.push(world.store_part(&id, 2, &content[1]).await);
    let fewer = content[..3].concat();
    assert_eq!(refusal(world.complete(&id, &fewer, &stored).await).await.0, "upload-conflict");
    stored.push(world.store_part(&id, 4, &content[3]).await);
    good(world.complete(&id, &content.concat(), &stored).await).await;
    assert!(world.bytes_of("tree").await == content.concat());
}

pub(crate) async fn a_store_that_wants_equal_parts_gets_them(world: &World) {
    let strict = world.with_equal_parts().await;
    let created = strict.post("/artifacts", json!({ "name": "tree", "kind": "directory" })).await;
    assert!(created["part_size"] == json!(16 << 20) && created["least_part"].is_null(), "{created}");
    let asked = json!({ "wanted": [wanted(1, &bytes(1, LEAST)), wanted(2, &bytes(2, LEAST))] });
    let path = format!("/artifacts/{}/parts", id_of(&created["artifact"]));
    assert_eq!(refusal(strict.ask(MEMBER, Method::POST, &path, Some(asked)).await).await.0, "upload-conflict");
}

pub(crate) async fn an_address_for_a_part_copies_nothing(world: &World) {
    let secret = parts();
    world.put_directory("secret", &secret).await;
    let source = format!("{}/{}", world.bucket, world.key_of("secret").await);
    let id = world.create(json!({ "name": "thief", "kind": "directory" })).await;
    let mut put = world.addresses(&id, &[], &[(1, &secret[0])]).await.remove(0);
    put["headers"]["x-amz-copy-source"] = json!(source);
    put["headers"]["x-amz-copy-source-range"] = json!(format!("bytes=0-{}", LEAST - 1));
    let copied = world.send(&put, Vec::new()).await;
    assert!(copied.status().is_client_error(), "{}", copied.status());
}
