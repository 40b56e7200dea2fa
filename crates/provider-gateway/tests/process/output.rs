//! What a process writes is what the log holds.

use crate::kit::*;
use protocol::Stream;
use provider_gateway::executor::Executor;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn output_arrives_byte_for_byte() {
    let rig = Rig::new();
    let job = rig.job(json!(r"printf 'a\000b\r\n\377\376\033[1m'; printf '\200no newline' >&2"));
    rig.run(&job).await;
    assert_eq!(bytes(&job, Stream::Stdout), b"a\0b\r\n\xff\xfe\x1b[1m");
    assert_eq!(bytes(&job, Stream::Stderr), b"\x80no newline");
    assert_eq!(notes(&job), "");
}

#[tokio::test]
async fn a_line_of_ten_megabytes_arrives_whole() {
    let rig = Rig::new();
    let job = rig.job(json!("head -c 10000000 /dev/zero | tr '\\0' x; echo end >&2"));
    assert_eq!(rig.run(&job).await.code, Some(0));
    let line = bytes(&job, Stream::Stdout);
    assert_eq!(line.len(), 10_000_000);
    assert!(line.iter().all(|byte| *byte == b'x'));
    assert_eq!(bytes(&job, Stream::Stderr), b"end\n");
}

#[tokio::test]
async fn both_streams_keep_the_order_in_which_they_were_read() {
    let rig = Rig::new();
    // Each line waits until the one before it is in the log of the supervisor, beside which the process runs.
    let job = rig.job(json!("echo one; read x < a; echo two >&2; read x < b; echo three"));
    rig.executor.prepare(&job).await.expect("prepared");
    for gate in ["a", "b"] {
        let path = job.dir.join("work").join(gate);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("made");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("open to all");
    }
    rig.executor.start(&job).await.expect("started");
    let opening = async {
        for (line, gate) in [("one\n", "a"), ("two\n", "b")] {
            until("the line is read", || pieces(&job).iter().any(|(_, bytes)| bytes == line)).await;
            std::fs::write(job.dir.join("work").join(gate), "\n").expect("opened");
        }
    };
    let (facts, ()) = within(async { tokio::join!(rig.executor.collect(&job), opening) }).await;
    assert_eq!(facts.expect("collected").code, Some(0));
    let order: Vec<_> = pieces(&job).into_iter().map(|(stream, bytes)| (stream, bytes.to_vec())).collect();
    let expected = [(Stream::Stdout, "one\n"), (Stream::Stderr, "two\n"), (Stream::Stdout, "three\n")];
    assert_eq!(order, expected.map(|(stream, text)| (stream, text.as_bytes().to_vec())));
}

#[tokio::test]
async fn over_its_limit_a_log_is_cut_and_the_process_goes_on() {
    let rig = Rig::new();
    let job = rig.job_of(json!({ "command": "seq 100000; exit 4", "log_limit": 1000 }));
    assert_eq!(rig.run(&job).await.code, Some(4));
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).take(300).collect();
    assert_eq!(stdout(&job), expected[..1000]);
    assert!(!job.log.totals().complete);
    assert_eq!(notes(&job).lines().count(), 1, "{}", notes(&job));
}

#[tokio::test]
async fn a_closed_output_does_not_end_the_process() {
    let rig = Rig::new();
    let (facts, out) = rig.run_command(json!("echo seen; exec >&- 2>&-; sleep 0.2; exit 6")).await;
    assert_eq!((facts.code, out.as_str()), (Some(6), "seen\n"));
    assert!(facts.duration_ms >= 200);
}

/// Prints what a person would feel; machines differ too much to assert it.
#[tokio::test]
async fn the_first_line_is_there_within_moments() {
    let rig = Rig::new();
    let mut starts = Vec::new();
    let mut firsts = Vec::new();
    for _ in 0..20 {
        let job = rig.job(json!("echo now; read x < /dev/null; sleep 5"));
        rig.executor.prepare(&job).await.expect("prepared");
        let begun = Instant::now();
        rig.executor.start(&job).await.expect("started");
        starts.push(begun.elapsed());
        let first = async {
            while job.log.offset(Stream::Stdout) == 0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            begun.elapsed()
        };
        tokio::select! {
            elapsed = within(first) => firsts.push(elapsed),
            facts = rig.executor.collect(&job) => panic!("it ended early: {facts:?}"),
        }
        rig.executor.remove(&job).await.expect("removed");
    }
    starts.sort();
    firsts.sort();
    println!("start returns after {:?} (p50), {:?} (max)", starts[10], starts[19]);
    println!("first log byte after {:?} (p50), {:?} (max)", firsts[10], firsts[19]);
    assert_eq!(firsts.len(), 20);
}
