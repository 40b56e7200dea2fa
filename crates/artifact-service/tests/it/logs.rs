//! Logs in the object store: moved by the real loop, read back byte for byte, whatever happens to the store, the mover and the tasks meanwhile.

use crate::world::{ADMIN, Kind, World, eventually, good, times};
use artifact_service::{Archiving, Times};
use bytes::Bytes;
use domain::{
    attempt::Report,
    ids::{DEFAULT_PROJECT, Held, InstanceId, NodeId, NodeTokenId, PrincipalId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, LogTotals},
    placement::Placement,
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    resources::{Capacity, Reservation},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use store::{
    ArchiveError, DatabaseConfig, LeaderRole, LogArchive as _, LogChunk, LogPiece, LogRead, NewNodeToken, NewTask,
    NodeReport, OpenSession, Opened, SessionKey, Store, Submitted,
};
use uuid::Uuid;

/// All that has ended goes at once, and nothing that runs.
fn eager() -> Times {
    let archiving = Archiving {
        every: Duration::from_millis(50),
        settle: Duration::ZERO,
        wait: Duration::ZERO,
        ..Archiving::default()
    };
    Times { archiving, ..times() }
}

/// What runs goes too, as soon as there is this much of it.
fn eager_with_running(running_bytes: u64) -> Times {
    let archiving = Archiving { running_bytes, pack_bytes: 4 * running_bytes, ..eager().archiving };
    Times { archiving, ..eager() }
}

fn origin() -> Origin {
    let id = PrincipalId::from_uuid(Uuid::from_u128(5));
    let principal = Principal { kind: PrincipalKind::ApiKey, id, name: "ana".into(), role: Role::Admin, project: None };
    Origin { principal, address: "test".into(), request_id: "test".into() }
}

/// A node on which everything fits.
async fn node(world: &World) -> (NodeId, SessionKey) {
    let id = NodeId::from_uuid(Uuid::now_v7());
    let token = NewNodeToken {
        id: NodeTokenId::from_uuid(id.as_uuid()),
        node: id,
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        name: format!("n-{id}"),
        secret_hash: vec![1; 32],
    };
    assert!(world.store.create_node_token(&token, &origin()).await.expect("made"));
    let capacity = Capacity { cpu_millis: 1 << 30, memory_bytes: 1 << 50, disk_bytes: 1 << 50, gpus: Vec::new() };
    let hello = OpenSession {
        node: id,
        instance: InstanceId::from_uuid(Uuid::now_v7()),
        facts: NodeFacts {
            capacity,
            executors: [("process".to_owned(), "1".to_owned())].into(),
            ..NodeFacts::default()
        },
        metrics: NodeMetrics::default(),
        attempts: Vec::new(),
        complete_executors: ["process".to_owned()].into(),
        newest_epoch: i64::MAX,
    };
    match world.store.open_session(&hello).await.expect("opened") {
        Opened::Session { key, .. } => (id, key),
        other => panic!("{other:?}"),
    }
}

/// So many attempts that run on it.
async fn running(world: &World, (node, session): (NodeId, SessionKey), count: usize) -> Vec<Held> {
    let spec = domain::spec::parse_spec(&json!({ "command": ["ls"] })).expect("a task");
    let task = || NewTask {
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        spec: spec.clone(),
        idempotency: None,
    };
    let tasks: Vec<NewTask> = (0..count).map(|_| task()).collect();
    let ids: Vec<_> = world
        .store
        .submit_tasks(&tasks)
        .await
        .expect("accepted")
        .into_iter()
        .map(|answer| match answer {
            Submitted::Accepted { id } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    let leader =
        world.store.lead(LeaderRole::Scheduler, Uuid::from_u128(9), None).await.expect("asked").expect("leads");
    let reservation = Reservation { cpu_millis: 1, memory_bytes: 1, ..Reservation::default() };
    let plan: Vec<Placement> =
        ids.iter().map(|task| Placement { task: *task, node, reservation: reservation.clone() }).collect();
    world.store.commit_placements(&leader, &plan).await.expect("committed");
    let mut held = Vec::new();
    for id in ids {
        let detail = world.store.get_task(Scope::All, id).await.expect("read").expect("there");
        held.push(detail.attempts.last().expect("an attempt").row.held());
    }
    let reports = held.iter().flat_map(|held| {
        [Report::Accepted, Report::Preparing, Report::Started].map(|report| NodeReport { held: *held, report })
    });
    world.store.record_reports(session, &reports.collect::<Vec<_>>()).await.expect("recorded");
    held
}

async fn end(world: &World, session: SessionKey, held: &[Held]) {
    let ending =
        || Ending { failure: None, message: String::new(), exit: None, planned_stop: false, log: LogTotals::default() };
    let reports = held.iter().flat_map(|held| {
        let exit = ExitFacts { code: Some(0), ..ExitFacts::default() };
        [Report::Exited { exit }, Report::Ended { ending: ending() }, Report::Released]
            .map(|report| NodeReport { held: *held, report })
    });
    world.store.record_reports(session, &reports.collect::<Vec<_>>()).await.expect("recorded");
}

/// Appends to one stream where it stands.
async fn append(world: &World, session: SessionKey, held: Held, stream: u8, texts: &[Vec<u8>]) {
    let mut start = world.store.log_offsets(held.attempt).await.expect("read")[usize::from(stream - 1)];
    let pieces: Vec<LogPiece> = texts
        .iter()
        .map(|text| {
            start += text.len() as u64;
            LogPiece { held, stream, start: start - text.len() as u64, data: Bytes::copy_from_slice(text), gap: None }
        })
        .collect();
    world.store.append_logs(session, &pieces).await.expect("stored");
}

/// What a program writes: words that repeat, and numbers that do not.
fn lines(seed: u64, bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut at = seed;
    while text.len() < bytes {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (step, loss) = (at >> 50, (at >> 20) % 100_000);
        text.extend_from_slice(
            format!(
                "2026-11-23T01:{:02}:{:02}Z INFO train: step={step} loss=0.{loss:05} lr=3e-4\n",
                at % 60,
                (at >> 6) % 60
            )
            .as_bytes(),
        );
    }
    text.truncate(bytes);
    text
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut at = seed | 1;
    let next = || {
        at ^= at << 13;
        at ^= at >> 7;
        at ^= at << 17;
        at as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// All of a log, from wherever it is.
async fn read(world: &World, held: Held, streams: &[u8]) -> Result<Vec<LogChunk>, ArchiveError> {
    let (mut all, mut next) = (Vec::new(), 0);
    loop {
        let (mut chunks, stop) = match world.store.read_log(held.attempt, next, streams, 1 << 20).await.expect("read") {
            LogRead::Chunks(chunks) if chunks.is_empty() => return Ok(all),
            LogRead::Chunks(chunks) => {
                let stop = chunks[chunks.len() - 1].ordinal + 1;
                (chunks, stop)
            }
            LogRead::Archived(piece) => (world.objects.read(&piece).await?, piece.next_ordinal),
        };
        chunks.retain(|chunk| chunk.ordinal >= next && streams.contains(&chunk.stream));
        all.extend(chunks);
        next = stop;
    }
}

async fn read_all(world: &World, logs: &[Held]) -> BTreeMap<Uuid, Vec<LogChunk>> {
    let mut all = BTreeMap::new();
    for held in logs {
        all.insert(held.attempt.as_uuid(), read(world, *held, &[1, 2, 3, 4]).await.expect("readable"));
    }
    all
}

async fn number(world: &World, query: &str) -> i64 {
    world.database.number(query).await
}

async fn left(world: &World) -> i64 {
    number(world, "SELECT count(*) FROM log_chunks").await
}

pub(crate) async fn logs_are_moved_and_read_back(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 300).await;
    for (n, held) in (0..).zip(&logs) {
        append(world, session, *held, 1, &[lines(n, 150), lines(n + 1, 50)]).await;
        append(world, session, *held, 2, &[noise(n, 20)]).await;
    }
    // One that is large, with what can't be made smaller, in pieces of all sizes, and a gap.
    let large = logs[7];
    for n in 0..60 {
        append(world, session, large, 1 + (n % 2) as u8, &[noise(n, 60_000), vec![b'x'; n as usize + 1]]).await;
    }
    let at = world.store.log_offsets(large.attempt).await.expect("read")[2];
    let gap = LogPiece { held: large, stream: 3, start: at, data: Bytes::new(), gap: Some(1 << 40) };
    world.store.append_logs(session, &[gap]).await.expect("stored");
    append(world, session, large, 1, &[lines(1, 5_000)]).await;
    let before = read_all(world, &logs).await;
    end(world, session, &logs[1..]).await;
    world.collect(eager());
    eventually("what has ended was moved", async || {
        number(world, "SELECT count(DISTINCT attempt_id) FROM log_chunks").await == 1
    })
    .await;
    assert_eq!(read_all(world, &logs).await, before);
    for streams in [&[1][..], &[2], &[3], &[2, 3]] {
        let mut expected = before[&large.attempt.as_uuid()].clone();
        expected.retain(|chunk| streams.contains(&chunk.stream));
        assert_eq!(read(world, large, streams).await.expect("readable"), expected, "{streams:?}");
    }
    // What still runs stays, and 299 logs are few objects.
    assert_eq!(read(world, logs[0], &[1]).await.expect("readable").len(), 2);
    let keys = world.keys_of("logs/").await;
    assert!((1..=8).contains(&keys.len()), "{} objects", keys.len());
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_eq!(number(world, "SELECT count(*) FROM artifact_garbage").await, 0);
}

pub(crate) async fn a_running_log_is_moved_while_it_is_written_and_read(world: &World) {
    let (id, session) = node(world).await;
    let held = running(world, (id, session), 1).await[0];
    world.collect(eager_with_running(20_000));
    let mut whole = Vec::new();
    let (mut seen, mut next, mut from_store) = (Vec::new(), 0, 0);
    let mut n = 0;
    let deadline = Instant::now() + Duration::from_secs(40);
    // Until the reader, who is always a little behind, has met the archive some times.
    while from_store < 5 || n < 150 {
        assert!(Instant::now() < deadline, "{from_store} pieces came from the archive");
        for _ in 0..5 {
            let text = lines(n, 1_000);
            append(world, session, held, 1, std::slice::from_ref(&text)).await;
            whole.extend(text);
            n += 1;
        }
        let (chunks, stop) = match world.store.read_log(held.attempt, next, &[1], 2_500).await.expect("read") {
            LogRead::Chunks(chunks) => {
                let stop = chunks.last().map_or(next, |chunk| chunk.ordinal + 1);
                (chunks, stop)
            }
            LogRead::Archived(piece) => {
                from_store += 1;
                (world.objects.read(&piece).await.expect("readable"), piece.next_ordinal)
            }
        };
        seen.extend(chunks.into_iter().filter(|chunk| chunk.ordinal >= next).flat_map(|chunk| chunk.data.to_vec()));
        next = stop;
        assert!(whole.starts_with(&seen), "what is read is what was written");
    }
    end(world, session, &[held]).await;
    eventually("all of it was moved", async || left(world).await == 0).await;
    let read: Vec<u8> =
        read(world, held, &[1]).await.expect("readable").iter().flat_map(|it| it.data.to_vec()).collect();
    assert!(read == whole, "{} of {} bytes", read.len(), whole.len());
    assert_eq!(world.store.log_offsets(held.attempt).await.expect("read")[0], whole.len() as u64);
}

pub(crate) async fn a_store_that_is_away_keeps_logs_where_they_are(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 20).await;
    for (n, held) in (0..).zip(&logs) {
        append(world, session, *held, 1, &[lines(n, 3_000)]).await;
    }
    end(world, session, &logs).await;
    let before = read_all(world, &logs).await;
    world.gate.shut();
    world.collect(eager());
    // Each pass renews its right at its beginning: the third of them has begun, so the first has failed.
    let mut begun = std::collections::BTreeSet::new();
    eventually("the mover has tried", async || {
        begun.insert(number(world, "SELECT (1000000 * extract(epoch FROM until))::bigint FROM log_mover WHERE until > now() UNION ALL SELECT 0 LIMIT 1").await);
        begun.len() > 3
    })
    .await;
    assert_eq!(number(world, "SELECT count(*) FROM artifact_garbage").await, 0, "nothing is noted for each try");
    assert_eq!(left(world).await, 20, "nothing is deleted that is nowhere else");
    assert_eq!(read_all(world, &logs).await, before);
    world.gate.open();
    eventually("they were moved", async || left(world).await == 0).await;
    assert_eq!(read_all(world, &logs).await, before);
    world.gate.shut();
    let began = Instant::now();
    assert!(matches!(read(world, logs[3], &[1]).await, Err(ArchiveError::Away(_))));
    assert!(began.elapsed() < Duration::from_secs(10), "whoever asks is told in time");
    world.gate.open();
    assert_eq!(read_all(world, &logs).await, before);
}

/// Movers that are killed anywhere, and two of them at a time that both believe to be the only one.
pub(crate) async fn movers_that_die_anywhere_lose_nothing_and_leave_nothing(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 60).await;
    let mut before = BTreeMap::new();
    let mut finished = 0;
    for round in 0..24u64 {
        let some = &logs[finished..(finished + 3).min(logs.len())];
        finished += some.len();
        for (n, held) in (round * 100..).zip(some) {
            append(world, session, *held, 1, &[lines(n, 2_000), noise(n, 30_000)]).await;
        }
        before.extend(read_all(world, some).await);
        end(world, session, some).await;
        // Two processes, each with the right: it was taken from both.
        let config = DatabaseConfig { url: world.database.url().to_owned(), max_connections: 4, shared: false };
        let objects = world.objects_anew();
        let kill_after = Duration::from_millis(3 + round * 7);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let store = Store::connect_unchecked(&config).await.expect("connected");
                let archiving = Archiving { every: Duration::from_millis(1), ..eager().archiving };
                let times = Times { archiving, collect_every: Duration::from_secs(3_600), ..eager() };
                for _ in 0..2 {
                    artifact_service::run(&service_kit::Service::new(), times, store.clone(), Some(objects.clone()));
                }
                tokio::time::sleep(kill_after).await;
            });
            // Every task is dropped where it stands.
            runtime.shutdown_background();
        })
        .join()
        .expect("killed");
        world.database.execute("UPDATE log_mover SET until = '-infinity'").await;
        let known: Vec<Held> = logs[..finished].to_vec();
        let now = read_all(world, &known).await;
        assert!(now.iter().all(|(attempt, chunks)| before[attempt] == *chunks), "after round {round}");
    }
    world.collect(eager());
    eventually("all were moved in the end", async || left(world).await == 0).await;
    let known: Vec<Held> = logs[..finished].to_vec();
    assert_eq!(read_all(world, &known).await, before);
    // What the dead have left is deleted a day later, by the list.
    let stays = number(world, "SELECT count(*) FROM log_packs").await as usize;
    let stray = world.keys_of("logs/").await.len() - stays;
    eprintln!("{stays} packs, {stray} objects of the dead");
    world.database.execute("UPDATE artifact_garbage SET due_at = now()").await;
    eventually("nothing is left of them", async || {
        world.keys_of("logs/").await.len() == stays && number(world, "SELECT count(*) FROM artifact_garbage").await == 0
    })
    .await;
    assert_eq!(read_all(world, &known).await, before);
}

pub(crate) async fn a_damaged_pack_is_named_and_never_shown(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 3).await;
    for (n, held) in (0..).zip(&logs) {
        append(world, session, *held, 1, &(0..8).map(|k| noise(n * 10 + k, 60_000)).collect::<Vec<_>>()).await;
    }
    end(world, session, &logs).await;
    let before = read_all(world, &logs).await;
    world.collect(eager());
    eventually("they were moved", async || left(world).await == 0).await;
    let keys = world.keys_of("logs/").await;
    let first = match world.store.read_log(logs[0].attempt, 0, &[1], 1).await.expect("read") {
        LogRead::Archived(piece) => piece,
        other => panic!("{other:?}"),
    };
    let got = world.raw.get_object().bucket(&world.bucket).key(&first.key).send().await.expect("there");
    let sound = got.body.collect().await.expect("read").to_vec();
    let replace = async |bytes: Vec<u8>| {
        world.raw.delete_object().bucket(&world.bucket).key(&first.key).send().await.expect("deleted");
        world.raw.put_object().bucket(&world.bucket).key(&first.key).body(bytes.into()).send().await.expect("put");
    };
    let check = async |asked: Value| {
        let report = good(world.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(asked)).await).await;
        let findings = report["findings"].as_array().expect("a list").clone();
        findings
            .iter()
            .map(|it| format!("{} {}", it["kind"].as_str().expect("text"), it["key"].as_str().expect("text")))
            .collect::<Vec<_>>()
    };
    assert_eq!(check(json!({ "read": true })).await, Vec::<String>::new());

    let mut rotten = sound.clone();
    rotten[first.place.at as usize + first.place.length as usize / 2] ^= 0x10;
    replace(rotten).await;
    assert!(matches!(read(world, logs[0], &[1]).await, Err(ArchiveError::Lost(_))));
    let others: Vec<&Held> = logs[1..].iter().collect();
    for held in others {
        // Other frames are as they were.
        assert_eq!(read(world, *held, &[1]).await.expect("readable"), before[&held.attempt.as_uuid()]);
    }
    assert_eq!(check(json!({})).await, Vec::<String>::new(), "its size is right");
    assert_eq!(check(json!({ "read": true })).await, [format!("wrong_bytes {}", first.key)]);
    replace(sound[..sound.len() / 2].to_vec()).await;
    assert_eq!(check(json!({ "repair": true })).await, [format!("wrong_size {}", first.key)]);
    world.raw.delete_object().bucket(&world.bucket).key(&first.key).send().await.expect("deleted");
    assert!(matches!(read(world, logs[0], &[1]).await, Err(ArchiveError::Lost(_))));
    assert_eq!(check(json!({})).await, [format!("missing {}", first.key)]);
    // Brought back from a copy, it can be read again.
    world.raw.put_object().bucket(&world.bucket).key(&first.key).body(sound.into()).send().await.expect("put");
    assert_eq!(read_all(world, &logs).await, before);
    assert_eq!(check(json!({ "read": true })).await, Vec::<String>::new());
    assert_eq!(world.keys_of("logs/").await, keys);
}

pub(crate) async fn a_log_that_does_not_fit_together_stops_no_other(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 3).await;
    for (n, held) in (0..).zip(&logs) {
        append(world, session, *held, 1, &[lines(n, 500), lines(n + 9, 500)]).await;
    }
    end(world, session, &logs).await;
    let broken = logs.iter().map(|held| held.attempt).min().expect("three");
    let shift =
        |by: i32| format!("UPDATE log_chunks SET start = start + {by} WHERE attempt_id = '{broken}' AND ordinal = 0");
    world.database.execute(&shift(-1)).await;
    // Each pack has room for one of them.
    world.collect(Times { archiving: Archiving { pack_bytes: 1, ..eager().archiving }, ..eager() });
    eventually("the others were moved", async || {
        number(world, &format!("SELECT count(*) FROM log_chunks WHERE attempt_id <> '{broken}'")).await == 0
    })
    .await;
    assert_eq!(left(world).await, 2);
    world.database.execute(&shift(1)).await;
}

pub(crate) async fn packs_go_with_their_last_task_and_strays_are_found(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 4).await;
    for (n, held) in (0..).zip(&logs) {
        append(world, session, *held, 1, &[lines(n, 500)]).await;
    }
    end(world, session, &logs).await;
    world.collect(eager());
    eventually("they were moved", async || left(world).await == 0).await;
    let stray = format!("logs/{}", Uuid::new_v4());
    world.raw.put_object().bucket(&world.bucket).key(&stray).body(vec![1].into()).send().await.expect("put");
    let later = world.with_times(Times { stray: Duration::ZERO, ..times() }).await;
    eventually("the stray is found, and nothing else", async || {
        let asked = json!({ "read": true });
        let report = good(later.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(asked)).await).await;
        let found: Vec<&Value> = report["findings"].as_array().expect("a list").iter().map(|it| &it["key"]).collect();
        found == [&json!(stray)]
    })
    .await;
    good(later.ask(ADMIN, Method::POST, "/artifacts:fsck", Some(json!({ "repair": true }))).await).await;
    eventually("the stray is deleted", async || !world.keys_of("logs/").await.contains(&stray)).await;
    assert!(!world.keys_of("logs/").await.is_empty());
    let ended = "UPDATE task_state SET ended_at = ended_at - interval '2 days'; UPDATE attempts SET ended_at = ended_at - interval '2 days'";
    world.database.execute(ended).await;
    let expired = world.store.expire_tasks(chrono::TimeDelta::zero(), None, 100).await.expect("walked");
    assert_eq!(expired.deleted, 4);
    eventually("the packs are deleted", async || {
        world.keys_of("logs/").await.is_empty() && number(world, "SELECT count(*) FROM log_packs").await == 0
    })
    .await;
    later.service.stop_within(Duration::from_secs(10)).await;
}

/// Prints what the archive costs and what it brings: `cargo nextest run -p artifact-service figures_of_the_log_archive --no-capture`.
#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_log_archive() {
    let world = World::start(Kind::Embedded).await;
    figures(&world).await;
    world.stop().await;
}

async fn figures(world: &World) {
    let (id, session) = node(world).await;
    let logs = running(world, (id, session), 3_000).await;
    let (small, large) = logs.split_at(2_992);
    for (n, held) in (0..).zip(small) {
        append(world, session, *held, 1, &[lines(n * 977, 200)]).await;
    }
    let size = "SELECT pg_total_relation_size('log_chunks')";
    let before = number(world, size).await as f64 / small.len() as f64;
    for (n, held) in (0..).zip(large) {
        let text = lines(n * 31, 4 << 20);
        let pieces: Vec<Vec<u8>> = text.chunks(60_000).map(<[u8]>::to_vec).collect();
        append(world, session, *held, 1, &pieces).await;
    }
    world.database.execute("VACUUM ANALYZE log_chunks").await;
    let took = async |held: &[Held]| {
        let mut times = Vec::new();
        for held in held {
            let began = Instant::now();
            let read = read(world, *held, &[1]).await.expect("readable");
            times.push((began.elapsed(), read.iter().map(|chunk| chunk.data.len()).sum::<usize>()));
        }
        times.sort();
        let bytes: usize = times.iter().map(|(_, bytes)| bytes).sum();
        let whole: Duration = times.iter().map(|(took, _)| *took).sum();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].0.as_secs_f64() * 1e3;
        format!("p50 {:.2} ms, p99 {:.2} ms, {:.0} MB/s", at(50), at(99), bytes as f64 / 1e6 / whole.as_secs_f64())
    };
    let (small_before, large_before) = (took(&small[..200]).await, took(large).await);
    end(world, session, small).await;
    let began = Instant::now();
    world.collect(eager());
    eventually("the small ones were moved", async || left(world).await <= 8 * 70).await;
    let small_took = began.elapsed();
    let ratio = "SELECT (100 * sum(log_bytes) / sum(size))::bigint FROM log_packs";
    let small_ratio = number(world, ratio).await as f64 / 100.0;
    let row = number(world, "SELECT pg_total_relation_size('log_archive')").await as f64 / small.len() as f64;
    let packs = number(world, "SELECT max(id)::bigint FROM log_packs").await;
    end(world, session, large).await;
    let began = Instant::now();
    eventually("the large ones were moved", async || left(world).await == 0).await;
    let large_took = began.elapsed();
    let large_ratio =
        number(world, &format!("SELECT (100 * sum(log_bytes) / sum(size))::bigint FROM log_packs WHERE id > {packs}"))
            .await;
    let moved = number(world, &format!("SELECT sum(log_bytes)::bigint FROM log_packs WHERE id > {packs}")).await;
    eprintln!(
        "small logs (200 bytes, one chunk): ratio {small_ratio:.1}, {} moved in {:.2} s, {row:.0} bytes of the database for each where {before:.0} were",
        small.len(),
        small_took.as_secs_f64(),
    );
    eprintln!(
        "large logs (4 MiB): ratio {:.1}, {:.0} MB/s moved",
        large_ratio as f64 / 100.0,
        moved as f64 / 1e6 / large_took.as_secs_f64()
    );
    eprintln!("read small: database {small_before}; archive {}", took(&small[..200]).await);
    eprintln!("read large: database {large_before}; archive {}", took(large).await);
    assert!(small_ratio > 2.0 && large_ratio > 200, "{small_ratio} {large_ratio}");
}
