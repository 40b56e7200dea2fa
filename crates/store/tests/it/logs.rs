//! Log bytes: each once, in their order, however they were cut and repeated on the way.

use crate::world::{World, connect, piece};
use domain::{ids::Held, principal::Scope};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use store::{LogChunk, LogPiece, LogRead, SessionPieces, Store};

/// Chunks of a log of which nothing was moved out.
async fn chunks(store: &Store, held: Held, from: u64, streams: &[u8], max_bytes: usize) -> Vec<LogChunk> {
    match store.read_log(held.attempt, from, streams, max_bytes).await.expect("read") {
        LogRead::Chunks(chunks) => chunks,
        LogRead::Archived(piece) => panic!("{piece:?}"),
    }
}

async fn stream(store: &Store, held: Held, stream: u8) -> Vec<u8> {
    let (mut bytes, mut next) = (Vec::new(), 0);
    loop {
        let chunks = chunks(store, held, next, &[stream], 1_000).await;
        let Some(last) = chunks.last() else { return bytes };
        next = last.ordinal + 1;
        for chunk in chunks {
            assert_eq!(chunk.start, bytes.len() as u64, "without holes and without overlaps");
            bytes.extend_from_slice(&chunk.data);
        }
    }
}

#[test]
fn any_cuts_and_repeats_give_the_same_bytes() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (world, node) = runtime.block_on(async {
        let world = World::start().await;
        let node = world.node("n").await;
        (world, node)
    });
    // Pieces as (where it begins behind what was sent, how long it is): overlaps, repeats, and holes that are refused.
    let sends = prop::collection::vec((0u64..40, 0u64..60, 1u8..3, any::<bool>()), 1..25);
    let outcome =
        TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() }).run(&sends, |sends| {
            runtime.block_on(async {
                let task = world.submit(json!({})).await;
                let held = world.place(task, node).await;
                let whole: Vec<u8> = (0..2_000u32).map(|n| (n % 251) as u8).collect();
                // What must be stored by the plain rule: a piece counts where nothing before it is missing.
                let mut stored = [0u64; 3];
                let mut batch: Vec<LogPiece> = Vec::new();
                for (n, (back, length, stream, flush)) in sends.iter().enumerate() {
                    let known = stored[usize::from(*stream)];
                    let start = if n % 7 == 6 { known + 5 } else { known.saturating_sub(*back) };
                    let end = (start + length).min(whole.len() as u64);
                    batch.push(piece(held, *stream, start, &whole[start as usize..end as usize]));
                    if *flush {
                        // Twice: the answer to the first was lost.
                        send(&world.store, node.session, &batch, &mut stored).await;
                        send(&world.store, node.session, &batch, &mut stored).await;
                        batch.clear();
                    }
                }
                send(&world.store, node.session, &batch, &mut stored).await;
                for number in [1u8, 2] {
                    let until = stored[usize::from(number)] as usize;
                    assert_eq!(stream(&world.store, held, number).await, whole[..until], "stream {number}");
                }
            });
            Ok(())
        });
    outcome.expect("the property holds");
    runtime.block_on(async { world.store.close().await });
}

async fn send(store: &Store, session: store::SessionKey, batch: &[LogPiece], stored: &mut [u64; 3]) {
    for piece in batch {
        let known = &mut stored[usize::from(piece.stream)];
        if piece.start <= *known {
            *known = (*known).max(piece.start + piece.data.len() as u64);
        }
    }
    for ack in store.append_logs(session, batch).await.expect("stored") {
        assert_eq!(ack.next_offset, stored[usize::from(ack.stream)], "what is acknowledged is what is stored");
    }
}

#[tokio::test]
async fn two_that_send_the_same_at_once_store_it_once() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    let other = connect(&world.database).await;
    for n in 0..30u64 {
        let pieces = [piece(held, 1, n * 4, b"abcd"), piece(held, 2, n * 2, b"ef")];
        let (a, b) =
            tokio::join!(world.store.append_logs(node.session, &pieces), other.append_logs(node.session, &pieces));
        assert_eq!(a.expect("stored"), b.expect("stored"));
    }
    assert_eq!(stream(&world.store, held, 1).await, b"abcd".repeat(30));
    assert_eq!(stream(&world.store, held, 2).await, b"ef".repeat(30));
}

#[tokio::test]
async fn logs_of_several_nodes_are_stored_at_once_and_acknowledged_to_each() {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let (first, second) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let (first, second) = (world.place(first, one).await, world.place(second, two).await);
    let batch = [
        SessionPieces { session: one.session, pieces: vec![piece(first, 1, 0, b"ab"), piece(first, 1, 2, b"cd")] },
        SessionPieces { session: two.session, pieces: vec![piece(second, 2, 0, b"x"), piece(first, 1, 4, b"forged")] },
        SessionPieces { session: one.session, pieces: vec![piece(first, 1, 1, b"bcdef")] },
    ];
    let acks = world.store.append_logs_of_many(&batch).await.expect("stored");
    let told: Vec<Vec<(bool, u8, u64)>> = acks
        .iter()
        .map(|of| of.iter().map(|ack| (ack.attempt == first.attempt, ack.stream, ack.next_offset)).collect())
        .collect();
    assert_eq!(told, [vec![(true, 1, 4)], vec![(false, 2, 1)], vec![(true, 1, 6)]]);
    assert_eq!(stream(&world.store, first, 1).await, b"abcdef");
    assert_eq!(stream(&world.store, second, 2).await, b"x");
}

#[tokio::test]
async fn another_nodes_log_is_not_touched() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    assert!(
        world.store.append_logs(other.session, &[piece(held, 1, 0, b"forged")]).await.expect("answered").is_empty()
    );
    assert_eq!(stream(&world.store, held, 1).await, b"");
}

#[tokio::test]
async fn a_gap_takes_the_place_of_what_is_missing() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    let gap = |start, gap| LogPiece { gap: Some(gap), ..piece(held, 1, start, b"") };
    let pieces = [piece(held, 1, 0, b"abc"), gap(3, 100), piece(held, 1, 103, b"def")];
    world.store.append_logs(node.session, &pieces).await.expect("stored");
    // Repeated with another cut, it is the same gap.
    world.store.append_logs(node.session, &[gap(0, 50)]).await.expect("nothing new");
    let chunks = chunks(&world.store, held, 0, &[1], 1 << 20).await;
    let seen: Vec<(u64, Option<u64>, &[u8])> = chunks.iter().map(|c| (c.start, c.gap, &c.data[..])).collect();
    assert_eq!(seen, [(0, None, &b"abc"[..]), (3, Some(100), b""), (103, None, b"def")]);
    assert_eq!(world.store.log_offsets(held.attempt).await.expect("read"), [106, 0, 0, 0]);
    let at = async |offset| world.store.log_ordinal_at(held.attempt, 1, offset).await.expect("read");
    assert_eq!((at(0).await, at(50).await, at(103).await, at(106).await), (0, 1, 2, 3));
}

#[tokio::test]
async fn a_read_is_bounded_and_gives_at_least_one_piece() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    let pieces: Vec<LogPiece> = (0..100).map(|n| piece(held, 1, n * 10, &[b'x'; 10])).collect();
    world.store.append_logs(node.session, &pieces).await.expect("stored");
    let read = async |from, max| chunks(&world.store, held, from, &[1, 2], max).await;
    assert_eq!(read(0, 1).await.len(), 1);
    assert_eq!(read(0, 95).await.len(), 10);
    assert_eq!(read(95, 1 << 20).await.iter().map(|chunk| chunk.ordinal).collect::<Vec<_>>(), [95, 96, 97, 98, 99]);
    assert!(read(100, 1 << 20).await.is_empty());
    assert_eq!(world.store.log_tail(held.attempt, 25).await.expect("read").bytes.len(), 25);
    let found = world.store.attempt_by_number(Scope::All, task, None).await.expect("read").expect("there");
    assert_eq!((found.0, found.1), (held.attempt, 1));
    assert_eq!(world.store.attempt_by_number(Scope::All, task, Some(2)).await.expect("read"), None);
    assert_eq!(world.store.attempt_by_number(crate::world::other_project(), task, None).await.expect("read"), None);
}
