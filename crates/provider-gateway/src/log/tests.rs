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

#[tokio::test]
async fn a_full_spool_holds_the_writer_until_the_server_has_caught_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), 1 << 40);
    let writer = log.clone();
    let mut writing = Box::pin(async move { writer.append(Stream::Stdout, Bytes::from(vec![0; 65 << 20])).await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut writing).await.is_err(), "it waits");
    log.acknowledge(Stream::Stdout, 32 << 20);
    tokio::time::timeout(Duration::from_secs(10), writing).await.expect("it goes on");
}
