//! The main case: a pinned commit, in an environment that a pinned Dockerfile describes, run in Docker on a node.

use crate::world::{World, docker};
use domain::{outcome::FailureKind, task::TaskState};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_commit_runs_in_its_environment_and_leaves_nothing_behind() {
    let world = World::start().await;
    let line = "cat greeting.txt /made; printf 'no \\000 text \\377\\r'; echo oops >&2; exit 7";
    let cold = world.run(&world.container(line).named("cold")).await;

    // How it ended, and each byte that it wrote.
    assert_eq!((cold.state, cold.exit_code), (TaskState::Failed, Some(7)));
    assert_eq!(cold.outcome.as_deref(), Some(FailureKind::ExitNonzero.as_str()));
    assert_eq!(String::from_utf8_lossy(&world.log(cold.id).await).matches("oops\n").count(), 1);
    let stdout = crate::world::log(&world.client, cold.id, Some("stdout")).await;
    assert_eq!(stdout, b"hello from the commit\nmade\nno \0 text \xff\r");
    assert!(cold.log.complete);
    let build = world.log_of(cold.id, "build").await;
    assert_eq!(cold.log.bytes, (stdout.len() + "oops\n".len() + build.len()) as u64);
    let prepared = world.log_of(cold.id, "system,build").await;
    assert!(prepared.contains("RUN echo made > /made"), "{prepared}");

    // What exactly ran, years later: commits, their trees, the Dockerfile, the image.
    let repositories = &world.repositories;
    let recorded = provenance(&cold);
    let text = |pointer: &str| recorded.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert_eq!(text("/code/commit"), repositories.code_commit);
    assert_eq!(text("/code/tree"), tree_of(&repositories.code, &repositories.code_commit));
    assert_eq!(text("/code/ref"), "refs/heads/main");
    assert_eq!(text("/environment/commit"), repositories.environment_commit);
    assert_eq!(text("/environment/tree"), tree_of(&repositories.environment, &repositories.environment_commit));
    assert_eq!(text("/environment/dockerfile_sha256").len(), 64);
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", &text("/image/tag")]), [text("/image/id")]);
    assert!(recorded.pointer("/image/bases/unidesk-test~1busybox:latest").is_some(), "{recorded}");
    let image = cold.image.as_ref().expect("an image");
    assert_eq!((image.warm, image.digest.as_deref()), (false, Some(text("/image/id").as_str())));

    // The second one has nothing to fetch and nothing to build.
    let traffic = world.repositories.host.traffic();
    let warm = world.run(&world.container("cat /made").named("warm")).await;
    assert_eq!(warm.state, TaskState::Succeeded);
    assert!(warm.image.as_ref().expect("an image").warm);
    assert_eq!(world.repositories.host.traffic(), traffic, "the second task went to the Git server");
    assert_eq!(world.log_of(warm.id, "build").await, "");
    world.finish().await;
}

fn provenance(task: &api_types::task::Task) -> Value {
    let attempts = task.attempts.as_ref().expect("a task shown alone has its attempts");
    attempts.last().and_then(|attempt| attempt.provenance.clone()).expect("what ran is recorded")
}

fn tree_of(repository: &test_kit::git_host::HostedRepository, commit: &str) -> String {
    let output = std::process::Command::new("git")
        .current_dir(repository.path())
        .args(["rev-parse", &format!("{commit}^{{tree}}")])
        .output();
    String::from_utf8(output.expect("git runs").stdout).expect("an id").trim().to_owned()
}
