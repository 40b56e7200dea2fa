//! What a connected node costs a gateway while nothing happens.

use crate::world::{World, origin};
use domain::{
    ids::{DEFAULT_PROJECT, InstanceId, NodeId, NodeTokenId},
    node::NodeFacts,
};
use futures::StreamExt;
use protocol::{CONNECT_PATH, Frame, FromNode, Hello, Inventory, SUBPROTOCOL, version};
use service_kit::secret::{self, Kind};
use std::{fs, time::Duration};
use store::NewNodeToken;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

/// Two sockets each, and 1,024 descriptors are what a process may have on many a machine.
const NODES: u64 = 300;
const BEFORE: u64 = 100;

/// Kept at what a socket's buffers and a session's own state need, with some room for what the allocator wastes.
const MOST_KIB: u64 = 14;

// On one thread: each of several would keep pages of its own.
#[tokio::test]
async fn an_idle_node_costs_its_gateway_little_more_than_its_buffers() {
    let world = World::start().await;
    // What is made once is there before anything is counted.
    let mut lines = Vec::new();
    connect_all(&world, BEFORE, &mut lines).await;
    let before = private_kib();
    connect_all(&world, NODES, &mut lines).await;
    let each = private_kib().saturating_sub(before) / NODES;
    println!("{each} KiB a node");
    assert!(each < MOST_KIB, "{each} KiB a node");
    drop(lines);
    world.stop().await;
}

/// Of this process, which is the test's own: private pages in KiB.
fn private_kib() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells");
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.filter_map(kib).sum()
}

async fn connect_all(world: &World, count: u64, lines: &mut Vec<TcpStream>) {
    let all = (0..count).map(|_| connect(world));
    lines.extend(futures::stream::iter(all).buffer_unordered(20).collect::<Vec<_>>().await);
}

/// A node that is welcome and whose first heartbeat was answered. Its side is a bare socket, so that it costs this process nothing.
async fn connect(world: &World) -> TcpStream {
    let (node, token) = (NodeId::from_uuid(Uuid::now_v7()), NodeTokenId::from_uuid(Uuid::now_v7()));
    let (text, secret_hash) = secret::issue(Kind::Node, token.as_uuid());
    let new = NewNodeToken {
        id: token,
        node,
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        name: node.to_string(),
        secret_hash,
    };
    assert!(world.store.create_node_token(&new, &origin()).await.expect("made"));
    let address = world.url.trim_start_matches("http://").trim_end_matches("/api/v1").to_owned();
    let talk = async {
        let mut line = TcpStream::connect(&address).await.expect("connected");
        let request = format!(
            "GET {CONNECT_PATH} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {SUBPROTOCOL}\r\nauthorization: Bearer {text}\r\n\r\n"
        );
        line.write_all(request.as_bytes()).await.expect("asked");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(line.read_u8().await.expect("an answer"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let hello = Hello {
            versions: version::SUPPORTED,
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            facts: NodeFacts::default(),
            metrics: Default::default(),
            inventory: Inventory::default(),
        };
        say(&mut line, 0, FromNode::Hello(Box::new(hello))).await;
        assert!(hear(&mut line).await.contains("welcome"));
        say(&mut line, 1, FromNode::Heartbeat { metrics: Box::default(), number: 1, pieces: 0 }).await;
        assert!(hear(&mut line).await.contains("beat"));
        line
    };
    tokio::time::timeout(Duration::from_secs(30), talk).await.expect("in time")
}

/// One masked text frame; the mask is zero, which changes nothing.
async fn say(line: &mut TcpStream, seq: u64, message: FromNode) {
    let text = Frame::numbered(seq, message).encode();
    let mut bytes = vec![0x81];
    match text.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(text.as_bytes());
    line.write_all(&bytes).await.expect("said");
}

async fn hear(line: &mut TcpStream) -> String {
    line.read_u8().await.expect("an answer");
    let length = match line.read_u8().await.expect("a length") {
        126 => usize::from(line.read_u16().await.expect("a length")),
        short => usize::from(short),
    };
    let mut text = vec![0; length];
    line.read_exact(&mut text).await.expect("a message");
    String::from_utf8(text).expect("text")
}
