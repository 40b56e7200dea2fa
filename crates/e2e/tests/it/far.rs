//! A node at the end of a long line: short tasks follow each other there without the way to the platform and back between them.

use crate::{
    programs::{self, Program},
    task::Body,
    until::until,
    world::{SOON, World},
};
use domain::task::TaskState;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

const ONE_WAY: Duration = Duration::from_millis(150);

/// Carries connections to this address, slowly: whatever is said arrives so much later.
async fn long_line(to: SocketAddr, lines: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    lines.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            carry(near_in, far_out, &mut open);
            carry(far_in, near_out, &mut open);
        }
    });
    address
}

fn carry(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, open: &mut JoinSet<()>) {
    let (sender, mut travelling) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    open.spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + ONE_WAY, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    open.spawn(async move {
        while let Some((arrives_at, bytes)) = travelling.recv().await {
            sleep_until(arrives_at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn short_tasks_on_a_far_node_do_not_wait_for_the_line_between_them() {
    let world = World::start().await;
    let token = world.client.create_node_token("far").await.expect("a token").token;
    let address = world.platform().url.trim_start_matches("http://").parse().expect("an address");
    let mut lines = JoinSet::new();
    let line = long_line(address, &mut lines).await;
    let dir = world.home.path().join("far");
    std::fs::create_dir_all(&dir).expect("making the agent's directory");
    std::fs::write(dir.join("provider.toml"), "cpus = 1\n").expect("writing provider.toml");
    std::fs::write(dir.join("policy.toml"), "executors = [\"process\"]\n").expect("writing policy.toml");
    let mut agent = Program::spawn(programs::provider(&format!("http://{line}"), &token, &dir));
    let far = async || world.client.nodes().await.expect("nodes").into_iter().find(|node| node.name == "far");
    until("the far node is connected", SOON, async || far().await.filter(|node| node.connected_since.is_some())).await;

    // It has one CPU, and each task wants that. That tasks like these are short is learned from sixteen in a row; after one that took
    // long, as on a busy machine any may, it takes twice as many. So there are several rounds, each of which ends with a task that is in
    // nobody's way until it is allowed to end.
    let mut ids = Vec::new();
    let mut said = None;
    for round in 0..5 {
        let gate = dir.join(format!("gate-{round}"));
        let held = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
        let mut lines = vec!["sleep 0.1"; 40 + (16 << round)];
        lines.extend([held.as_str(), "true", "true"]);
        for line in &lines {
            let body = Body::process(line).with("requirements.cpu_cores", 1).with("requirements.node", "far");
            ids.push(world.submit(&body).await.id);
        }
        let [.., holder, next, _] = ids[..] else { unreachable!("many were submitted") };
        let is_held = async || (world.client.task(holder).await.ok()?.state == TaskState::Running).then_some(());
        until("the last of the round has begun", 5 * SOON, is_held).await;
        let sent_ahead = tokio::time::timeout(Duration::from_secs(10), async {
            until("a task waits there for its place", SOON, async || far().await.filter(|node| node.waiting > 0)).await
        });
        if let Ok(node) = sent_ahead.await {
            assert!(node.tasks <= 1 && node.reserved.cpu_millis <= 1_000, "it runs one at a time: {node:#?}");
            let waits_there = async || Some(world.why(next).await.summary).filter(|said| said.contains("waits on far"));
            said = Some(until("the next task says that it waits there", SOON, waits_there).await);
        }
        std::fs::write(&gate, "").expect("letting it end");
        if said.is_some() {
            break;
        }
    }
    let said = said.expect("in one round of five a task is sent ahead");
    assert!(said.contains("starts there as soon as a task before it has ended"), "{said}");

    let mut runs = Vec::new();
    for id in &ids {
        let task = world.ended(*id).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:#?}");
        let attempt = task.attempts.as_deref().and_then(<[_]>::last).expect("an attempt").clone();
        runs.push((attempt.started_at.expect("it started"), attempt.exited_at.expect("it ended")));
    }
    runs.sort();
    // By the platform's clock, so that without being sent ahead a start comes two ways after the end before it at the earliest.
    let gaps: Vec<_> = runs.windows(2).map(|pair| pair[1].0 - pair[0].1).collect();
    let two_ways = 2 * ONE_WAY.as_millis() as i64;
    let at_once = gaps.iter().filter(|gap| gap.num_milliseconds() < two_ways).count();
    assert!(at_once >= 5, "{at_once} tasks began soon after the one before them: {gaps:?}");
    agent.stop().await;
    world.stop().await;
}
