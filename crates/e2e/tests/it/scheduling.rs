//! Many tasks on few CPUs: who comes first, who waits, and that nobody gets more than there is.

use crate::{task::Body, world::World};
use api_types::task::{Task, TaskQuery};
use client::ClientError;
use domain::{ids::TaskId, task::TaskState};
use futures::StreamExt;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn fractions_of_cpus_are_filled_and_never_overcommitted() {
    let world = World::start_with("cpus = 2\n").await;
    let body = Body::process("sleep 1").with("requirements.cpu_cores", 0.5);
    let submitted = world.client.submit_batch(vec![body.0; 12], None).await.expect("an answer");
    assert_eq!(submitted.items.len(), 12);
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let node = world.node().await;
        assert!(node.reserved.cpu_millis <= 2_000, "{:?}", node.reserved);
        most = most.max(node.reserved.cpu_millis);
        let live = world
            .client
            .tasks(&TaskQuery {
                state: Some("pending,assigned,preparing,running,finishing".into()),
                ..TaskQuery::default()
            })
            .await;
        if live.expect("tasks").found == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "they do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(most, 2_000, "there was room for four at once");
    let tasks = all_tasks(&world).await;
    assert!(tasks.iter().all(|task| task.state == TaskState::Succeeded));
    assert!(overlapping(&world, &tasks).await <= 4, "more than four ran at once");
    world.finish().await;
}

/// The most attempts that ran at one moment, by what their node says.
async fn overlapping(world: &World, tasks: &[Task]) -> usize {
    let mut moments = Vec::new();
    for task in tasks {
        let task = world.client.task(task.id).await.expect("a task");
        let exit = task.attempts.expect("attempts")[0].exit.clone().expect("it ran");
        moments.push((exit.started_at.expect("a time"), 1i32));
        moments.push((exit.ended_at.expect("a time"), -1));
    }
    moments.sort();
    let mut now = 0;
    moments
        .iter()
        .map(|(_, change)| {
            now += change;
            now
        })
        .max()
        .unwrap_or(0) as usize
}

async fn all_tasks(world: &World) -> Vec<Task> {
    world.client.tasks(&TaskQuery { limit: Some(200), ..TaskQuery::default() }).await.expect("tasks").tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_comes_first_and_equals_in_their_order() {
    let world = World::start_with("cpus = 1\n").await;
    let whole = |line: &str| Body::process(line).with("requirements.cpu_cores", 1);
    let first = world.submit(&whole("echo up; while [ ! -e go ]; do sleep 0.05; done").named("first")).await;
    world.log_until(first.id, "up\n").await;
    let mut waiting = Vec::new();
    for (name, priority) in [
        ("low", json!("low")),
        ("a", json!("normal")),
        ("b", json!("normal")),
        ("seven", json!(7)),
        ("urgent", json!("urgent")),
    ] {
        waiting.push(world.submit(&whole("true").named(name).with("priority", priority)).await);
    }
    world.client.cancel(first.id).await.expect("it may be cancelled");
    let mut order: Vec<(chrono::DateTime<chrono::Utc>, String)> = Vec::new();
    for task in waiting {
        let ended = world.ended(task.id).await;
        order.push((ended.attempts.expect("attempts")[0].placed_at, ended.name));
    }
    order.sort();
    let names: Vec<&str> = order.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["urgent", "seven", "a", "b", "low"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_that_fit_nowhere_hold_up_nobody() {
    let world = World::start_with("cpus = 2\n").await;
    let stuck = Body::process("true").with("requirements.cpu_cores", 64).with("priority", "urgent");
    let began = Instant::now();
    let answer = world.client.submit_batch(vec![stuck.0; 10_000], None).await.expect("an answer");
    println!("10,000 tasks were taken in {:?}", began.elapsed());
    let ids: Vec<TaskId> = answer
        .items
        .iter()
        .map(|item| match item {
            api_types::task::BatchItem::Accepted { id, .. } => *id,
            refused => panic!("{refused:?}"),
        })
        .collect();
    assert_eq!(ids.len(), 10_000);

    let mut times = Vec::new();
    for _ in 0..5 {
        let task = world.run(&Body::process("true")).await;
        let started = task.started_at.expect("it ran");
        times.push((started - task.created_at).to_std().unwrap_or_default());
    }
    println!("tasks that fit start after {times:?}");
    assert!(times.iter().all(|time| *time < Duration::from_secs(5)), "{times:?}");
    let asked = Instant::now();
    let why = world.why(ids[5_000]).await;
    println!("why takes {:?} in a queue of 10,000: {}", asked.elapsed(), why.summary);
    assert!(asked.elapsed() < Duration::from_secs(2));

    // Many at once get their answer each.
    let began = Instant::now();
    let client = &world.client;
    let some = ids.into_iter().take(500);
    let outcomes: Vec<Result<Task, ClientError>> =
        futures::stream::iter(some).map(|id| client.cancel(id)).buffer_unordered(32).collect().await;
    println!("500 tasks were cancelled in {:?}", began.elapsed());
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused.first());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_ends_at_its_limit_with_a_marker_and_the_task_goes_on() {
    let world = World::start().await;
    // Far more than the limit and than any pipe; then one more second of life.
    let line = "head -c 3000000 /dev/zero | tr '\\000' y; echo; echo past-the-limit; sleep 0.2; exit 9";
    for body in [Body::process(line), world.container(line)] {
        let task = world.run(&body.with("log_limit", "1MiB")).await;
        assert_eq!(task.exit_code, Some(9));
        assert!(!task.log.complete, "what is cut off is not complete");
        let stdout = world.log_of(task.id, "stdout").await;
        assert!(stdout.len() <= 1 << 20, "{}", stdout.len());
        assert!(stdout.bytes().all(|byte| byte == b'y'));
        let build = world.log_of(task.id, "build").await.len();
        assert_eq!(stdout.len() + build, 1 << 20, "the limit is used to its last byte");
        let system = world.log_of(task.id, "system").await;
        assert_eq!(system.matches("log limit of 1 MiB reached: further output is discarded\n").count(), 1, "{system}");
    }
    world.finish().await;
}
