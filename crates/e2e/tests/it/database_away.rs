//! PostgreSQL is away for a while: requests are refused with a time to come back, and nothing that was accepted is lost.

use crate::{story, task::Body, until::until, world::World};
use domain::task::TaskState;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, time::Duration};
use tokio::time::Instant;

/// The server of a world, by its pid file.
fn postmaster(world: &World) -> Pid {
    let file =
        fs::read_to_string(world.home.path().join("postgres/data/postmaster.pid")).expect("a running PostgreSQL");
    Pid::from_raw(file.lines().next().and_then(|line| line.parse().ok()).expect("its pid"))
}

/// The server and all its processes, so that not even a backend answers.
fn signal_all(world: &World, signal: Signal) {
    let server = postmaster(world);
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(server.as_raw()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
    kill(server, signal).expect("it runs");
}

/// Writes a line twice a second for a while, so that the outage falls into the middle.
fn chatter(lines: usize) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep 0.5; done; exit 4")
}

async fn assert_whole(world: &World, id: domain::ids::TaskId, lines: usize) {
    let task = world.ended(id).await;
    assert_eq!((task.attempt, task.exit_code), (1, Some(4)), "{task:#?}");
    let lines: String = (0..lines).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8(world.log(id).await).expect("text"), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_for_20_seconds_loses_nothing() {
    let world = World::start().await;
    let process = world.submit(&Body::process(&chatter(60))).await;
    let container = world.submit(&world.container(&chatter(60))).await;
    let short = world.submit(&Body::process("echo up; sleep 8; echo down")).await;
    for id in [process.id, container.id] {
        world.log_until(id, "line 2\n").await;
    }
    world.log_until(short.id, "up\n").await;

    signal_all(&world, Signal::SIGSTOP);
    let began = Instant::now();
    let answer = reqwest::Client::new()
        .post(format!("{}/api/v1/tasks", world.platform().url))
        .bearer_auth(&world.platform().admin_token)
        .body(Body::process("true").0.to_string())
        .header("content-type", "application/json")
        .timeout(Duration::from_secs(30))
        .send()
        .await
        .expect("an answer");
    println!("refused after {:?}", began.elapsed());
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"), "{:?}", answer.headers());
    let problem = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("a problem");
    story::assert_story("database_hangs", &story::of_problem(&problem));
    // The short task ends meanwhile, with nobody to tell.
    until("20 s have passed", Duration::from_secs(40), async || {
        (began.elapsed() > Duration::from_secs(20)).then_some(())
    })
    .await;
    signal_all(&world, Signal::SIGCONT);

    assert_whole(&world, process.id, 60).await;
    assert_whole(&world, container.id, 60).await;
    let ended = world.ended(short.id).await;
    assert_eq!((ended.state, ended.attempt), (TaskState::Succeeded, 1));
    assert_eq!(world.log(short.id).await, b"up\ndown\n");
    assert_eq!(world.run(&Body::process("true")).await.state, TaskState::Succeeded);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_is_started_again_and_loses_nothing() {
    let world = World::start().await;
    let process = world.submit(&Body::process(&chatter(20))).await;
    let container = world.submit(&world.container(&chatter(20))).await;
    for id in [process.id, container.id] {
        world.log_until(id, "line 2\n").await;
    }
    let first = postmaster(&world);
    signal_all(&world, Signal::SIGKILL);
    let killed = Instant::now();
    // Accepted at last by the client's own patience, or refused meanwhile and asked again: never lost.
    let later = until("a task is taken again", Duration::from_secs(40), async || {
        world.client.submit(&Body::process("true").0, Some("after-the-crash")).await.ok()
    })
    .await;
    println!("tasks are taken again {:?} after the kill", killed.elapsed());
    assert_ne!(postmaster(&world), first);
    assert_eq!(world.ended(later.id).await.state, TaskState::Succeeded);
    assert_whole(&world, process.id, 20).await;
    assert_whole(&world, container.id, 20).await;
    world.finish().await;
}
