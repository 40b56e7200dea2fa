//! Pins how every frame looks on the wire. A changed file here is a changed protocol.

mod delivery;

use domain::{
    attempt::{AttemptState, Report},
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, NodeId, TaskId},
    lease::Lease,
    node::{Condition, NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    resources::{Capacity, Gpu},
};
use protocol::{version::SUPPORTED, *};
use serde::Serialize;
use std::{fmt::Debug, path::PathBuf};
use uuid::Uuid;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(0xa)), fence: Fence::from_i64((1 << 32) + 1) }
}
fn facts() -> NodeFacts {
    NodeFacts {
        agent_version: "0.1.0".into(),
        platform: "linux".into(),
        arch: "x86_64".into(),
        hostname: "lab-3".into(),
        executors: [("container".into(), "1".into())].into(),
        capacity: Capacity {
            cpu_millis: 16_000,
            memory_bytes: 64 << 30,
            disk_bytes: 1 << 40,
            gpus: vec![Gpu { id: "GPU-1".into(), model: "RTX 4090".into(), memory_bytes: 24 << 30 }],
        },
        boot: Some(Uuid::from_u128(0xb)),
        ..NodeFacts::default()
    }
}
fn metrics() -> NodeMetrics {
    NodeMetrics {
        cpu_percent: 12.5,
        live_attempts: 1,
        conditions: [Condition::DockerUnavailable].into(),
        warm: ["env:1".into()].into(),
        ..NodeMetrics::default()
    }
}
fn ending() -> Ending {
    let exit = ExitFacts { code: Some(3), duration_ms: 1200, ..ExitFacts::default() };
    Ending {
        failure: Some(FailureKind::ExitNonzero),
        message: "exit 3".into(),
        exit: Some(exit),
        planned_stop: false,
        log: LogTotals { bytes: 12, complete: true },
    }
}

/// Compares with the golden file and reads it back. `UPDATE_GOLDEN=1` writes it.
fn pin<M: Serialize + Message + PartialEq + Debug>(name: &str, message: M) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(format!("{name}.json"));
    let frame = Frame::numbered(7, message);
    let shown =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&frame.encode()).expect("JSON"))
            .expect("JSON")
            + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown).expect("golden file is writable");
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("no golden file for {name}: run with UPDATE_GOLDEN=1"));
    assert_eq!(shown, golden, "{name} looks different on the wire");
    assert_eq!(Frame::<M>::decode(&golden).expect("decodes"), frame, "{name} does not read back");
    assert_eq!(Frame::<M>::decode(&frame.encode()).expect("decodes"), frame, "{name} does not read back as it is sent");
}

/// As an older peer writes it: with all that is as usual.
fn read_spelled_out<M: Serialize + Message + PartialEq + Debug>(name: &str, message: M) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(format!("{name}_spelled_out.json"));
    let golden = std::fs::read_to_string(path).expect("it stays as it was");
    let compact = serde_json::from_str::<serde_json::Value>(&golden).expect("JSON").to_string();
    let frame = Frame::numbered(7, message);
    assert_eq!(Frame::<M>::decode(&golden).expect("decodes"), frame);
    assert_eq!(Frame::<M>::decode(&compact).expect("decodes"), frame);
}

#[test]
fn frames_from_a_node_are_pinned() {
    let ended = HeldAttempt {
        held: Held { attempt: AttemptId::from_uuid(Uuid::from_u128(0xc)), ..held() },
        state: AttemptState::Failed,
        task: Some(TaskId::from_uuid(Uuid::from_u128(0xd))),
        number: 2,
        gpu_ids: vec!["GPU-1".into()],
        ahead: false,
        exit: None,
        ending: Some(ending()),
        log_offsets: [("stdout".into(), 12)].into(),
    };
    // The first as an older agent says it.
    let attempts = vec![HeldAttempt::new(held(), AttemptState::Running), ended];
    let inventory = Inventory { executors: [("container".into(), Completeness::Unknown)].into(), attempts };
    let instance = InstanceId::from_uuid(Uuid::from_u128(0xb));
    pin(
        "hello",
        FromNode::Hello(Box::new(Hello {
            versions: SUPPORTED,
            instance,
            facts: facts(),
            metrics: metrics(),
            inventory,
        })),
    );
    pin("heartbeat", FromNode::Heartbeat { metrics: Box::new(metrics()), number: 0, pieces: 0 });
    pin("heartbeat_numbered", FromNode::Heartbeat { metrics: Box::new(metrics()), number: 7, pieces: 0 });
    pin("heartbeat_after_logs", FromNode::Heartbeat { metrics: Box::new(metrics()), number: 7, pieces: 40 });
    pin("facts", FromNode::Facts { facts: Box::new(facts()) });
    pin("node_error", FromNode::Error { code: "unknown_message".into(), detail: "skipped".into() });
    for report in [
        Report::Accepted,
        Report::Preparing,
        Report::Prepared { provenance: serde_json::json!({"code_tree": "91ab"}) },
        Report::Started,
        Report::Exited { exit: ExitFacts { code: Some(137), signal: Some(9), oom: true, ..ExitFacts::default() } },
        Report::Ended { ending: ending() },
        Report::Released,
    ] {
        pin(&format!("report_{}", report.kind()), FromNode::Report { held: held(), report });
    }
    read_spelled_out("report_ended", FromNode::Report { held: held(), report: Report::Ended { ending: ending() } });
    for bad in
        [r#"{"kind":"exited"}"#, r#"{"kind":"ended"}"#, r#"{"kind":"started","exit":3}"#, r#"{"kind":"slept"}"#, "3"]
    {
        let held = serde_json::to_string(&held()).expect("JSON");
        let frame = format!(r#"{{"seq":7,"type":"report","held":{held},"report":{bad}}}"#);
        assert!(Frame::<FromNode>::decode(&frame).is_err(), "{bad}");
    }
}

#[test]
fn frames_to_a_node_are_pinned() {
    let commit = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";
    let spec = domain::spec::parse_spec(&serde_json::json!({
        "command": ["python", "train.py"], "source": {"code_repo_url": "https://h/c.git", "code_commit_id": commit,
            "env_repo_url": "https://h/e.git", "env_commit_id": commit, "dockerfile_path": "Dockerfile"}}))
    .expect("a valid task");
    let node = NodeId::from_uuid(Uuid::from_u128(0xc));
    let assign = Assign {
        ahead: false,
        held: held(),
        task: TaskId::from_uuid(Uuid::from_u128(0xd)),
        project: DEFAULT_PROJECT,
        number: 1,
        gpu_ids: vec!["GPU-1".into()],
        lease: None,
        spec,
    };
    pin("assign", ToNode::Assign(Box::new(assign.clone())));
    read_spelled_out("assign", ToNode::Assign(Box::new(assign.clone())));
    let lease = Some(Lease { period_ms: 975_000, grace_ms: 8_000 });
    pin("assign_ahead", ToNode::Assign(Box::new(Assign { ahead: true, ..assign.clone() })));
    pin("assign_exclusive", ToNode::Assign(Box::new(Assign { lease, ..assign.clone() })));
    let log_offsets = vec![LogOffset { attempt: held().attempt, stream: Stream::Stdout, next_offset: 48_213 }];
    pin(
        "welcome",
        ToNode::Welcome(Welcome {
            version: 1,
            server_version: "0.1.0".into(),
            node,
            name: "lab-3".into(),
            session_epoch: 4,
            heartbeat_ms: HEARTBEAT_MS,
            log_offsets,
            draining: false,
        }),
    );
    pin(
        "refused",
        ToNode::Refused(Refused {
            code: RefusalCode::OtherInstance,
            detail: "another installation uses this token".into(),
            retry_after_ms: Some(300_000),
        }),
    );
    pin("cancel", ToNode::Cancel { held: held() });
    pin("stop", ToNode::Stop { held: held() });
    pin("evict", ToNode::Evict { held: held() });
    pin("drain", ToNode::Drain);
    pin("resume", ToNode::Resume);
    pin("ack", ToNode::Ack { up_to: 12 });
    pin("log_ack", ToNode::LogAck { attempt: held().attempt, stream: Stream::Build, next_offset: 9 });
    pin("server_error", ToNode::Error { code: "unknown_message".into(), detail: "skipped".into() });
    pin("beat", ToNode::Beat { number: 0 });
    pin("beat_numbered", ToNode::Beat { number: 7 });
}

#[test]
fn a_newer_peers_fields_and_messages_do_no_harm() {
    let frame = Frame::<ToNode>::decode(r#"{"seq":3,"type":"cancel","held":{"attempt":"00000000-0000-0000-0000-00000000000a","fence":1,"new":1},"also":{}}"#).expect("decodes");
    assert!(matches!(frame.message, ToNode::Cancel { .. }));
    assert_eq!(
        Frame::<ToNode>::decode(r#"{"type":"teleport","to":"mars"}"#).expect("decodes").message,
        ToNode::Unknown
    );
    assert!(Frame::<ToNode>::decode("{").is_err());
    assert!(matches!(Frame::<ToNode>::decode(&" ".repeat(MAX_FRAME_BYTES + 1)), Err(DecodeError::TooLong(_))));
}
