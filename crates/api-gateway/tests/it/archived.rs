//! Logs of which a part has left the database: nobody who reads them can tell, unless that part can't be had.

use crate::{
    logs::{bytes, events, is_over, text_of},
    world::{Message, Node, World, exited, facts, json_of, ls, messages, problem, word},
};
use domain::{
    artifact::Sha256Digest,
    ids::{Held, TaskId},
};
use futures::future::BoxFuture;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{
    ArchiveError, ArchivedPiece, FramePlace, LogArchive, LogChunk, LogPiece, LogStretch, MovedLogs, NewPack,
    PackedPiece,
};
use uuid::Uuid;

/// Stands for the artifact-service: what was put where, and what is wrong with it.
#[derive(Default)]
struct Shelf {
    pieces: Mutex<BTreeMap<(String, u32), Vec<LogChunk>>>,
    trouble: Mutex<Option<ArchiveError>>,
}

impl Shelf {
    fn has(&self, trouble: Option<ArchiveError>) {
        *self.trouble.lock().expect("whole") = trouble;
    }
    /// The place of a pack is empty.
    fn lose(&self, at: u32) {
        self.pieces.lock().expect("whole").retain(|(_, place), _| *place != at);
    }
}

impl LogArchive for Shelf {
    fn read<'a>(&'a self, piece: &'a ArchivedPiece) -> BoxFuture<'a, Result<Vec<LogChunk>, ArchiveError>> {
        let trouble = self.trouble.lock().expect("whole").clone();
        let found = self.pieces.lock().expect("whole").get(&(piece.key.clone(), piece.place.at)).cloned();
        let found = found.ok_or_else(|| ArchiveError::Lost("its object is not there".into()));
        Box::pin(async move { trouble.map_or(found, Err) })
    }
}

async fn world() -> (World, Node, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let world = World::start_with_archive(shelf.clone()).await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    (world, node, shelf)
}

/// Moves the first `count` chunks that are left of the log, in pieces of so many.
async fn move_out(world: &World, shelf: &Shelf, held: Held, count: u64, each: usize) {
    let waiting = world.store.waiting_logs(None, 100).await.expect("read").logs;
    let log = waiting.into_iter().find(|log| log.attempt == held.attempt).expect("something is left");
    let next_ordinal = log.next_ordinal.min(log.first_ordinal + count);
    let stretch = LogStretch { attempt: held.attempt, first_ordinal: log.first_ordinal, next_ordinal };
    let (chunks, is_all) = world.store.chunks_to_move(&[stretch], 64 << 20).await.expect("read");
    assert!(is_all);
    let key = format!("logs/{}", Uuid::new_v4());
    world.store.announce_pack(&key, Duration::from_secs(86_400)).await.expect("announced");
    let (mut ends, mut pieces) = (log.ends, Vec::new());
    for (at, some) in (0..).zip(chunks.chunks(each)) {
        let some: Vec<LogChunk> = some.iter().map(|(_, chunk)| chunk.clone()).collect();
        let mut streams = 0;
        for chunk in &some {
            streams |= 1 << (chunk.stream - 1);
            ends[usize::from(chunk.stream - 1)] = chunk.start + chunk.gap.unwrap_or(chunk.data.len() as u64);
        }
        pieces.push(PackedPiece {
            attempt: held.attempt,
            first_ordinal: some[0].ordinal,
            next_ordinal: some[some.len() - 1].ordinal + 1,
            ends,
            streams,
            place: FramePlace { at, length: 1, size: 1, piece_at: 0 },
        });
        shelf.pieces.lock().expect("whole").insert((key.clone(), at), some);
    }
    let pack = NewPack { key, size: 1 << 20, sha256: Sha256Digest([0; 32]), log_bytes: 1 };
    assert_eq!(world.store.move_logs(&pack, &pieces).await.expect("moved"), MovedLogs::Moved);
}

/// All that can be seen of a task's log.
async fn all_views(world: &World, task: TaskId) -> Vec<String> {
    let mut seen = Vec::new();
    for query in [
        "",
        "stream=stdout",
        "stream=stderr",
        "stream=stdout,stderr,build,system",
        "stream=stdout&offset=7",
        "stream=stdout&offset=60",
        "stream=stdout&offset=140",
        "stream=stderr&offset=3",
        "stream=stdout&offset=9999",
    ] {
        seen.push(format!("{:?}", bytes(world, task, query).await));
    }
    let everything = "follow=true&stream=stdout,stderr,build,system";
    let whole = messages(&mut events(world, task, everything, None).await, is_over).await;
    for message in whole.iter().filter(|message| !message.id.is_empty()) {
        let rest = messages(&mut events(world, task, everything, Some(&message.id)).await, is_over).await;
        seen.push(format!("{rest:?}"));
    }
    seen.push(format!("{whole:?}"));
    let view = json_of(world.get(&format!("/tasks/{task}")).await).await;
    seen.push(format!("{} {}", view["log_bytes"], view["attempts"][0]["log_bytes"]));
    let why = json_of(world.get(&format!("/tasks/{task}/why")).await).await;
    seen.push(format!("{why:?}"));
    seen
}

#[tokio::test]
async fn a_log_looks_the_same_whatever_of_it_was_moved_out() {
    let (world, node, shelf) = world().await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    let mut at = [0u64; 4];
    for n in 0..24u64 {
        let stream = [1, 1, 2, 1, 3, 4][n as usize % 6];
        let start = &mut at[usize::from(stream - 1)];
        let line = format!("line {n} \u{fffd}\n");
        if n == 9 {
            let gap = LogPiece { held, stream, start: *start, data: bytes::Bytes::new(), gap: Some(40) };
            world.store.append_logs(node.session, &[gap]).await.expect("stored");
            *start += 40;
        } else {
            world.append(&node, held, stream, *start, line.as_bytes()).await;
            *start += line.len() as u64;
        }
    }
    world.end(&node, held, exited(7), "exit 7", at[..3].iter().sum()).await;
    let before = all_views(&world, task).await;
    assert!(before.iter().any(|view| view.contains("\"complete\": Bool(true)")), "{before:?}");
    assert!(before.last().is_some_and(|why| why.contains("line 21")), "its last lines are evidence: {before:?}");
    for (count, each) in [(1, 1), (5, 2), (9, 4), (99, 3)] {
        move_out(&world, &shelf, held, count, each).await;
        let after = all_views(&world, task).await;
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "after {count} more in pieces of {each}");
        }
        assert_eq!(before.len(), after.len());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_running_attempt_is_followed_while_its_log_is_moved_and_while_the_store_is_away() {
    let (world, node, shelf) = world().await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    let append = async |n: u64| world.append(&node, held, 1, n * 8, format!("line {n:02}\n").as_bytes()).await;
    append(0).await;
    append(1).await;
    let mut follower = events(&world, task, "follow=true", None).await;
    let mut seen = messages(&mut follower, |seen| seen.len() == 2).await;
    move_out(&world, &shelf, held, 9, 1).await;
    append(2).await;
    seen.extend(messages(&mut follower, |seen| !seen.is_empty()).await);
    // Its end is in the database: who has come so far needs no object store.
    shelf.has(Some(ArchiveError::Away("gone fishing".into())));
    append(3).await;
    seen.extend(messages(&mut follower, |seen| !seen.is_empty()).await);
    assert_eq!(text_of(&seen), "line 00\nline 01\nline 02\nline 03\n");
    // One who begins now does, and is told.
    let refused = problem(events(&world, task, "follow=true", None).await).await;
    assert_eq!((word(&refused), &refused["status"]), ("object-store-away", &json!(503)));
    let near = messages(&mut events(&world, task, "follow=true", Some("1.1")).await, |seen| seen.len() == 2).await;
    assert_eq!(text_of(&near), "line 02\nline 03\n");
    let from =
        messages(&mut events(&world, task, "follow=true&stream=stdout&offset=24", None).await, |seen| !seen.is_empty())
            .await;
    assert_eq!(text_of(&from), "line 03\n");
    // Moved before anybody has read it, while it goes on.
    shelf.has(None);
    append(4).await;
    move_out(&world, &shelf, held, 9, 2).await;
    append(5).await;
    world.end(&node, held, exited(0), "", 48).await;
    let rest = messages(&mut follower, is_over).await;
    assert_eq!(text_of(&rest), "line 04\nline 05\n");
    assert_eq!(rest.last().expect("an end").data["complete"], json!(true));
    world.stop().await;
}

#[tokio::test]
async fn what_can_not_be_had_is_told_and_never_left_out() {
    let (world, node, shelf) = world().await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    for n in 0..6u64 {
        world.append(&node, held, 1, n * 7, format!("line {n}\n").as_bytes()).await;
    }
    world.end(&node, held, exited(1), "exit 1", 42).await;
    move_out(&world, &shelf, held, 4, 2).await;

    shelf.has(Some(ArchiveError::Away("connection refused at 10.0.0.7".into())));
    let away = problem(world.get(&format!("/tasks/{task}/logs")).await).await;
    assert_eq!(
        (word(&away), &away["status"], &away["retry_after_ms"]),
        ("object-store-away", &json!(503), &json!(2_000))
    );
    let told = away["detail"].as_str().expect("text");
    assert!(told.contains("in the object store, which does not answer") && !told.contains("10.0.0.7"), "{told}");
    assert_eq!(world.get(&format!("/tasks/{task}/why")).await.status(), StatusCode::OK, "evidence is only evidence");
    assert_eq!(bytes(&world, task, "stream=stdout&offset=28").await, "line 4\nline 5\n", "what is here needs no store");

    shelf.has(None);
    shelf.lose(1);
    // The first part is there: the answer begins, and is cut where it can't go on.
    let cut = world.get(&format!("/tasks/{task}/logs")).await;
    assert_eq!(cut.status(), StatusCode::OK);
    assert!(cut.bytes().await.is_err(), "a part never looks like the whole");
    let mut stream = events(&world, task, "follow=true", None).await;
    let seen = messages(&mut stream, |seen| seen.len() == 2).await;
    let lost = problem(events(&world, task, "follow=true", Some(&seen[1].id)).await).await;
    assert_eq!((word(&lost), &lost["status"], &lost["next_ordinal"]), ("log-lost", &json!(410), &json!(4)));
    assert!(lost["detail"].as_str().expect("text").contains("Last-Event-ID: 1.3"), "{lost}");
    let behind: Vec<Message> = messages(&mut events(&world, task, "follow=true", Some("1.3")).await, is_over).await;
    assert_eq!(text_of(&behind), "line 4\nline 5\n");

    // Another server, which was told of no object store.
    let other = World::start().await;
    let task = other.submit(&ls()).await;
    let node = other.node("lab-3", facts(4, 8, &[])).await;
    let held = other.start_on(task, &node).await;
    other.append(&node, held, 1, 0, b"moved").await;
    move_out(&other, &shelf, held, 9, 9).await;
    let none =
        other.request(Method::GET, &format!("/tasks/{task}/logs"), &other.member).send().await.expect("an answer");
    assert_eq!(word(&problem(none).await), "no-object-store");
    other.stop().await;
    world.stop().await;
}
