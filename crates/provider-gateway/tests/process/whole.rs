//! The agent's own runtime with real processes: what it does without being asked.

use crate::{kit::*, platform::*};
use domain::{
    attempt::Report,
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, TaskId},
    outcome::{Ending, FailureKind},
    spec::parse_spec,
};
use protocol::{Assign, FromNode};
use provider_gateway::{
    agent::Event,
    executor::Registry,
    log::Cursor,
    process::ProcessExecutor,
    runtime::{self, AttemptsDir, Handle, Parts},
};
use serde_json::json;
use service_kit::Service;
use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

struct Node {
    rig: Rig,
    platform: Arc<Platform>,
    service: Service,
    handle: Handle,
    said: mpsc::UnboundedReceiver<FromNode>,
}

impl Node {
    async fn start() -> Self {
        let (rig, platform, service) = (Rig::new(), Platform::start().await, Service::new());
        let inputs = platform.inputs(&rig.settings.data_dir.join("inputs.json"), 1 << 40);
        let executor: ProcessExecutor = rig.another_agent().with_inputs(inputs).expect("a directory of inputs");
        let attempts = rig.settings.data_dir.join("attempts");
        let parts = Parts {
            registry: Registry::default().with(Arc::new(executor)),
            attempts: AttemptsDir::open(&attempts).expect("opened"),
            instance: InstanceId::from_uuid(Uuid::from_u128(1)),
            node_name: watch::channel(String::new()).1,
            spool: Default::default(),
            artifacts: platform.artifacts(),
        };
        std::fs::set_permissions(&attempts, std::fs::Permissions::from_mode(0o711)).expect("mode is set");
        let handle = runtime::start(&service, parts).expect("started");
        let (outgoing, said) = mpsc::unbounded_channel();
        handle.session_opened(outgoing, &[]);
        Self { rig, platform, service, handle, said }
    }

    fn assign(&self, number: u32, command: &str, every_ms: u64) -> Held {
        let body =
            json!({"executor": "process", "command": command, "checkpoints": {"path": "ckpt"}, "stop": {"grace": 30}});
        let mut spec = parse_spec(&body).expect("a good spec");
        spec.checkpoints.as_mut().expect("it keeps some").every_ms = every_ms;
        let held = Held { attempt: AttemptId::from_uuid(Uuid::now_v7()), fence: Fence::from_i64(number.into()) };
        let task = TaskId::from_uuid(Uuid::from_u128(1));
        let assign =
            Assign { held, task, project: DEFAULT_PROJECT, number, ahead: false, gpu_ids: vec![], lease: None, spec };
        self.handle.tell(Event::Assigned(Box::new(assign)));
        held
    }

    /// Takes its log and acknowledges all that it says, until it has ended.
    async fn ended(&mut self, held: Held) -> Ending {
        let mut cursor = Cursor::default();
        let ended = async {
            loop {
                if let Some(log) = self.handle.logs.get(held.attempt) {
                    while let Ok(Some(frame)) = log.read_next(&mut cursor) {
                        log.acknowledge(frame.stream, frame.next_offset());
                    }
                }
                let Ok(said) = tokio::time::timeout(Duration::from_millis(20), self.said.recv()).await else {
                    continue;
                };
                let Some(FromNode::Report { held: of, report }) = said else { continue };
                self.handle.tell(Event::Acknowledged { attempt: of.attempt, kind: report.kind() });
                if let Report::Ended { ending } = report
                    && of == held
                {
                    return ending;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends in time")
    }
}

#[tokio::test]
async fn an_agent_keeps_checkpoints_by_itself_and_what_is_moved_goes_on_with_its_last() {
    let mut node = Node::start().await;
    let command = "trap 'echo last > $UNIDESK_CHECKPOINT_DIR/step; exit 75' TERM; echo 1 > $UNIDESK_CHECKPOINT_DIR/step; while :; do sleep 0.05; done";
    let first = node.assign(1, command, 100);
    until("a checkpoint is stored", || !node.platform.state().ready().is_empty()).await;
    assert_eq!(node.platform.state().ready()[0].bytes(), packed(&[("step", "1\n")]));
    node.handle.tell(Event::Evict(first));
    let ending = node.ended(first).await;
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::NodeError), true));
    let step = |node: &Node| node.platform.state().ready().last().map(|last| last.bytes());
    assert_eq!(step(&node), Some(packed(&[("step", "last\n")])));

    let second = node.assign(2, "[ \"$(cat ckpt/step)\" = last ] && echo 3 > ckpt/step", 60_000);
    let ending = node.ended(second).await;
    assert_eq!((ending.failure, ending.exit.and_then(|exit| exit.code)), (None, Some(0)));
    assert_eq!(step(&node), Some(packed(&[("step", "last\n")])), "what has succeeded leaves no more");
    let dir = node.rig.settings.data_dir.join("attempts").join(first.attempt.to_string());
    assert!(!dir.exists(), "nothing of it is left");
    node.service.stop_within(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_cancel_drops_a_checkpoint_that_is_on_its_way() {
    let mut node = Node::start().await;
    node.platform.state().is_away = true;
    let held = node.assign(1, "echo 1 > ckpt/step; while :; do sleep 0.05; done", 100);
    until("it is announced", || !node.platform.state().checkpoints.is_empty()).await;
    node.handle.tell(Event::Cancel(held));
    let ending = node.ended(held).await;
    assert_eq!(ending.failure, Some(FailureKind::Cancelled));
    node.platform.state().is_away = false;
    node.service.stop_within(Duration::from_secs(3)).await;
    let state = node.platform.state();
    assert_eq!((state.checkpoints.len(), state.ready().len()), (1, 0));
}
