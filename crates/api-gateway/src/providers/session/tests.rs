use super::*;
use crate::providers::Settings;
use domain::{
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, NodeTokenId, PrincipalId, TaskId},
    node::NodeFacts,
    placement::Placement,
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    resources::{Capacity, Reservation},
    spec::parse_spec,
    task::TaskState,
};
use futures::{
    Sink, Stream, StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use protocol::{Hello, Inventory, LogPayload, Stream as LogStream, version};
use serde_json::json;
use service_kit::Service;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use store::{DatabaseConfig, LeaderRole, NewNodeToken, NewTask, Store, Submitted};
use test_kit::database::TestDatabase;
use uuid::Uuid;

/// The server's end of a line in memory.
struct Pipe {
    heard: UnboundedReceiver<Message>,
    said: UnboundedSender<Message>,
}

impl Stream for Pipe {
    type Item = Result<Message, TransportError>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.heard).poll_next(context).map(|message| message.map(Ok))
    }
}

impl Sink<Message> for Pipe {
    type Error = TransportError;
    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }
    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), TransportError> {
        self.said.unbounded_send(message).map_err(|_| TransportError::Closed("nobody listens".into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }
}

/// A node of a test's own, connected and welcome.
struct Node {
    says: UnboundedSender<Message>,
    hears: UnboundedReceiver<Message>,
    service: Service,
    store: Store,
    id: NodeId,
    database: TestDatabase,
}

impl Node {
    async fn connect() -> Self {
        let database = TestDatabase::create().await;
        let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 4, shared: false };
        let store = Store::connect_unchecked(&config).await.expect("connected");
        let (node, id) = (NodeId::from_uuid(Uuid::now_v7()), PrincipalId::from_uuid(Uuid::nil()));
        let token = NodeTokenId::from_uuid(node.as_uuid());
        let new = NewNodeToken {
            id: token,
            node,
            project: DEFAULT_PROJECT,
            created_by: id,
            name: "lab-3".into(),
            secret_hash: vec![1; 32],
        };
        let principal =
            Principal { kind: PrincipalKind::Platform, id, name: "test".into(), role: Role::Admin, project: None };
        let origin = Origin { principal, address: "test".into(), request_id: "test".into() };
        assert!(store.create_node_token(&new, &origin).await.expect("made"));

        let service = Service::new();
        let door = Door::new(service.clone(), store.clone(), Settings::default());
        let caller = Caller { node, name: "lab-3".into(), newest_epoch: 0 };
        let ((says, heard), (said, hears)) = (unbounded(), unbounded());
        let place = door.admission.enter().expect("there is room");
        service.spawn("node session", run(door, caller, place, Pipe { heard, said }));
        let mut node = Self { says, hears, service, store, id: node, database };
        let capacity = Capacity { cpu_millis: 8_000, memory_bytes: 1 << 34, disk_bytes: 1 << 40, gpus: Vec::new() };
        let executors = [("process".to_owned(), "1".to_owned())].into();
        let hello = Hello {
            versions: version::SUPPORTED,
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            facts: NodeFacts { capacity, executors, platform: "linux".into(), ..NodeFacts::default() },
            metrics: NodeMetrics::default(),
            inventory: Inventory::default(),
        };
        node.say(0, FromNode::Hello(Box::new(hello)));
        assert!(matches!(node.hear().await, Some(Frame { seq: 0, message: ToNode::Welcome(_) })));
        node
    }

    fn say(&self, seq: u64, message: FromNode) {
        self.says.unbounded_send(Message::Text(Frame::numbered(seq, message).encode())).expect("somebody listens");
    }

    fn beat(&self, seq: u64, number: u64, pieces: u64) {
        self.say(seq, FromNode::Heartbeat { metrics: Box::new(NodeMetrics::default()), number, pieces });
    }

    fn send_piece(&self) {
        let held = Held { attempt: AttemptId::from_uuid(Uuid::from_u128(7)), fence: Fence::from_i64(1) };
        let payload = LogPayload::Bytes(bytes::Bytes::from_static(b"line"));
        let frame = LogFrame { held, stream: LogStream::Stdout, ordinal: 0, offset: 0, payload };
        self.says.unbounded_send(Message::Binary(frame.encode())).expect("somebody listens");
    }

    /// What the server says next. None: it has ended the session.
    async fn hear(&mut self) -> Option<Frame<ToNode>> {
        let message = tokio::time::timeout(Duration::from_secs(10), self.hears.next()).await.expect("in time")?;
        let Message::Text(text) = message else { panic!("a server sends no bytes") };
        Some(Frame::decode(&text).expect("a frame"))
    }

    /// What is stored of a log is acknowledged at any moment between the rest.
    async fn hear_but_log_acks(&mut self) -> Option<ToNode> {
        loop {
            match self.hear().await?.message {
                ToNode::LogAck { .. } => {}
                other => return Some(other),
            }
        }
    }

    /// A task of this priority that is leased to the node; what the node is told of it.
    async fn is_given(&mut self, priority: &str) -> (TaskId, Held) {
        let spec = parse_spec(&json!({"command": ["ls"], "priority": priority})).expect("a good task");
        let created_by = PrincipalId::from_uuid(Uuid::nil());
        let new = NewTask { project: DEFAULT_PROJECT, created_by, spec, idempotency: None };
        let [Submitted::Accepted { id: task }] = self.store.submit_tasks(&[new]).await.expect("accepted")[..] else {
            panic!("it is new")
        };
        let leader = self.store.lead(LeaderRole::Scheduler, Uuid::from_u128(9), None).await.expect("asked");
        let plan = [Placement { task, node: self.id, reservation: Reservation::default() }];
        let leases = self.store.lease_tasks(&leader.expect("leads"), &plan).await.expect("committed");
        assert_eq!(leases.len(), 1);
        match self.hear().await {
            Some(Frame { message: ToNode::Assign(assign), .. }) if assign.task == task => (task, assign.held),
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self, task: TaskId) -> TaskState {
        self.store.get_task(Scope::All, task).await.expect("read").expect("there").view.state
    }

    async fn finish(self) {
        drop((self.says, self.hears));
        assert!(self.service.stop_within(Duration::from_secs(10)).await);
    }
}

fn beat(seq: u64, number: u64) -> Option<Frame<ToNode>> {
    Some(Frame::numbered(seq, ToNode::Beat { number }))
}

#[tokio::test]
async fn a_message_that_is_heard_twice_counts_once_and_the_answers_are_numbered() {
    let mut node = Node::connect().await;
    node.beat(1, 1, 0);
    node.beat(1, 1, 0);
    node.beat(2, 2, 0);
    assert_eq!((node.hear().await, node.hear().await), (beat(1, 1), beat(2, 2)));
    // Of an agent that numbers nothing each is heard.
    node.beat(0, 3, 0);
    node.beat(0, 4, 0);
    assert_eq!((node.hear().await, node.hear().await), (beat(3, 3), beat(4, 4)));
    node.finish().await;
}

#[tokio::test]
async fn a_message_that_was_lost_or_overtaken_ends_the_session_before_anything_after_it_counts() {
    let mut node = Node::connect().await;
    node.beat(2, 2, 0);
    assert_eq!(node.hear().await, None);
    node.finish().await;
}

#[tokio::test]
async fn the_last_piece_of_a_log_is_missed_at_the_next_heartbeat() {
    let mut node = Node::connect().await;
    node.send_piece();
    // Again, which is no second one.
    node.send_piece();
    node.beat(1, 1, 1);
    assert!(matches!(node.hear_but_log_acks().await, Some(ToNode::Beat { number: 1 })));
    node.beat(2, 2, 2);
    assert_eq!(node.hear_but_log_acks().await, None);
    node.finish().await;
}

#[tokio::test]
async fn a_message_that_is_not_understood_is_answered_and_costs_no_session() {
    let mut node = Node::connect().await;
    let newer = r#"{"seq": 1, "type": "report", "held": "of another form"}"#;
    node.says.unbounded_send(Message::Text(newer.into())).expect("somebody listens");
    assert!(matches!(node.hear().await, Some(Frame { seq: 1, message: ToNode::Error { .. } })));
    node.beat(2, 1, 0);
    assert_eq!(node.hear().await, beat(2, 1));
    node.finish().await;
}

#[tokio::test]
async fn what_is_said_of_an_urgent_task_overtakes_the_rest_and_is_acknowledged_after_it() {
    let mut node = Node::connect().await;
    let ((normal, held), (urgent, urgent_held)) = (node.is_given("normal").await, node.is_given("urgent").await);
    let lock =
        format!("BEGIN; SELECT FROM task_state WHERE task_id = '{normal}' FOR UPDATE; SELECT pg_sleep(1); ROLLBACK");
    let others = async {
        let is_held = format!("SELECT FROM task_state WHERE task_id = '{normal}' FOR UPDATE NOWAIT");
        while node.database.try_execute(&is_held).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (seq, held) in [(1, held), (2, urgent_held)] {
            node.say(seq, FromNode::Report { held, report: Report::Started });
        }
        while node.state(urgent).await != TaskState::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(node.state(normal).await, TaskState::Assigned, "it waits for the row");
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(node.database.execute(&lock), others) })
        .await
        .expect("in time");
    // Both at once: nothing may be forgotten that was said before and is not recorded.
    assert!(matches!(node.hear().await, Some(Frame { message: ToNode::Ack { up_to: 2 }, .. })));
    assert_eq!(node.state(normal).await, TaskState::Running);
    node.finish().await;
}
