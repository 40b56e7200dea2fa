//! What a user may get wrong: refused at once where it can be seen, else said by the node in words that help.

use crate::{
    story::{self, Stories},
    task::Body,
    world::World,
};
use serde_json::json;
use test_kit::git_host::Content;

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_seen_to_be_wrong_is_refused_before_a_task_exists() {
    let world = World::start().await;
    let good = world.container("true");
    let commit = world.repositories.code_commit.clone();
    let mut missing = good.clone();
    missing.0["source"].as_object_mut().expect("an object").retain(|name, _| name == "code_repo_url");
    let cases = [
        ("an abbreviated commit", good.clone().with("source.code_commit_id", &commit[..8])),
        ("a branch", good.clone().with("source.code_commit_id", "main")),
        ("a Dockerfile outside of the repository", good.clone().with("source.dockerfile_path", "../../etc/passwd")),
        ("an absolute path of the Dockerfile", good.clone().with("source.dockerfile_path", "/etc/passwd")),
        ("a path of this machine for a repository", good.clone().with("source.code_repo_url", "file:///etc")),
        (
            "a password in the address",
            good.clone().with("source.code_repo_url", "https://ana:secret@git.example/code.git"),
        ),
        ("only one of the five", missing),
        ("a process without a command", Body::process("").with("command", "")),
        (
            "several at once",
            good.clone()
                .with("source.code_commit_id", "v1.0")
                .with("timeout", "soon")
                .with("requirements.memory", "much"),
        ),
    ];
    let mut stories = Stories::default();
    for (title, body) in cases {
        let refusal = story::problem_of(world.client.submit(&body.0, None).await);
        stories.tell(title, &story::of_problem(&refusal));
    }
    stories.assert("refused_at_submission");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_ends_the_task_with_what_is_missing() {
    let world = World::start().await;
    let good = world.container("true").with("retry", json!({ "max_infra_retries": 1 }));
    let environment = &world.repositories.environment;
    let image = test_kit::docker::busybox().await;
    let dockerfile = format!("FROM {image}\n");
    let odd = environment.commit(
        &[
            ("docker/app/Dockerfile", dockerfile.as_str().into()),
            ("dangling", Content::Symlink("docker/none".into())),
            ("module", Content::Submodule("a".repeat(40))),
        ],
        "Odd paths",
    );
    let leaving = [("run.sh", "true".into()), ("data", Content::Symlink("/etc".into()))];
    let code_that_leaves = world.repositories.code.commit(&leaving, "A link out");
    let process = Body::process("true")
        .with("source", json!({ "code_repo_url": world.repositories.code.url(), "code_commit_id": code_that_leaves }))
        .with("retry", json!({ "max_infra_retries": 1 }));
    let at = |path: &str| good.clone().with("source.env_commit_id", odd.as_str()).with("source.dockerfile_path", path);
    let leaving =
        environment.commit(&[("Dockerfile", Content::Symlink("../../../../etc/passwd".into()))], "A link out");
    let nobody = {
        // A port that was free a moment ago: nobody listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}/code.git", listener.local_addr().expect("an address"))
    };
    let cases = [
        (
            "a repository that does not exist",
            good.clone().with("source.code_repo_url", world.repositories.host.url("no-such")),
        ),
        // A process: a container's image would be built beside it, and now and then be quicker.
        ("a Git server that is not there", process.clone().with("source.code_repo_url", nobody)),
        (
            "a commit that does not exist",
            good.clone().with("source.code_commit_id", "0123456789abcdef0123456789abcdef01234567"),
        ),
        (
            "an environment's commit that does not exist",
            good.clone().with("source.env_commit_id", "0123456789abcdef0123456789abcdef01234567"),
        ),
        ("a Dockerfile that is missing", at("docker/Dockerfile")),
        ("a Dockerfile that is a directory", at("docker/app")),
        ("a Dockerfile that links out of the repository", good.clone().with("source.env_commit_id", leaving)),
        ("a Dockerfile that links to nothing", at("dangling")),
        ("a Dockerfile that is a submodule", at("module")),
        ("code with a link out of its tree", good.clone().with("source.code_commit_id", code_that_leaves.as_str())),
        ("code with a link out of its tree, for a process", process),
        (
            "http to a host that the owner does not list",
            good.clone().with("source.code_repo_url", "http://git.example/code.git"),
        ),
    ];
    world.tell_ends(&cases).await.assert("source_not_there");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_checkout_leaves_out_is_named_once_in_the_log() {
    let world = World::start().await;
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let files = [("big.bin", pointer.into()), ("third_party/lib", Content::Submodule("1234abcd".repeat(5)))];
    let commit = world.repositories.code.commit(&files, "Not all is here");
    let source = json!({ "code_repo_url": world.repositories.code.url(), "code_commit_id": commit });
    let bodies = [
        world.container("true").with("source.code_commit_id", commit.as_str()),
        Body::process("true").with("source", source),
    ];
    for body in bodies {
        let task = world.run(&body).await;
        let said = world.log_of(task.id, "system").await;
        for left_out in [
            "submodule third_party/lib (at 1234abcd) is not fetched",
            "big.bin is a Git LFS pointer (12 KiB), not the file",
        ] {
            assert_eq!(said.matches(left_out).count(), 1, "{left_out:?} in:\n{said}");
        }
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_build_shows_the_step_and_its_last_words() {
    let world = World::start().await;
    let good = world.container("true").with("retry", json!({ "max_infra_retries": 1 }));
    let image = test_kit::docker::busybox().await;
    let commit =
        |dockerfile: &str| world.repositories.environment.commit(&[("Dockerfile", dockerfile.into())], "Broken");
    let at = |dockerfile: String| good.clone().with("source.env_commit_id", commit(&dockerfile));
    let cases = [
        ("a step that fails", at(format!("FROM {image}\nRUN true\nRUN echo no compiler here >&2; exit 9\n"))),
        ("a line that is no instruction", at(format!("FROM {image}\nINSTALL everything\n"))),
        ("a file that is not in the repository", at(format!("FROM {image}\nCOPY requirements.txt /\n"))),
        ("an empty Dockerfile", at(String::new())),
        ("a base image that nobody has", at("FROM 127.0.0.1:9/no-such-image:1\n".to_owned())),
    ];
    world.tell_ends(&cases).await.assert("build_fails");
    world.finish().await;
}
