use super::*;
use provider_gateway::source::{Credential, Secret};
use std::fs;

const TOKEN: &str = "tok-5f1d0c77e2";

fn with_credential(secret: Secret) -> Scene {
    let mut scene = Scene::new();
    scene.host.behave(|host| host.basic_auth = Some(("x-access-token".into(), TOKEN.into())));
    scene.policy.credentials.insert("127.0.0.1".into(), Credential { username: "x-access-token".into(), secret });
    scene
}

fn token_file(scene: &Scene, token: &str) -> Secret {
    let path = scene.dir.path().join("token");
    fs::write(&path, format!("{token}\n")).expect("written");
    Secret::TokenFile(path)
}

fn give(scene: &mut Scene, token: &str) {
    let secret = token_file(scene, token);
    scene.policy.credentials.insert("127.0.0.1".into(), Credential { username: "x-access-token".into(), secret });
}

#[tokio::test]
async fn a_token_file_opens_a_private_repository_and_is_seen_in_no_command_line() {
    let mut scene = with_credential(Secret::Helper("false".into()));
    give(&mut scene, TOKEN);
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let wanted = pinned(code.url(), &commit);

    let mut seen = 0;
    let mut fetching = std::pin::pin!(scene.ensure(&wanted));
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetching => break fetched,
            () = tokio::time::sleep(Duration::from_millis(1)) => {
                seen += command_lines_with(&code.url()["http://".len()..]).len();
                assert_eq!(command_lines_with(TOKEN), Vec::<String>::new());
            }
        }
    };
    assert_eq!(file(&fetched.expect("the token opens it"), "a").await, "1");
    assert!(seen > 0, "git's command lines were looked at");
    let config = fs::read_to_string(scene.repository().join("config")).expect("a config");
    assert!(!config.contains(TOKEN));
}

#[tokio::test]
async fn a_helper_command_works_as_well() {
    // Not the token of the other tests: this one does stand in a command line, its owner's.
    let scene = with_credential(Secret::Helper("printf '%s\\n' 'another-77ab'; echo ignored".into()));
    scene.host.behave(|host| host.basic_auth = Some(("x-access-token".into(), "another-77ab".into())));
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    scene.ensure(&pinned(code.url(), &commit)).await.expect("the helper's token opens it");
}

#[tokio::test]
async fn without_a_credential_the_owner_is_told_what_is_missing() {
    let mut scene = with_credential(Secret::Helper("true".into()));
    scene.policy.credentials.clear();
    let commit = scene.host.repository("code").commit(&[("a", "1".into())], "one");
    let (kind, message) = scene.failure(&pinned(&scene.host.url("code"), &commit)).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @"code repository http://127.0.0.1:PORT/code.git needs credentials, and this node has none for 127.0.0.1: ask the node's owner to add one");
}

#[tokio::test]
async fn a_stale_token_is_this_nodes_fault_and_is_not_repeated_to_the_user() {
    let mut scene = with_credential(Secret::Helper("true".into()));
    give(&mut scene, "old-9e81aa0c");
    let commit = scene.host.repository("code").commit(&[("a", "1".into())], "one");
    let (kind, message) = scene.failure(&pinned(&scene.host.url("code"), &commit)).await;
    assert_eq!(kind, FailureKind::NodeError);
    insta::assert_snapshot!(message, @"127.0.0.1 does not accept this node's credential for it, so code repository http://127.0.0.1:PORT/code.git was not fetched: the node's owner has to renew it");
    assert_eq!(scene.host.authorizations().len(), 1, "it was tried once");
}

#[tokio::test]
async fn a_missing_token_file_is_named_before_anything_is_asked() {
    let scene = with_credential(Secret::TokenFile("/nonexistent/token".into()));
    let (kind, message) = scene.failure(&pinned(&scene.host.url("code"), &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::NodeError);
    insta::assert_snapshot!(message, @"this node's credential for 127.0.0.1 can't be read: No such file or directory (os error 2)");
    assert_eq!(scene.host.traffic().requests, 0);
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_token_to_another_host() {
    let mut scene = with_credential(Secret::Helper("true".into()));
    give(&mut scene, TOKEN);
    let thief = GitHost::start();
    thief.behave(|host| host.basic_auth = Some(("x-access-token".into(), "anything".into())));
    // Another port is another origin, and "localhost" another name.
    for base in [format!("http://{}", thief.address()), format!("http://localhost:{}", thief.address().port())] {
        scene.host.behave(|host| {
            host.basic_auth = None;
            host.redirects_to = Some(base);
        });
        let (kind, message) = scene.failure(&pinned(&scene.host.url("code"), &"1".repeat(40))).await;
        assert_eq!(kind, FailureKind::NodeError, "{message}");
    }
    assert!(thief.traffic().requests > 0, "the redirect was followed");
    assert_eq!(thief.authorizations(), Vec::<String>::new());
}
