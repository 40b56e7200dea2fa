use super::*;
use domain::ids::{AttemptId, Fence};
use std::time::Duration;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(uuid::Uuid::from_u128(1)), fence: Fence::from_i64(1) }
}
fn open(dir: &Path, limit: u64) -> AttemptLog {
    AttemptLog::open(dir, held(), limit, Arc::new(Notify::new())).expect("opens")
}
fn unsent(log: &AttemptLog) -> Vec<(Stream, u64, Vec<u8>)> {
    let mut cursor = Cursor::default();
    let mut all = Vec::new();
    while let Some(frame) = log.read_next(&mut cursor).expect("reads") {
        let LogPayload::Bytes(bytes) = frame.payload else { panic!("no gap was written") };
        all.push((frame.stream, frame.offset, bytes.to_vec()));
    }
    all
}

#[tokio::test]
async fn a_log_goes_on_where_it_stood_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), 1 << 30);
    log.append(Stream::Stdout, Bytes::from_static(b"one")).await;
    log.append(Stream::Stderr, Bytes::from_static(b"\0\xff")).await;
    drop(log);
    // A torn record at the end is as if it had never been written.
    let segment = dir.path().join("log.00000001");
    let mut bytes = std::fs::read(&segment).expect("readable");
    bytes.extend([1, 1, 0, 0, 0]);
    std::fs::write(&segment, bytes).expect("writable");

    let log = open(dir.path(), 1 << 30);
    assert_eq!((log.offset(Stream::Stdout), log.offset(Stream::Stderr)), (3, 2));
    log.append(Stream::Stdout, Bytes::from_static(b"two")).await;
    let expected = [
        (Stream::Stdout, 0, b"one".to_vec()),
        (Stream::Stderr, 0, b"\0\xff".to_vec()),
        (Stream::Stdout, 3, b"two".to_vec()),
    ];
    assert_eq!(unsent(&log), expected);
}

#[tokio::test]
async fn what_is_acknowledged_is_not_sent_again_and_leaves_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), 1 << 30);
    let megabyte = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..12 {
        log.append(Stream::Stdout, megabyte.clone()).await;
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 3);
    log.acknowledge(Stream::Stdout, 11 << 20);
    assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
    let rest = unsent(&log);
    assert_eq!((rest.first().map(|(_, offset, _)| *offset), rest.len()), (Some(11 << 20), 16));
    log.acknowledge(Stream::Stdout, 12 << 20);
    assert!(log.is_acknowledged());
    drop(log);
    assert_eq!(open(dir.path(), 1 << 30).offset(Stream::Stdout), 12 << 20);
}

#[tokio::test]
async fn output_over_the_limit_ends_with_one_marker() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), 10);
    for _ in 0..3 {
        log.append(Stream::Stdout, Bytes::from_static(b"123456")).await;
    }
    assert_eq!(log.totals(), LogTotals { bytes: 10, complete: false });
    drop(log);
    let log = open(dir.path(), 10);
    log.append(Stream::Stderr, Bytes::from_static(b"more")).await;
    let all = unsent(&log);
    let system: Vec<_> = all
        .iter()
        .filter(|(stream, ..)| *stream == Stream::System)
        .map(|(.., line)| String::from_utf8_lossy(line))
        .collect();
    assert_eq!(system, ["log limit of 10 B reached: further output is discarded\n"]);
    assert_eq!(log.totals(), LogTotals { bytes: 10, complete: false });
}

/// A log whose spool takes so much, and whose room is shared by nobody.
fn open_small(dir: &Path, attempt_bytes: u64, patience_ms: u64) -> (AttemptLog, Arc<Room>) {
    let limits = SpoolLimits { attempt_bytes, patience: Duration::from_millis(patience_ms), ..SpoolLimits::default() };
    let room = Arc::new(Room::new(limits));
    (AttemptLog::open_in(dir, held(), 1 << 40, Arc::default(), room.clone()).expect("opens"), room)
}
/// What a reader gets of one stream: bytes, and how many are missing where.
fn read(log: &AttemptLog, stream: Stream) -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut cursor, mut bytes, mut gaps, mut next) = (Cursor::default(), Vec::new(), Vec::new(), None);
    while let Some(frame) = log.read_next(&mut cursor).expect("reads") {
        if frame.stream != stream {
            continue;
        }
        assert_eq!(*next.get_or_insert(frame.offset), frame.offset, "each piece begins where the last ended");
        next = Some(frame.next_offset());
        match frame.payload {
            LogPayload::Bytes(piece) => bytes.extend(piece),
            LogPayload::Gap(length) => gaps.push((frame.offset, length)),
        }
    }
    (bytes, gaps)
}
fn numbered(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|n| format!("line {n:09}\n").into_bytes()).collect()
}

#[tokio::test]
async fn a_full_spool_holds_the_writer_for_a_moment_while_a_server_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, room) = open_small(dir.path(), 1 << 20, 60_000);
    room.set_connected(true);
    let writer = log.clone();
    let mut writing = Box::pin(async move { writer.append(Stream::Stdout, Bytes::from(vec![0; 2 << 20])).await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut writing).await.is_err(), "it waits");
    let acknowledging = async {
        let mut offset = 0;
        while offset < 2 << 20 {
            offset = log.offset(Stream::Stdout);
            log.acknowledge(Stream::Stdout, offset);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), futures::future::join(writing, acknowledging))
        .await
        .expect("it goes on");
    assert_eq!(log.totals(), LogTotals { bytes: 2 << 20, complete: true });
}

#[tokio::test]
async fn a_spool_that_is_full_while_nobody_listens_keeps_how_it_began_and_how_it_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open_small(dir.path(), 256 << 10, 60_000);
    let written = numbered(0..200_000);
    let writing = async {
        for piece in written.chunks(5_000) {
            log.append(Stream::Stdout, Bytes::copy_from_slice(piece)).await;
        }
        log.note("the agent's own").await;
    };
    tokio::time::timeout(Duration::from_secs(10), writing)
        .await
        .expect("a process is not held for a server that is away");
    let stored: u64 = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|f| f.expect("an entry").metadata().expect("is there").len())
        .sum();
    assert!(stored < 300 << 10, "{stored} bytes on disk");
    let check = |log: &AttemptLog| {
        let (kept, gaps) = read(log, Stream::Stdout);
        let [(at, missing)] = gaps[..] else { panic!("one gap: {gaps:?}") };
        let (at, missing) = (at as usize, missing as usize);
        assert!(at > 30_000 && written.len() - at - missing > 100_000, "{at} bytes, a gap of {missing}");
        assert!(kept == [&written[..at], &written[at + missing..]].concat(), "what is there is as it was written");
        assert_eq!(log.totals(), LogTotals { bytes: written.len() as u64, complete: false });
    };
    check(&log);
    drop(log);
    let (log, _) = open_small(dir.path(), 256 << 10, 0);
    check(&log);
    // The gap is acknowledged as bytes are, and leaves nothing to wait for.
    for stream in Stream::ALL {
        log.acknowledge(stream, log.offset(stream));
    }
    tokio::time::timeout(Duration::from_secs(1), log.acknowledged()).await.expect("all is told");
    assert!(!log.totals().complete);
}

#[tokio::test]
async fn a_server_that_has_forgotten_bytes_gets_those_that_are_left_and_is_told_of_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open_small(dir.path(), 256 << 10, 0);
    let written = numbered(0..20_000);
    for piece in written.chunks(5_000) {
        log.append(Stream::Stdout, Bytes::copy_from_slice(piece)).await;
        log.acknowledge(Stream::Stdout, log.offset(Stream::Stdout));
    }
    assert!(log.is_acknowledged());
    // Its database was restored from a backup.
    log.resume(Stream::Stdout, 1_000);
    assert!(!log.is_acknowledged());
    let (kept, gaps) = read(&log, Stream::Stdout);
    let [(1_000, missing)] = gaps[..] else { panic!("one gap: {gaps:?}") };
    assert!(kept == written[1_000 + missing as usize..] && !kept.is_empty());
    assert!(!log.totals().complete);
    log.resume(Stream::Stdout, log.offset(Stream::Stdout));
    assert!(log.is_acknowledged());
}

#[tokio::test]
async fn a_gap_at_the_very_end_is_told_once_nothing_follows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open_small(dir.path(), 0, 0);
    log.append(Stream::Stdout, Bytes::from_static(b"never kept")).await;
    log.append(Stream::Stdout, Bytes::from_static(b"nor this")).await;
    assert_eq!(read(&log, Stream::Stdout), (vec![], vec![]));
    assert!(tokio::time::timeout(Duration::from_millis(10), log.acknowledged()).await.is_err());
    assert_eq!(read(&log, Stream::Stdout), (vec![], vec![(0, 18)]));
}
