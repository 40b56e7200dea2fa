//! The agent's own disk runs full: the work goes on, its result arrives, and what is missing of its log is said.

use crate::dockerd::{run, temporary_dir, unmount_below};
use domain::{
    attempt::Report,
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, TaskId},
    node::Condition,
    outcome::{Ending, ExitFacts, FailureKind},
    spec::{TaskSpec, parse_spec},
};
use futures::future::BoxFuture;
use protocol::{Assign, FromNode, LogPayload, Stream};
use provider_gateway::{
    agent::Event,
    executor::{Adopted, Executor, Failure, Job, Prepared, Registry, Signal},
    log::Cursor,
    runtime::{self, AttemptsDir, Handle, Parts},
};
use service_kit::Service;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// Writes so many bytes and exits 0.
struct Chatty(usize);

impl Executor for Chatty {
    fn name(&self) -> &'static str {
        "process"
    }
    fn version(&self) -> &'static str {
        "1"
    }
    fn validate(&self, _: &TaskSpec) -> Result<(), Failure> {
        Ok(())
    }
    fn prepare<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Result<Prepared, Failure>> {
        Box::pin(async { Ok(Prepared::default()) })
    }
    fn start<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
    fn adopt<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Adopted> {
        Box::pin(async { Adopted::Gone })
    }
    fn collect<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<ExitFacts, Failure>> {
        Box::pin(async move {
            for _ in 0..self.0 / 1_000 {
                job.log.append(Stream::Stdout, vec![b'x'; 1_000].into()).await;
            }
            Ok(ExitFacts { code: Some(0), ..ExitFacts::default() })
        })
    }
    fn signal<'a>(&'a self, _: &'a Job, _: Signal) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn remove<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
    fn health<'a>(&'a self) -> BoxFuture<'a, Option<Condition>> {
        Box::pin(async { None })
    }
}

/// One megabyte and a half of memory as a disk. Gone when dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn new() -> Self {
        let tiny = Self(temporary_dir());
        run("mount", &["-t", "tmpfs", "-o", "size=1536k", "tmpfs", &tiny.0.path().display().to_string()]);
        tiny
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}

fn agent(service: &Service, disk: &Tiny, bytes: usize) -> (Handle, mpsc::UnboundedReceiver<FromNode>) {
    let parts = Parts {
        registry: Registry::default().with(Arc::new(Chatty(bytes))),
        attempts: AttemptsDir::open(&disk.path().join("attempts")).unwrap(),
        instance: InstanceId::from_uuid(Uuid::from_u128(1)),
        node_name: watch::channel(String::new()).1,
        spool: Default::default(),
        artifacts: provider_gateway::artifacts::Artifacts::none(),
    };
    let handle = runtime::start(service, parts).unwrap();
    let (outgoing, said) = mpsc::unbounded_channel();
    handle.session_opened(outgoing, &[]);
    (handle, said)
}

fn assign() -> Box<Assign> {
    Box::new(Assign {
        held: Held { attempt: AttemptId::from_uuid(Uuid::now_v7()), fence: Fence::from_i64(1) },
        task: TaskId::from_uuid(Uuid::now_v7()),
        project: DEFAULT_PROJECT,
        number: 1,
        ahead: false,
        gpu_ids: vec![],
        lease: None,
        spec: parse_spec(&serde_json::json!({"executor": "process", "command": ["true"]})).unwrap(),
    })
}

/// The next end that the agent reports.
async fn ended(said: &mut mpsc::UnboundedReceiver<FromNode>) -> Ending {
    let ended = async {
        loop {
            if let Some(FromNode::Report { report: Report::Ended { ending }, .. }) = said.recv().await {
                return ending;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends")
}

#[tokio::test]
async fn a_log_that_the_disk_does_not_hold_ends_in_a_gap_and_its_result_arrives() {
    let (disk, service) = (Tiny::new(), Service::new());
    let (handle, mut said) = agent(&service, &disk, 3_000_000);
    let assign = assign();
    let attempt = assign.held.attempt;
    handle.tell(Event::Assigned(assign));
    // A server that takes everything, once the process has written all of it.
    let (mut stored, mut missing) = (0, 0);
    let taking = async {
        let log = loop {
            match handle.logs.get(attempt) {
                Some(log) if log.offset(Stream::Stdout) == 3_000_000 => break log,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut cursor = Cursor::default();
        while !log.is_acknowledged() {
            match log.read_next(&mut cursor).unwrap() {
                Some(frame) => {
                    match &frame.payload {
                        LogPayload::Bytes(bytes) => stored += bytes.len(),
                        LogPayload::Gap(length) => missing += *length as usize,
                    }
                    log.acknowledge(frame.stream, frame.next_offset());
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let (ending, ()) = tokio::join!(ended(&mut said), taking);
    assert_eq!((ending.failure, ending.exit.and_then(|exit| exit.code)), (None, Some(0)));
    assert_eq!((ending.log.bytes, ending.log.complete), (3_000_000, false));
    assert_eq!(stored + missing, 3_000_000);
    assert!(stored > 500_000 && missing > 500_000, "{stored} bytes stored, {missing} missing");
    service.stop_within(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn an_assignment_that_the_disk_does_not_take_is_refused_and_the_node_says_why_it_takes_no_more() {
    let (disk, service) = (Tiny::new(), Service::new());
    let (handle, mut said) = agent(&service, &disk, 0);
    assert_eq!(handle.disk_condition().await, None);
    let filler = disk.path().join("filler");
    let _ = std::fs::remove_file(disk.path().join("reserve"));
    let _ = std::fs::write(&filler, vec![1; 2 << 20]);
    handle.tell(Event::Assigned(assign()));
    let ending = ended(&mut said).await;
    assert_eq!(ending.failure, Some(FailureKind::NodeError));
    assert!(ending.message.contains("disk") && ending.message.contains("No space left"), "{}", ending.message);
    assert_eq!(handle.disk_condition().await, Some(Condition::DiskFull));
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(handle.disk_condition().await, None, "as soon as there is room again");
    service.stop_within(Duration::from_secs(3)).await;
}
