//! A user changes their mind, whatever the task is doing.

use crate::{
    story::{self, Stories},
    task::Body,
    until::until_true,
    world::{SOON, World},
};
use api_types::task::Task;
use domain::task::TaskState;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled_in_every_state_and_nothing_of_it_stays() {
    let world = World::start().await;
    let mut stories = Stories::default();

    let pending = world.submit(&Body::process("true").with("requirements.cpu_cores", 4_000).named("pending")).await;
    stories.tell("while it waits for a node", &cancelled(&world, &pending).await);

    world.repositories.host.behave(|behaviour| behaviour.never_answers = true);
    let fetching = world.submit(&world.container("true").named("fetching")).await;
    preparing(&world, &fetching, "fetching code").await;
    stories.tell("while its code is fetched", &cancelled(&world, &fetching).await);
    world.repositories.host.behave(|behaviour| behaviour.never_answers = false);

    let image = test_kit::docker::busybox().await;
    let dockerfile = format!("FROM {image}\nRUN echo in-the-build; sleep 600\n");
    let slow = world.repositories.environment.commit(&[("Dockerfile", dockerfile.as_str().into())], "Slow to build");
    let building = world.submit(&world.container("true").with("source.env_commit_id", slow).named("building")).await;
    preparing(&world, &building, "in-the-build\n").await;
    stories.tell("while its image is built", &cancelled(&world, &building).await);

    for (title, body) in
        [("container", world.container("echo up; sleep 600")), ("process", Body::process("echo up; sleep 600"))]
    {
        let running = world.submit(&body.named(title)).await;
        world.log_until(running.id, "up\n").await;
        stories.tell(&format!("while it runs as a {title}"), &cancelled(&world, &running).await);
    }
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.2; done";
    for (title, body) in [("container", world.container(stubborn)), ("process", Body::process(stubborn))] {
        let running = world.submit(&body.named(title).with("stop", json!({ "grace": "1s" }))).await;
        world.log_until(running.id, "up\n").await;
        stories.tell(&format!("while it runs as a {title} that ignores SIGTERM"), &cancelled(&world, &running).await);
    }

    // Once more changes nothing, and what has ended stays as it ended.
    let over = world.run(&Body::process("true").named("over")).await;
    let refusal = story::problem_of(world.client.cancel(over.id).await);
    stories.tell("when it has ended", &story::of_problem(&refusal));
    assert_eq!(world.ended(over.id).await.state, TaskState::Succeeded);
    stories.assert("cancelled");
    // A build's own container is nobody's attempt; it has no label to be found by, only its command.
    until_true("the build has stopped", SOON, || !runs_anywhere("echo in-the-build; sleep 600")).await;
    world.finish().await;
}

async fn preparing(world: &World, task: &Task, said: &str) {
    world.task_until(task.id, "it is prepared", |task| task.state == TaskState::Preparing).await;
    crate::until::until(&format!("{said:?} is said"), SOON, async || {
        let log = world.log_of(task.id, "system,build").await;
        log.contains(said).then_some(())
    })
    .await;
}

async fn cancelled(world: &World, task: &Task) -> String {
    let began = Instant::now();
    world.client.cancel(task.id).await.expect("it may be cancelled");
    // Asked for twice, since people press a button twice.
    let _ = world.client.cancel(task.id).await;
    let ended = world.ended(task.id).await;
    assert_eq!(ended.state, TaskState::Cancelled, "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "cancelled after {:?}", began.elapsed());
    world.story(&ended).await
}

fn runs_anywhere(command: &str) -> bool {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| {
        std::fs::read(process.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(command))
    })
}
