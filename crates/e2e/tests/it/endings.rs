//! How a task that ran may end: each in the words that a user reads.

use crate::{task::Body, world::World};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_container_has_its_own_name() {
    let world = World::start().await;
    let run = |line: &str| world.container(line);
    let cases = [
        ("a program that is not there", run("").with("command", json!(["/no/such/program", "x"]))),
        ("a file that is not executable", run("").with("command", json!(["/workspace/greeting.txt"]))),
        ("exit 3", run("exit 3")),
        ("a segmentation fault", run("sh -c 'kill -SEGV $$'; exit $?")),
        ("a segmentation fault of the first process", run("kill -SEGV $$")),
        ("a working directory that is a file", run("true").with("workdir", "/workspace/greeting.txt")),
        ("more memory than it asked for", run("tail /dev/zero").with("requirements.memory", "32MiB")),
        ("more time than it asked for", run("trap 'exit 0' TERM; sleep 60 & wait").with("timeout", "1s")),
        (
            "more time, and it does not listen",
            run("trap '' TERM; while :; do sleep 1; done").with("timeout", "1s").with("stop", json!({ "grace": "1s" })),
        ),
        ("a user that the image does not know", run("true").with("user", "nobody-here")),
        ("success", run("true")),
    ];
    world.tell_ends(&cases).await.assert("ends_of_containers");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_process_has_its_own_name() {
    let world = World::start().await;
    let cases = [
        ("a program that is not there", Body::process("").with("command", json!(["/no/such/program", "x"]))),
        ("a working directory that is not there", Body::process("true").with("workdir", "/workspace/none")),
        ("exit 3", Body::process("exit 3")),
        ("a segmentation fault", Body::process("kill -SEGV $$")),
        ("more memory than it asked for", Body::process("tail /dev/zero").with("requirements.memory", "32MiB")),
        ("more time than it asked for", Body::process("trap 'exit 0' TERM; sleep 60 & wait").with("timeout", "1s")),
        (
            "more time, and it does not listen",
            Body::process("trap '' TERM; while :; do sleep 1; done")
                .with("timeout", "1s")
                .with("stop", json!({ "grace": "1s" })),
        ),
        ("success", Body::process("true")),
    ];
    world.tell_ends(&cases).await.assert("ends_of_processes");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_knows_who_it_is() {
    let world = World::start().await;
    for body in [Body::process("env"), world.container("env")] {
        let task = world.run(&body.with("env.GREETING", "hello")).await;
        let log = String::from_utf8(world.log(task.id).await).expect("text");
        let value = |name: &str| log.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).map(str::to_owned);
        let attempt = &task.attempts.as_ref().expect("attempts")[0];
        assert_eq!(value("GREETING").as_deref(), Some("hello"));
        assert_eq!(value("UNIDESK_TASK_ID"), Some(task.id.to_string()), "{log}");
        assert_eq!(value("UNIDESK_ATTEMPT_ID"), Some(attempt.id.to_string()), "{log}");
        assert_eq!(value("UNIDESK_ATTEMPT").as_deref(), Some("1"), "{log}");
        assert_eq!(value("UNIDESK_FENCE"), Some(attempt.fence.to_string()), "{log}");
        let platforms_own: Vec<&str> =
            log.lines().filter(|line| line.contains("TOKEN") || line.contains("ud_")).collect();
        assert_eq!(platforms_own, Vec::<&str>::new());
    }
    world.finish().await;
}
