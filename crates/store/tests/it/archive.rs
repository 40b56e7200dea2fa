//! Logs that are moved out: nobody who reads them can tell, whoever moves them, however often, and whatever else happens meanwhile.

use crate::world::{Node, World, connect, exited, piece, succeeded};
use chrono::TimeDelta;
use domain::{artifact::Sha256Digest, attempt::Report, ids::Held};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use store::{
    Depth, FramePlace, LogChunk, LogPiece, LogRead, LogStretch, MovedLogs, NewPack, Outcome, PackedPiece, Store,
    WaitingLog,
};
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(86_400);

/// Stands for the object store: what was put where.
#[derive(Default)]
struct Packs(BTreeMap<(String, u32), Vec<LogChunk>>);

async fn waiting(store: &Store) -> Vec<WaitingLog> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let bite = store.waiting_logs(after, 2).await.expect("read");
        all.extend(bite.logs);
        after = bite.next;
        if after.is_none() {
            return all;
        }
    }
}

async fn to_move(store: &Store, log: &WaitingLog, count: u64, max_bytes: usize) -> Vec<LogChunk> {
    let stop = log.next_ordinal.min(log.first_ordinal + count);
    let (mut chunks, mut first): (Vec<LogChunk>, u64) = (Vec::new(), log.first_ordinal);
    loop {
        let stretch = LogStretch { attempt: log.attempt, first_ordinal: first, next_ordinal: stop };
        let (some, is_all) = store.chunks_to_move(&[stretch], max_bytes).await.expect("read");
        first = some.last().map_or(stop, |(_, chunk)| chunk.ordinal + 1);
        chunks.extend(some.into_iter().map(|(_, chunk)| chunk));
        if is_all {
            return chunks;
        }
    }
}

fn end(chunk: &LogChunk) -> u64 {
    chunk.start + chunk.gap.unwrap_or(chunk.data.len() as u64)
}

/// Pieces of so many chunks each.
fn packed(log: &WaitingLog, chunks: &[LogChunk], each: usize) -> Vec<(PackedPiece, Vec<LogChunk>)> {
    let mut ends = log.ends;
    let pieces = chunks.chunks(each).enumerate().map(|(n, chunks)| {
        let mut streams = 0;
        for chunk in chunks {
            streams |= 1 << (chunk.stream - 1);
            ends[usize::from(chunk.stream - 1)] = end(chunk);
        }
        let (first_ordinal, next_ordinal) = (chunks[0].ordinal, chunks[chunks.len() - 1].ordinal + 1);
        let place = FramePlace { at: n as u32, length: 1, size: 1, piece_at: 0 };
        let piece = PackedPiece { attempt: log.attempt, first_ordinal, next_ordinal, ends, streams, place };
        (piece, chunks.to_vec())
    });
    pieces.collect()
}

fn new_pack(pieces: usize) -> NewPack {
    let key = format!("logs/{}", Uuid::new_v4());
    NewPack { key, size: pieces as u64 + 1, sha256: Sha256Digest([7; 32]), log_bytes: 10 }
}

async fn moved(store: &Store, pieces: &[(PackedPiece, Vec<LogChunk>)], packs: &mut Packs) -> MovedLogs {
    let pack = new_pack(pieces.len());
    store.announce_pack(&pack.key, DAY).await.expect("announced");
    for (piece, chunks) in pieces {
        packs.0.insert((pack.key.clone(), piece.place.at), chunks.clone());
    }
    let pieces: Vec<PackedPiece> = pieces.iter().map(|(piece, _)| *piece).collect();
    store.move_logs(&pack, &pieces).await.expect("answered")
}

/// All of a log from a place on, as a reader goes.
async fn read(store: &Store, held: Held, from: u64, streams: &[u8], packs: &Packs) -> Vec<LogChunk> {
    let (mut all, mut next) = (Vec::new(), from);
    loop {
        let (mut chunks, stop) = match store.read_log(held.attempt, next, streams, 40).await.expect("read") {
            LogRead::Chunks(chunks) if chunks.is_empty() => return all,
            LogRead::Chunks(chunks) => {
                let stop = chunks[chunks.len() - 1].ordinal + 1;
                (chunks, stop)
            }
            LogRead::Archived(piece) => {
                let chunks = packs.0[&(piece.key.clone(), piece.place.at)].clone();
                assert_eq!((chunks[0].ordinal, piece.attempt), (piece.first_ordinal, held.attempt));
                (chunks, piece.next_ordinal)
            }
        };
        assert!(stop > next, "it goes on");
        chunks.retain(|chunk| chunk.ordinal >= next && streams.contains(&chunk.stream));
        all.extend(chunks);
        next = stop;
    }
}

async fn assert_sound(world: &World) {
    for finding in world.store.audit(Depth::Whole, Duration::from_secs(20)).await.expect("audited") {
        assert_eq!(finding.outcome, Outcome::Holds, "{}", finding.id);
    }
}

/// Has written these chunks.
async fn written(world: &World, node: Node, texts: &[&str]) -> Held {
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    append(world, node, held, texts).await;
    held
}

async fn append(world: &World, node: Node, held: Held, texts: &[&str]) {
    let mut start = world.store.log_offsets(held.attempt).await.expect("read")[0];
    let pieces: Vec<LogPiece> = texts
        .iter()
        .map(|text| {
            start += text.len() as u64;
            piece(held, 1, start - text.len() as u64, text.as_bytes())
        })
        .collect();
    world.store.append_logs(node.session, &pieces).await.expect("stored");
}

async fn log_of(store: &Store, held: Held) -> WaitingLog {
    waiting(store).await.into_iter().find(|log| log.attempt == held.attempt).expect("it waits")
}

/// What a node, a mover and a reader do, in any order.
#[derive(Clone, Debug)]
enum Step {
    Write {
        stream: u8,
        bytes: usize,
        is_gap: bool,
    },
    Move {
        count: u64,
        each: usize,
        max_bytes: usize,
    },
    /// The one who was slower moves what another has moved.
    MoveTwice {
        count: u64,
    },
    Read {
        from: u64,
        streams: Vec<u8>,
    },
    ReadAt {
        stream: u8,
        offset: u64,
    },
    Tail {
        bytes: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (1u8..5, 1usize..60, prop::bool::weighted(0.15)).prop_map(|(stream, bytes, is_gap)| Step::Write {
        stream,
        bytes,
        is_gap,
    });
    let read = (0u64..30, prop::sample::subsequence(vec![1u8, 2, 3, 4], 1..5))
        .prop_map(|(from, streams)| Step::Read { from, streams });
    let step = prop_oneof![
        6 => write,
        3 => (1u64..12, 1usize..5, 1usize..80).prop_map(|(count, each, max_bytes)| Step::Move { count, each, max_bytes }),
        1 => (1u64..12).prop_map(|count| Step::MoveTwice { count }),
        3 => read,
        2 => (1u8..5, 0u64..400).prop_map(|(stream, offset)| Step::ReadAt { stream, offset }),
        1 => (1usize..100).prop_map(|bytes| Step::Tail { bytes }),
    ];
    prop::collection::vec(step, 1..40)
}

#[test]
fn a_log_reads_the_same_whatever_of_it_was_moved_out() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (world, node) = runtime.block_on(async {
        let world = World::start().await;
        let node = world.node("n").await;
        (world, node)
    });
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(async {
            let task = world.submit(json!({})).await;
            let held = world.start_on(task, node).await;
            let (mut all, mut ends, mut packs) = (Vec::<LogChunk>::new(), [0u64; 4], Packs::default());
            for step in steps {
                go(&world, node, held, step, &mut all, &mut ends, &mut packs).await;
            }
            assert_eq!(world.store.log_offsets(held.attempt).await.expect("read"), ends, "as the agent is told");
            assert_eq!(read(&world.store, held, 0, &[1, 2, 3, 4], &packs).await, all);
            // Moved to its last chunk, it is the same.
            for log in waiting(&world.store).await.into_iter().filter(|log| log.attempt == held.attempt) {
                let chunks = to_move(&world.store, &log, u64::MAX >> 2, 1 << 20).await;
                assert_eq!(moved(&world.store, &packed(&log, &chunks, 3), &mut packs).await, MovedLogs::Moved);
            }
            assert_eq!(read(&world.store, held, 0, &[1, 2, 3, 4], &packs).await, all);
            assert_sound(&world).await;
        });
        Ok(())
    });
    outcome.expect("the property holds");
    runtime.block_on(async { world.store.close().await });
}

async fn go(
    world: &World,
    node: Node,
    held: Held,
    step: Step,
    all: &mut Vec<LogChunk>,
    ends: &mut [u64; 4],
    packs: &mut Packs,
) {
    let log = waiting(&world.store).await.into_iter().find(|log| log.attempt == held.attempt);
    match step {
        Step::Write { stream, bytes, is_gap } => {
            let start = ends[usize::from(stream - 1)];
            let data: Vec<u8> = (0..bytes).map(|n| (n as u64 + start + u64::from(stream)) as u8).collect();
            let mut new = piece(held, stream, start, if is_gap { b"" } else { &data });
            new.gap = is_gap.then_some(bytes as u64);
            // Twice: the answer to the first was lost.
            for _ in 0..2 {
                world.store.append_logs(node.session, std::slice::from_ref(&new)).await.expect("stored");
            }
            ends[usize::from(stream - 1)] += bytes as u64;
            let ordinal = all.len() as u64;
            all.push(LogChunk { ordinal, stream, start, data: new.data, gap: new.gap });
        }
        Step::Move { count, each, max_bytes } => {
            let Some(log) = log else { return };
            let chunks = to_move(&world.store, &log, count, max_bytes).await;
            let first = log.first_ordinal as usize;
            assert_eq!(chunks, all[first..all.len().min(first + count as usize)], "what is moved is what was written");
            assert_eq!(moved(&world.store, &packed(&log, &chunks, each), packs).await, MovedLogs::Moved);
        }
        Step::MoveTwice { count } => {
            let Some(log) = log else { return };
            let chunks = to_move(&world.store, &log, count, 1 << 20).await;
            let pieces = packed(&log, &chunks, 2);
            assert_eq!(moved(&world.store, &pieces, packs).await, MovedLogs::Moved);
            assert_eq!(moved(&world.store, &pieces, &mut Packs::default()).await, MovedLogs::Stale);
        }
        Step::Read { from, streams } => {
            let expected: Vec<LogChunk> =
                all.iter().filter(|chunk| chunk.ordinal >= from && streams.contains(&chunk.stream)).cloned().collect();
            assert_eq!(read(&world.store, held, from, &streams, packs).await, expected);
        }
        Step::ReadAt { stream, offset } => {
            let from = world.store.log_ordinal_at(held.attempt, stream, offset).await.expect("read");
            let behind = |chunks: Vec<LogChunk>| -> Vec<LogChunk> {
                chunks.into_iter().filter(|chunk| chunk.stream == stream && end(chunk) > offset).collect()
            };
            assert_eq!(behind(read(&world.store, held, from, &[stream], packs).await), behind(all.clone()));
        }
        Step::Tail { bytes } => {
            let tail = world.store.log_tail(held.attempt, bytes).await.expect("read");
            let mut found: Vec<u8> = Vec::new();
            if let Some(piece) = &tail.before {
                let chunks = &packs.0[&(piece.key.clone(), piece.place.at)];
                chunks.iter().filter(|chunk| tail.streams.contains(&chunk.stream)).for_each(|c| found.extend(&c.data));
            }
            found.extend(&tail.bytes);
            let whole: Vec<u8> =
                all.iter().filter(|chunk| chunk.stream < 3).flat_map(|chunk| chunk.data.to_vec()).collect();
            assert!(whole.ends_with(&found), "a tail of the log");
            assert!(whole.is_empty() || !found.is_empty() || all.iter().any(|chunk| chunk.gap.is_some()));
        }
    }
}

#[tokio::test]
async fn of_two_who_move_the_same_at_once_one_does() {
    let world = World::start().await;
    let node = world.node("n").await;
    let other = connect(&world.database).await;
    for _ in 0..10 {
        let held = written(&world, node, &["a", "b", "c"]).await;
        let log = log_of(&world.store, held).await;
        let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
        let (mut ours, mut theirs) = (Packs::default(), Packs::default());
        let pieces = packed(&log, &chunks, 2);
        let (a, b) = tokio::join!(moved(&world.store, &pieces, &mut ours), moved(&other, &pieces, &mut theirs));
        assert!(
            matches!((a, b), (MovedLogs::Moved, MovedLogs::Stale) | (MovedLogs::Stale, MovedLogs::Moved)),
            "{a:?} {b:?}"
        );
        let packs = if a == MovedLogs::Moved { ours } else { theirs };
        assert_eq!(read(&world.store, held, 0, &[1], &packs).await, chunks);
    }
    assert_sound(&world).await;
}

#[tokio::test]
async fn what_is_written_while_it_is_moved_stays_and_is_moved_later() {
    let world = World::start().await;
    let node = world.node("n").await;
    let held = written(&world, node, &["one ", "two "]).await;
    let mut packs = Packs::default();
    let log = log_of(&world.store, held).await;
    let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
    append(&world, node, held, &["three "]).await;
    assert_eq!(moved(&world.store, &packed(&log, &chunks, 9), &mut packs).await, MovedLogs::Moved);
    let log = log_of(&world.store, held).await;
    assert_eq!((log.first_ordinal, log.next_ordinal, log.bytes, log.ends), (2, 3, 6, [8, 0, 0, 0]));
    let text: Vec<u8> = read(&world.store, held, 0, &[1], &packs).await.iter().flat_map(|c| c.data.to_vec()).collect();
    assert_eq!(text, b"one two three ");
}

#[tokio::test]
async fn a_pack_that_was_not_announced_or_is_about_to_be_deleted_is_no_place_for_logs() {
    let world = World::start().await;
    let node = world.node("n").await;
    let held = written(&world, node, &["kept"]).await;
    let log = log_of(&world.store, held).await;
    let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
    let pieces: Vec<PackedPiece> = packed(&log, &chunks, 9).into_iter().map(|(piece, _)| piece).collect();
    let pack = new_pack(1);
    assert_eq!(world.store.move_logs(&pack, &pieces).await.expect("answered"), MovedLogs::Stale);
    world.store.announce_pack(&pack.key, Duration::from_secs(60)).await.expect("announced");
    assert_eq!(world.store.move_logs(&pack, &pieces).await.expect("answered"), MovedLogs::Stale);
    assert_eq!(read(&world.store, held, 0, &[1], &Packs::default()).await, chunks);
    // Given up, it is deleted at once.
    assert!(world.store.due_garbage(9).await.expect("read").is_empty());
    world.store.abandon_pack(&pack.key).await.expect("given up");
    let due = world.store.due_garbage(9).await.expect("read");
    assert_eq!(due.iter().map(|garbage| &garbage.key).collect::<Vec<_>>(), [&pack.key]);
    // What was moved is not on that list, and known.
    let pack = new_pack(1);
    world.store.announce_pack(&pack.key, DAY).await.expect("announced");
    assert_eq!(world.store.move_logs(&pack, &pieces).await.expect("answered"), MovedLogs::Moved);
    assert_eq!(world.count("SELECT count(*) FROM artifact_garbage").await, 1);
    assert_eq!(world.store.known_keys(std::slice::from_ref(&pack.key)).await.expect("read"), [pack.key.clone()].into());
    let known = world.store.packs_after(0, 9).await.expect("read");
    assert_eq!((known.len(), known[0].size, known[0].pieces), (1, pack.size, 1));
}

#[tokio::test]
async fn one_at_a_time_moves_logs() {
    let world = World::start().await;
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let claim =
        async |holder, seconds| world.store.claim_log_mover(holder, Duration::from_secs(seconds)).await.expect("asked");
    assert!(claim(one, 60).await && !claim(two, 60).await && claim(one, 0).await && claim(two, 60).await);
    // A clock that was set back by years gives nobody the right for years.
    world.database.execute("UPDATE log_mover SET until = now() + interval '3 years'").await;
    assert!(claim(one, 60).await);
}

/// Has ended two days ago, in its id too.
async fn ended_long_ago(world: &World, node: Node, held: Held) {
    for report in [exited(0), succeeded(), Report::Released] {
        world.report(node, held, report).await;
    }
    world
        .database
        .execute(
            "UPDATE task_state SET ended_at = ended_at - interval '2 days' WHERE ended_at IS NOT NULL;
             UPDATE attempts SET ended_at = ended_at - interval '2 days' WHERE ended_at IS NOT NULL",
        )
        .await;
}

#[tokio::test]
async fn archived_logs_go_with_their_task_and_a_pack_with_its_last_one() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (first, second) = (written(&world, node, &["a", "b"]).await, written(&world, node, &["c"]).await);
    let mut packs = Packs::default();
    let mut pieces = Vec::new();
    for held in [first, second] {
        let log = log_of(&world.store, held).await;
        assert_eq!(log.ended, None);
        let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
        let base = pieces.len() as u32;
        pieces.extend(packed(&log, &chunks, 1).into_iter().map(|(mut piece, chunks)| {
            piece.place.at += base;
            (piece, chunks)
        }));
    }
    assert_eq!(moved(&world.store, &pieces, &mut packs).await, MovedLogs::Moved);
    let expire = async || world.store.expire_tasks(TimeDelta::zero(), None, 100).await.expect("walked").deleted;
    ended_long_ago(&world, node, first).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(expire().await, 1);
    assert_eq!(world.count("SELECT count(*) FROM log_archive").await, 1);
    assert_eq!(world.store.drop_empty_packs(DAY, 9).await.expect("done"), 0, "somebody's log is in it");
    assert_sound(&world).await;
    ended_long_ago(&world, node, second).await;
    assert_eq!(expire().await, 1);
    assert_sound(&world).await;
    assert_eq!(world.store.drop_empty_packs(Duration::from_secs(3_600), 9).await.expect("done"), 1);
    assert_eq!(world.count("SELECT count(*) FROM log_packs").await, 0);
    let listed =
        "SELECT count(*) FROM artifact_garbage WHERE key LIKE 'logs/%' AND due_at > now() + interval '59 minutes'";
    assert_eq!(world.count(listed).await, 1, "an older backup still names it");
    assert_sound(&world).await;
}

#[tokio::test]
async fn whoever_deletes_a_task_while_its_log_is_moved_leaves_nothing_behind() {
    let world = World::start().await;
    let node = world.node("n").await;
    let other = connect(&world.database).await;
    let mut outcomes = BTreeMap::new();
    for round in 0..12 {
        let held = written(&world, node, &["a", "b"]).await;
        ended_long_ago(&world, node, held).await;
        let log = log_of(&world.store, held).await;
        let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
        let pieces = packed(&log, &chunks, 1);
        let mut packs = Packs::default();
        let expire = async {
            // Sometimes the one is first, sometimes the other.
            tokio::time::sleep(Duration::from_micros(700 * (round % 4))).await;
            other.expire_tasks(TimeDelta::zero(), None, 1_000).await.expect("walked")
        };
        let (expired, moved) = tokio::join!(expire, moved(&world.store, &pieces, &mut packs));
        assert_eq!(expired.deleted, 1);
        *outcomes.entry(format!("{moved:?}")).or_insert(0) += 1;
        assert_eq!(world.count("SELECT count(*) FROM log_chunks").await, 0);
        assert_eq!(world.count("SELECT count(*) FROM log_archive").await, 0);
        assert_sound(&world).await;
    }
    eprintln!("{outcomes:?}");
}

#[tokio::test]
async fn a_breach_in_the_archive_is_found() {
    let breaches = [
        (
            "logs-have-no-silent-gap",
            "where 1 is due",
            "UPDATE log_archive SET first_ordinal = 0 WHERE first_ordinal = 1",
        ),
        (
            "logs-have-no-silent-gap",
            "goes back at piece 1",
            "UPDATE log_archive SET stdout_end = 1 WHERE first_ordinal = 1",
        ),
        (
            "logs-have-no-silent-gap",
            "1 bytes are missing before byte 6",
            "UPDATE log_chunks SET start = start + 1, data = '12'",
        ),
        ("log-heads-are-true", "pieces", "DELETE FROM log_chunks"),
        ("archived-logs-are-in-packs", "which is not there", "DELETE FROM log_packs"),
        ("archived-logs-are-in-packs", "behind the end of its pack", "UPDATE log_packs SET size = 1"),
        ("archived-logs-are-in-packs", "counts 3 pieces, and 2 are in it", "UPDATE log_packs SET pieces = 3"),
        (
            "archived-logs-are-in-packs",
            "on the list of what is deleted",
            "INSERT INTO artifact_garbage (key, due_at) SELECT key, now() FROM log_packs",
        ),
        (
            "no-row-stands-alone",
            "an archived log is of attempt",
            "UPDATE log_archive SET attempt_id = gen_random_uuid() WHERE first_ordinal = 0",
        ),
    ];
    for (id, words, breach) in breaches {
        let world = World::start().await;
        let node = world.node("n").await;
        let held = written(&world, node, &["aa", "bbb"]).await;
        let log = log_of(&world.store, held).await;
        let chunks = to_move(&world.store, &log, 9, 1 << 20).await;
        assert_eq!(moved(&world.store, &packed(&log, &chunks, 1), &mut Packs::default()).await, MovedLogs::Moved);
        append(&world, node, held, &["ccc"]).await;
        assert_sound(&world).await;
        world.database.execute(breach).await;
        let findings = world.store.audit(Depth::Whole, Duration::from_secs(20)).await.expect("audited");
        let found = findings.iter().any(|finding| {
            finding.id == id
                && matches!(&finding.outcome, Outcome::Broken { rows, .. } if rows.iter().any(|row| row.contains(words)))
        });
        assert!(found, "{breach}: {findings:#?}");
        world.store.close().await;
    }
}
