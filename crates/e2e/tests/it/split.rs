//! Several gateways and schedulers: whichever one is asked, and whichever one dies, a user gets every byte once.

use crate::{
    deployment::Deployment,
    programs::{self, Program},
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

/// Which event of which entry of its history.
fn place(event: &serde_json::Value) -> (i64, String) {
    (event["seq"].as_i64().expect("a number"), event["event"].as_str().expect("a word").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_watch_see_every_line_and_every_event_once_over_a_killed_gateway() {
    let mut deployment = Deployment::start(1).await;
    let token = std::fs::read_to_string(deployment.home.path().join("admin.token")).expect("a key");
    let watch = |arguments: &[&str]| {
        let mut command = programs::command(arguments);
        command.env("UNIDESK_URL", &deployment.urls[0]).env("UNIDESK_TOKEN", token.trim());
        Program::spawn(command)
    };
    let events = watch(&["events", "--follow", "--json"]);
    until("it hears of what happens", SOON, async || {
        deployment.submit(&Body::process("true")).await;
        (!events.said().is_empty()).then_some(())
    })
    .await;
    let line = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.2; done";
    let wanted: String = (0..60).map(|n| format!("line {n}\n")).collect();
    let id = deployment.submit(&Body::process(line)).await.id;
    let mut log = watch(&["logs", &id.to_string(), "--follow"]);
    log.until_said("line 5\n", SOON).await;
    deployment.kill_gateway(0).await;
    // The task goes on, and nobody hears of it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    deployment.start_gateway(0).await;

    assert!(log.ended(SOON).await.success());
    assert_eq!(log.said(), wanted);
    let told = || -> Vec<serde_json::Value> {
        let said = events.said();
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    };
    let of_task = |event: &serde_json::Value| event["task"] == id.to_string();
    until("its last event", SOON, async || {
        told().iter().any(|event| of_task(event) && event["event"] == "finished").then_some(())
    })
    .await;
    let mut history = Vec::new();
    let mut stream = Box::pin(deployment.client.follow_events(id));
    while let Some(item) = tokio::time::timeout(SOON, stream.next()).await.expect("the stream goes on") {
        if let Followed::Event(event) = item.expect("it can be followed") {
            history.push(place(&serde_json::to_value(event).expect("JSON")));
        }
    }
    let told = told();
    let seen: Vec<_> = told.iter().filter(|event| of_task(event)).map(place).collect();
    assert_eq!(seen, history);
    let cursors: std::collections::BTreeSet<&str> = told.iter().filter_map(|event| event["cursor"].as_str()).collect();
    assert_eq!(cursors.len(), told.len(), "each line has a place of its own");
    drop(events);
    deployment.finish().await;
}
