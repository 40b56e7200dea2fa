//! Several gateways and schedulers: whichever one is asked, and whichever one dies, a user gets every byte once.

use crate::{
    deployment::Deployment,
    task::Body,
    until::until,
    world::{SOON, log, log_until},
};
use api_types::log::LogQuery;
use client::{Client, Followed, LogItem};
use domain::{ids::TaskId, task::TaskState};
use futures::StreamExt;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// Follows the log to its end: its bytes, and how often the line broke.
async fn follow(client: &Client, id: TaskId) -> (Vec<u8>, usize) {
    let mut stream = Box::pin(client.follow_log(id, &LogQuery::default()));
    let (mut bytes, mut cuts) = (Vec::new(), 0);
    while let Some(item) = tokio::time::timeout(SOON, stream.next()).await.expect("the stream goes on") {
        match item.expect("it can be followed") {
            Followed::Event(LogItem::Piece(piece)) => bytes.extend_from_slice(&piece.bytes),
            Followed::Disconnected { .. } => cuts += 1,
            Followed::Event(_) | Followed::Resumed { .. } => {}
        }
    }
    (bytes, cuts)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_over_another_gateway_than_the_nodes() {
    let deployment = Deployment::start(2).await;
    // One line of 10 MB, then NUL, bytes that are no text, carriage returns, and no line end.
    let odd = r"head -c 10000000 /dev/zero | tr '\000' x; printf '\r\na\000b\377\376\r\n\033[2J\r'";
    let mut wanted = vec![b'x'; 10_000_000];
    wanted.extend_from_slice(b"\r\na\0b\xff\xfe\r\n\x1b[2J\r");
    for body in [Body::process(odd), Body::container(&deployment.repositories, odd)] {
        let task = deployment.submit(&body).await;
        let began = Instant::now();
        let (followed, _) = follow(&deployment.client, task.id).await;
        println!("10 MB followed in {:?}", began.elapsed());
        assert!(followed == wanted, "{} bytes followed, {} written", followed.len(), wanted.len());
        assert!(log(&deployment.client, task.id, None).await == wanted);
        assert!(deployment.ended(task.id).await.log.complete);
    }

    // How late a line is for somebody who watches.
    let line = "i=0; while [ $i -lt 50 ]; do date +%s%N; i=$((i+1)); sleep 0.1; done";
    let task = deployment.submit(&Body::process(line)).await;
    let mut stream = Box::pin(deployment.client.follow_log(task.id, &LogQuery::default()));
    let mut late: Vec<Duration> = Vec::new();
    while let Some(item) = tokio::time::timeout(SOON, stream.next()).await.expect("the stream goes on") {
        let Followed::Event(LogItem::Piece(piece)) = item.expect("it can be followed") else { continue };
        let now = UNIX_EPOCH.elapsed().expect("after 1970");
        let text = std::str::from_utf8(&piece.bytes).expect("text");
        late.extend(text.lines().map(|line| now.saturating_sub(Duration::from_nanos(line.parse().expect("a time")))));
    }
    late.sort();
    let (middle, worst) = (late[late.len() / 2], late[late.len() - 1]);
    println!("a line reaches its follower after {middle:?} (p50), {worst:?} (worst of {})", late.len());
    assert_eq!(late.len(), 50);
    assert!(middle < Duration::from_secs(1), "{middle:?}");
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_gateways_and_schedulers_lose_nothing() {
    let mut deployment = Deployment::start(2).await;
    let line = "i=0; while [ $i -lt 80 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 3";
    let wanted: String = (0..80).map(|n| format!("line {n}\n")).collect();
    let process = deployment.submit(&Body::process(line)).await.id;
    let container = deployment.submit(&Body::container(&deployment.repositories, line)).await.id;
    let client = deployment.client.clone();
    let mut followers = tokio::task::JoinSet::new();
    for id in [process, container] {
        log_until(&client, id, "line 3\n").await;
        let client = client.clone();
        followers.spawn(async move { follow(&client, id).await });
    }
    // The node's gateway, then the one that the user asks.
    deployment.kill_gateway(0).await;
    deployment.start_gateway(0).await;
    deployment.kill_gateway(1).await;
    deployment.start_gateway(1).await;
    let mut cuts = 0;
    while let Some(followed) = followers.join_next().await {
        let (bytes, broken) = followed.expect("the follower");
        assert_eq!(String::from_utf8(bytes).expect("text"), wanted);
        cuts += broken;
    }
    assert!(cuts > 0, "no follower noticed its gateway's death");
    for id in [process, container] {
        let task = deployment.ended(id).await;
        assert_eq!((task.attempt, task.exit_code), (1, Some(3)), "{task:#?}");
        assert_eq!(String::from_utf8(log(&client, id, None).await).expect("text"), wanted);
    }

    // The leading scheduler: the other takes over.
    deployment.start_scheduler().await;
    deployment.schedulers.remove(0).kill().await;
    let began = Instant::now();
    let task = deployment.submit(&Body::process("true")).await;
    assert_eq!(deployment.ended(task.id).await.state, TaskState::Succeeded);
    println!("a task ends {:?} after the leading scheduler was killed", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10));

    // A key that is revoked at one gateway is refused by the other.
    let wanted = api_types::access::CreateApiKey {
        name: "ana".into(),
        role: domain::principal::Role::Viewer,
        project: None,
        expires_in_days: None,
    };
    let key = client.create_api_key(&wanted).await.expect("a key");
    let elsewhere = Client::new(&deployment.urls[0], &key.key).expect("a client");
    elsewhere.who_am_i().await.expect("it holds");
    client.revoke_api_key(key.id).await.expect("revoked");
    until("the other gateway refuses the key", Duration::from_secs(5), async || {
        elsewhere.who_am_i().await.is_err().then_some(())
    })
    .await;
    deployment.finish().await;
}
