use super::*;
use domain::{
    ids::{Fence, ProjectId},
    spec::parse_spec,
};
use protocol::Welcome;
use serde_json::{Value, json};
use uuid::Uuid;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(1)), fence: Fence::from_i64(7) }
}

fn welcome() -> ToNode {
    ToNode::Welcome(Welcome {
        version: 1,
        server_version: String::new(),
        node: domain::ids::NodeId::from_uuid(Uuid::from_u128(2)),
        name: "n".into(),
        session_epoch: 1,
        heartbeat_ms: 15_000,
        log_offsets: Vec::new(),
        draining: false,
    })
}

fn assign(payload: Value) -> ToNode {
    let spec = parse_spec(&json!({"executor": EXECUTOR, "payload": payload})).expect("a valid task");
    ToNode::Assign(Box::new(Assign {
        held: held(),
        task: TaskId::from_uuid(Uuid::from_u128(3)),
        project: ProjectId::from_uuid(Uuid::from_u128(4)),
        number: 1,
        gpu_ids: Vec::new(),
        ahead: false,
        lease: None,
        spec,
    }))
}

struct Said {
    kinds: Vec<&'static str>,
    last_seq: u64,
    log_bytes: u64,
}

fn hear(node: &mut Node, message: ToNode) -> Said {
    let (mut out, mut effects) = (Vec::new(), Vec::new());
    node.hear(&Frame::new(message).encode(), &mut out, &mut effects);
    assert!(!effects.contains(&Effect::Complaint));
    said(out)
}

fn said(out: Vec<Message>) -> Said {
    let mut said = Said { kinds: Vec::new(), last_seq: 0, log_bytes: 0 };
    for message in out {
        match message {
            Message::Text(text) => {
                let frame = Frame::<FromNode>::decode(&text).expect("a frame");
                let FromNode::Report { report, .. } = frame.message else { panic!("{text}") };
                said.kinds.push(report.kind());
                said.last_seq = frame.seq;
            }
            Message::Binary(bytes) => said.log_bytes += LogFrame::decode(&bytes).expect("a log frame").payload.len(),
        }
    }
    said
}

fn node() -> Node {
    let mut node = Node::new(InstanceId::from_uuid(Uuid::from_u128(5)));
    hear(&mut node, welcome());
    node
}

#[test]
fn a_no_op_task_ends_at_once_and_is_forgotten_once_its_release_is_acknowledged() {
    let mut node = node();
    let first = hear(&mut node, assign(json!({})));
    assert_eq!(first.kinds, ["accepted", "preparing", "started", "exited", "ended", "released"]);
    assert!(hear(&mut node, assign(json!({}))).kinds.is_empty(), "the same assignment begins nothing anew");
    let second = hear(&mut node, ToNode::Ack { up_to: first.last_seq - 1 });
    assert_eq!((second.kinds, node.attempts()), (vec![], 1));
    hear(&mut node, ToNode::Ack { up_to: first.last_seq });
    assert_eq!(node.attempts(), 0);
}

#[test]
fn what_was_not_acknowledged_is_said_again_in_the_next_session() {
    let mut node = node();
    hear(&mut node, assign(json!({})));
    node.closed();
    let Message::Text(hello) = node.hello(&facts(1)) else { panic!("a hello is text") };
    assert!(hello.contains("succeeded"), "{hello}");
    assert_eq!(hear(&mut node, welcome()).kinds, ["ended", "released"]);
}

#[test]
fn an_attempt_ends_only_after_its_log_has_arrived() {
    let mut node = node();
    let total = 10_000 * 100;
    let mut said = hear(&mut node, assign(json!({"log_lines": 10_000, "line_bytes": 100})));
    let mut arrived = 0;
    while said.log_bytes > 0 {
        assert!(!said.kinds.contains(&"ended"));
        assert!(said.log_bytes <= LOG_WINDOW);
        arrived += said.log_bytes;
        said =
            hear(&mut node, ToNode::LogAck { attempt: held().attempt, stream: Stream::Stdout, next_offset: arrived });
    }
    assert_eq!((arrived, said.kinds), (total, vec!["ended", "released"]));
}
