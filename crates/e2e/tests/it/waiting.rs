//! A task that waits says why, and what would help.

use crate::{
    story::{self, Stories},
    task::Body,
    world::World,
};
use domain::task::TaskState;
use serde_json::json;
use std::fmt::Write;

#[tokio::test(flavor = "multi_thread")]
async fn what_no_node_can_run_waits_and_says_so_from_the_first_answer_on() {
    let world = World::start_with("cpus = 2\nmemory = \"4GiB\"\ndisk = \"10GiB\"\n").await;
    let process = || Body::process("true");
    let cases = [
        ("more CPUs than any node has", process().with("requirements.cpu_cores", 64)),
        ("more memory than any node has", process().with("requirements.memory", "1TiB")),
        ("a GPU", process().with("requirements.gpus", 1)),
        ("another architecture", process().with("requirements.arch", "riscv64")),
        ("a node that does not exist", process().with("requirements.node", "mars")),
        ("an executor that no node has", Body(json!({ "executor": "quantum", "payload": {} }))),
    ];
    let mut stories = Stories::default();
    let mut waiting = Vec::new();
    for (title, body) in cases {
        let submitted = world.submit(&body.named("waiting")).await;
        assert_eq!(submitted.state, TaskState::Pending);
        let mut story = String::new();
        for warning in &submitted.warnings {
            let hint = warning.hint.as_ref().map_or_else(String::new, |hint| format!("\n  try: {hint}"));
            let _ = writeln!(story, "warning: {}{hint}", warning.detail);
        }
        story += &story::of_why(&world.why(submitted.id).await);
        stories.tell(title, &story);
        waiting.push(submitted.id);
    }
    let late = world.run(&process().with("requirements.cpu_cores", 64).with("queue_timeout", "1s").named("late")).await;
    stories.tell("longer than it may wait", &world.story(&late).await);

    // What fits runs meanwhile, and those still wait.
    let fits = world.run(&process()).await;
    assert_eq!(fits.state, TaskState::Succeeded);
    for id in waiting {
        assert_eq!(world.client.task(id).await.expect("a task").state, TaskState::Pending);
        world.client.cancel(id).await.expect("it may be cancelled");
        assert_eq!(world.ended(id).await.state, TaskState::Cancelled);
    }
    stories.assert("waiting_for_ever");
    world.finish().await;
}
